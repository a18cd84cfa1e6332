"""What is in texts: scripts and languages, remains of HTML, lengths. Counts only, no judgement."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from finetune.inference.batches import chunks
from finetune.inference.script import HAN, one_script_only

_CHUNK = 20_000  # texts at a time
_HTML = re.compile(
    r"</?(?:a|b|br|div|em|font|h[1-6]|hr|i|img|input|li|ol|p|pre|script|span|strong|style|sub|sup|"
    r"table|tbody|td|th|tr|u|ul)(?:\s[^<>]*)?/?>|<!--|&(?:nbsp|lt|gt|amp|quot|#\d+|#x[0-9a-f]+);",
    re.IGNORECASE,
)

# What Windows reads the bytes of a character's rest in UTF-8 as, and what Latin-1 does.
_REST = "".join(sorted(
    {chr(byte) for byte in range(0x80, 0xC0)}
    | {bytes([byte]).decode("cp1252", "ignore") for byte in range(0x80, 0xC0)}
))  # fmt: skip
# A rest that could not be read; what reading that as GBK makes; memory that nobody wrote to; two
# Chinese characters read as six of Latin-1.
_BROKEN = re.compile(
    rf"\ufffd|锟斤拷|烫烫烫|屯屯屯|[\xe3-\xe9\xef][{re.escape(_REST)}]{{2}}"
    rf".*?[\xe3-\xe9\xef][{re.escape(_REST)}]{{2}}",
    re.DOTALL,
)
# One of these is in all of them. The last, of ，。的一是, are in most UTF-8 that was read as GBK.
_SUSPECT = re.compile("[\ufffd锟烫屯\xe3-\xe9\xef锛銆鐨涓鏄]")
# GB18030 that was read as Latin-1: two characters for each Chinese one, and ASCII.
_PAIRED = re.compile("(?:[\x00-\x7f]|[\xa1-\xfe]{2})+")
_COMMON_HAN = re.compile("[\u4e00-\u9fff]")
_READ_AS_GBK = 0.25  # characters of Chinese for each of the text; of other texts there are none
_FEW_WORDS = 8  # letters; with no more a text has a name in it, and is in no language

_PLANES = 0x30000  # no character beyond is one of compatibility
# The space, the ellipsis, the yen sign and the punctuation of ASCII as Chinese has them.
_ORDINARY = frozenset("\u3000…￥" + "".join(
    chr(0xFEE0 + code) for code in range(0x21, 0x7F) if not chr(code).isalnum()
))  # fmt: skip


class Kind(IntEnum):
    """What a character is; white space, punctuation, digits and all others are ``other``."""

    other = 0
    han = 1  # in both scripts
    simplified = 2  # in Simplified text only
    traditional = 3
    kana = 4
    hangul = 5
    latin = 6


@dataclass(frozen=True)
class Counts:
    """Characters of ``n`` texts by kind, ``[n, kinds]``."""

    by_kind: NDArray[np.int64]

    def of(self, *kinds: Kind) -> NDArray[np.int64]:
        """Characters of these kinds, ``[n]``."""
        return self.by_kind[:, list(kinds)].sum(axis=1)

    @property
    def length(self) -> NDArray[np.int64]:
        """All characters, ``[n]``."""
        return self.by_kind.sum(axis=1)

    @property
    def simplified(self) -> NDArray[np.bool_]:
        """Texts with characters of Simplified Chinese, and none of Traditional."""
        return (self.of(Kind.simplified) > 0) & (self.of(Kind.traditional) == 0)

    @property
    def traditional(self) -> NDArray[np.bool_]:
        """Texts with characters of Traditional Chinese, and none of Simplified."""
        return (self.of(Kind.traditional) > 0) & (self.of(Kind.simplified) == 0)

    @property
    def mixed(self) -> NDArray[np.bool_]:
        """Texts with characters of both."""
        return (self.of(Kind.traditional) > 0) & (self.of(Kind.simplified) > 0)

    @property
    def english(self) -> NDArray[np.bool_]:
        """Texts of Latin words, with more than three letters for each other one: most, in words."""
        latin = self.of(Kind.latin)
        others = self.by_kind[:, Kind.han :].sum(axis=1) - latin
        return (latin > _FEW_WORDS) & (latin > 3 * others)


def has_html(text: str) -> bool:
    """True for a text with a tag or an entity left in it; ``<合同法>`` is a title."""
    return ("<" in text or "&" in text) and _HTML.search(text) is not None


def is_broken(text: str) -> bool:
    """True for a text that was read in another encoding than it was written in.

    It holds what stands for bytes that could not be read (U+FFFD, 锟斤拷, 烫烫烫), or is UTF-8 that
    was read as Latin-1 (æŠ¼é‡‘ for 押金) or, but for some short texts, GBK (鎶奸噾), or is GB18030
    that was read as Latin-1 (Ñº½ð).
    """
    if not text.isascii() and _PAIRED.fullmatch(text):
        meant = text.encode("latin-1").decode("gb18030", "ignore")
        if len(_COMMON_HAN.findall(meant)) > 1:
            return True
    if _SUSPECT.search(text) is None:
        return False
    if _BROKEN.search(text):
        return True
    meant = text.encode("gb18030").decode("utf-8", "ignore")
    return len(_COMMON_HAN.findall(meant)) > _READ_AS_GBK * len(text)


def compatible(text: str) -> dict[str, str]:
    """The compatibility characters of a text, in order, each with what NFKC makes of it.

    As ① and ㎡, letters and digits in full width, kana in half width, ideographs that double
    others. Punctuation in full width is ordinary in Chinese, and none.
    """
    found = (char for char in text if ord(char) < _PLANES and _compatible()[ord(char)])
    return {char: unicodedata.normalize("NFKC", char) for char in found}


def with_compatible(texts: Sequence[str]) -> list[int]:
    """Indices of the texts that hold compatibility characters."""
    found: list[int] = []
    for number, chunk in enumerate(chunks(texts, _CHUNK)):
        places = np.flatnonzero(_looked_up(chunk, _compatible()))
        ends = np.cumsum([len(text) for text in chunk])
        rows = np.unique(np.searchsorted(ends, places, side="right"))
        found += (number * _CHUNK + rows).tolist()
    return found


def count(texts: Iterable[str]) -> Counts:
    """Count the characters of each text by kind."""
    rows = [_count(chunk) for chunk in chunks(texts, _CHUNK)]
    return Counts(np.concatenate(rows) if rows else np.zeros((0, len(Kind)), dtype=np.int64))


def _count(texts: Sequence[str]) -> NDArray[np.int64]:
    kinds = _looked_up(texts, _kinds())
    row = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    width = len(Kind)
    return np.bincount(row * width + kinds, minlength=len(texts) * width).reshape(-1, width)


def _looked_up(texts: Sequence[str], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What a table says of all characters in a row."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
    return table[np.minimum(codes, len(table) - 1)]


@cache
def _compatible() -> NDArray[np.uint8]:
    """1 for each code point that NFKC changes, but for those that Chinese is written with."""
    return np.array([
        char not in _ORDINARY and unicodedata.normalize("NFKC", char) != char
        for char in map(chr, range(_PLANES))
    ], dtype=np.uint8)  # fmt: skip


@cache
def _kinds() -> NDArray[np.uint8]:
    """The kind of each code point; the last stands for all beyond."""
    table = np.zeros(0x32400, dtype=np.uint8)
    for start, end, kind in (
        *((*each, Kind.han) for each in HAN),
        (0x3041, 0x30FB, Kind.kana), (0x30FC, 0x3100, Kind.kana),
        (0xFF66, 0xFFA0, Kind.kana), (0xAC00, 0xD7A4, Kind.hangul), (0x1100, 0x1200, Kind.hangul),
        (0x3130, 0x3190, Kind.hangul), (0x41, 0x5B, Kind.latin), (0x61, 0x7B, Kind.latin),
        (0xC0, 0x250, Kind.latin), (0xFF21, 0xFF3B, Kind.latin), (0xFF41, 0xFF5B, Kind.latin),
    ):  # fmt: skip
        table[start:end] = kind
    simplified, traditional = one_script_only()
    table[[ord(char) for char in simplified]] = Kind.simplified
    table[[ord(char) for char in traditional]] = Kind.traditional
    return table
