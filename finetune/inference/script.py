"""Conversion between scripts with OpenCC, and an encoder that converts what it is given."""

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
