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
from finetune.inference.script import characters_in, encodes, han

_WAYS = ("s2t", "s2tw", "s2hk", "t2s", "tw2s", "hk2s")
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
def _folds() -> dict[int, str]:
    """The representative of each character that OpenCC links to others: a common Simplified one."""
    parent: dict[str, str] = {}

    def root(char: str) -> str:
        while parent.setdefault(char, char) != char:
            char = parent[char]
        return char

    links = [tuple(pair) for pair in _WITHIN_WORDS.split()]
    for way in _WAYS:
        links += [(a, b) for a, b in zip(han(), characters_in(way), strict=True) if a != b]
    for a, b in links:
        kept, other = sorted((root(a), root(b)), key=lambda c: (not encodes("gb2312", c), c))
        parent[other] = kept
    return {ord(char): root(char) for char in parent if root(char) != char}
