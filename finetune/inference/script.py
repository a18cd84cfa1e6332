"""Conversion between scripts with OpenCC, which script a text is in, an encoder that converts."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.errors import UserError
from finetune.inference.encoder import Encoder, check_texts
from finetune.script import KEEP

Convert = Callable[[str], str]

FILE = "finetune.json"  # of a model folder
# Code points of Chinese characters; the last are doubles of others, which OpenCC turns into those.
_HAN = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0x20000, 0x323B0))
HAN = (*_HAN, (0xF900, 0xFB00))


@cache
def converter(way: str) -> Convert:
    """Return one of OpenCC's conversions (``t2s``); ``keep`` leaves texts as they are.

    Raises:
        UserError: The package opencc is not installed.
    """
    if way == KEEP:
        return lambda text: text
    try:
        from opencc import OpenCC
    except ImportError as error:
        raise UserError(
            f"script {way}: needs the package opencc, which converts between Simplified and "
            "Traditional Chinese: pip install opencc"
        ) from error
    convert: Convert = OpenCC(way).convert
    return convert


def is_han(char: str) -> bool:
    """True for a Chinese character."""
    return any(start <= ord(char) < end for start, end in HAN)


@cache
def han() -> str:
    """All Chinese characters but the doubles."""
    return "".join(chr(code) for start, end in _HAN for code in range(start, end))


@cache
def one_script_only() -> tuple[frozenset[str], frozenset[str]]:
    """Characters that only Simplified, and that only Traditional text has.

    OpenCC changes them, and the other script's character set (Big5, GB 2312) lacks them: 后 and 里
    are changed to 後 and 裡, but Traditional has words for them too.
    """

    def changed(way: str, other: str) -> frozenset[str]:
        pairs = zip(han(), characters_in(way), strict=True)
        return frozenset(a for a, b in pairs if a != b and not encodes(other, a))

    return changed("s2t", "big5"), changed("t2s", "gb2312")


def characters_in(way: str) -> list[str]:
    """What a conversion makes of each of `han` by itself."""
    return converter(way)("\n".join(han())).split("\n")


def encodes(encoding: str, char: str) -> bool:
    """True where a character set has the character."""
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def script_of(*texts: str) -> str:
    """Say whether texts are ``simplified``, ``traditional``, or "" where they read as both.

    By which are more: characters of Simplified alone, or of Traditional alone.
    """
    simplified, traditional = one_script_only()
    more = sum((char in traditional) - (char in simplified) for text in texts for char in text)
    return "traditional" if more > 0 else "simplified" if more else ""


def is_traditional(*texts: str) -> bool:
    """Say whether more characters are of Traditional Chinese alone than of Simplified alone."""
    return script_of(*texts) == "traditional"


def write_script(folder: Path, way: str) -> None:
    """Note in a model folder how texts are converted before they are encoded; ``keep`` needs none.

    sentence-transformers does not read the note; finetune does, where it evaluates the folder.
    """
    if way == KEEP:
        (folder / FILE).unlink(missing_ok=True)
    else:
        (folder / FILE).write_text(json.dumps({"script": way}) + "\n", encoding="utf-8")


def read_script(folder: Path) -> str:
    """The conversion that a model folder notes, or ``keep``."""
    path = folder / FILE
    return str(json.loads(path.read_text(encoding="utf-8"))["script"]) if path.is_file() else KEEP


def converted(encoder: Encoder, way: str) -> Encoder:
    """Return the encoder, or one that first converts what it is given."""
    return encoder if way == KEEP else _Converted(encoder, converter(way))


class _Converted:
    """Encodes texts in another script than they are given in."""

    def __init__(self, encoder: Encoder, convert: Convert) -> None:
        self._encoder = encoder
        self._convert = convert

    @property
    def dim(self) -> int:
        return self._encoder.dim

    def encode(
        self,
        texts: Sequence[str],
        prompt: str = "passage",
        *,
        progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        check_texts(texts)
        return self._encoder.encode(list(map(self._convert, texts)), prompt, progress=progress)
