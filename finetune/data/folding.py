"""Forms in which texts are compared: as they are, without punctuation, in whichever script.

Script is folded character by character, not converted: each character stands for all those that
OpenCC's tables link it to (发 髮 發; 里 裡 裏). A conversion would not do, since not every round
trip returns (乾 becomes 干, and may come back as 幹); words that the regions call by other names
stay different. For comparison only: nothing folded is ever kept.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from finetune.config.choices import Duplicates
from finetune.data.clean import comparable

_HAN = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0x20000, 0x323B0))
_TO_TRADITIONAL = ("s2t", "s2tw", "s2hk")
_TO_SIMPLIFIED = ("t2s", "tw2s", "hk2s")
# Exchanged within certain words only (想象 想像, 了解 瞭解, 家具 傢俱): what OpenCC's conversions
# of 400,000 Chinese texts and 500,000 words made beyond its tables of characters.
_WITHIN_WORDS = (
    "了瞭 具俱 象像 复覆 背揹 坐座 借藉 夫伕 沉沈 链炼 苏甦 仿彷 熏薰 拿拏 澄澂 画㓰 浚濬 宁甯 "
    "琅瑯 檗蘗 枪鎗 焰燄"
)


def folded(text: str) -> str:
    """The comparable form, in whichever script the text is."""
    return comparable(text).translate(_folds())


KEYS: Mapping[Duplicates, Callable[[str], str]] = {
    Duplicates.exact: lambda text: text,
    Duplicates.punctuation: comparable,
    Duplicates.script: folded,
}  # fmt: skip


def alike(first: Sequence[str], second: Sequence[str]) -> Duplicates:
    """Say in which form, the strictest, each text of the first equals its text of the second."""
    for kind, key in KEYS.items():
        if list(map(key, first)) == list(map(key, second)):
            return kind
    return Duplicates.none


@cache
def one_script_only() -> tuple[frozenset[str], frozenset[str]]:
    """Characters that only Simplified, and that only Traditional text has.

    OpenCC changes them, and the other script's character set (Big5, GB 2312) lacks them: 后 and 里
    are changed to 後 and 裡, but Traditional has words for them too.
    """
    han, there, back = _han(), _converted(_TO_TRADITIONAL[:1])[0], _converted(_TO_SIMPLIFIED[:1])[0]
    return (
        frozenset(a for a, b in zip(han, there, strict=True) if a != b and not _in(a, "big5")),
        frozenset(a for a, b in zip(han, back, strict=True) if a != b and not _in(a, "gb2312")),
    )


@cache
def _folds() -> dict[int, str]:
    """The representative of each character that OpenCC links to others: a common Simplified one."""
    parent: dict[str, str] = {}

    def root(char: str) -> str:
        while parent.setdefault(char, char) != char:
            char = parent[char]
        return char

    links = [tuple(pair) for pair in _WITHIN_WORDS.split()]
    for converted in _converted(_TO_TRADITIONAL + _TO_SIMPLIFIED):
        links += [pair for pair in zip(_han(), converted, strict=True) if pair[0] != pair[1]]
    for a, b in links:
        kept, other = sorted((root(a), root(b)), key=lambda char: (not _in(char, "gb2312"), char))
        parent[other] = kept
    return {ord(char): root(char) for char in parent if root(char) != char}


@cache
def _han() -> list[str]:
    return [chr(code) for start, end in _HAN for code in range(start, end)]


def _converted(names: Sequence[str]) -> list[list[str]]:
    from opencc import OpenCC

    return [OpenCC(name).convert("\n".join(_han())).split("\n") for name in names]


def _in(char: str, encoding: str) -> bool:
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
