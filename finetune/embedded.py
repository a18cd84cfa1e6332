"""What the embed step keeps: unit vectors of training queries and of the passages to search."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.mining import Pool
from finetune.records import read_dicts


def vectors_of(folder: Path, queries: Sequence[str]) -> tuple[NDArray[np.float32], Pool]:
    """Read the vectors of some queries, and the pool.

    Args:
        folder: Of the embed step.
        queries: Texts, all among those that it encoded.

    Returns:
        ``[n, dim]`` in the order of ``queries``, and the pool.
    """
    row = {each["text"]: place for place, each in enumerate(read_dicts(folder / "queries.jsonl"))}
    vectors = np.load(folder / "queries.npy")[[row[text] for text in queries]]
    texts = [each["text"] for each in read_dicts(folder / "pool.jsonl")]
    return vectors, Pool(texts, np.load(folder / "pool.npy", mmap_mode="r"))
