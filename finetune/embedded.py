"""What the embed step keeps: unit vectors of training queries and of the passages to search.

Texts and vectors stay on disk, written and read in parts.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from finetune.disk import Lookup, distinct, numbers, texts
from finetune.inference import Encoder
from finetune.inference.onnx import CHUNK
from finetune.inference.vectors import header
from finetune.mining import Picked, Pool
from finetune.progress import bar
from finetune.records import write_jsonl

# Texts whose vectors are in memory at once: whole chunks of the encoders, so that every text shares
# its batch with the same others, and enough for several processes to share.
PART = 16 * CHUNK


def embed(name: str, given: Iterable[str], encoder: Encoder, prompt: str, out: Path) -> None:
    """Write the distinct texts as ``<name>.jsonl``, and their vectors as `numpy.save` would."""
    write_jsonl(out / f"{name}.jsonl", ({"text": text} for text in distinct(given)))
    kept = texts(out / f"{name}.jsonl")
    with bar(f"embed {name}", len(kept)) as progress, (out / f"{name}.npy").open("wb") as file:
        file.write(header(len(kept), encoder.dim, np.float32))
        for start in range(0, len(kept), PART):
            part = kept[start : start + PART]
            file.write(encoder.encode(part, prompt, progress=progress).data)


def vectors_of(folder: Path, queries: Iterable[str]) -> tuple[Picked, Pool]:
    """Read the vectors of some queries, and the pool.

    Args:
        folder: Of the embed step.
        queries: Texts, all among those that it encoded.

    Returns:
        The vectors in the order of ``queries``, and the pool.
    """
    rows = Lookup(numbers(texts(folder / "queries.jsonl"))).first(numbers(queries))
    vectors = np.load(folder / "queries.npy", mmap_mode="r")
    pool = Pool(texts(folder / "pool.jsonl"), np.load(folder / "pool.npy", mmap_mode="r"))
    return Picked(vectors, rows), pool
