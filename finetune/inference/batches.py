"""Batches of similar length under a token budget: the same for every encoder in the project."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Texts tokenised and sorted by length together. Bounds the memory that tokens take, whatever the
# input's size; more would save less than 1 % of padding. It decides which texts share a batch.
CHUNK = 8_192
# Tokens a batch may hold, padding included. Made for a CPU: much larger batches fall out of the L2
# cache, much smaller ones waste the GEMM.
TOKEN_BUDGET = 512
# On a GPU: 32 texts of 512 tokens, by memory (under a gigabyte for a base model); not measured.
GPU_TOKEN_BUDGET = 16_384


def token_budget_batches(
    lengths: NDArray[np.integer], budget: int = TOKEN_BUDGET
) -> Iterator[NDArray[np.int64]]:
    """Group texts so that rows x longest row stays within a budget.

    Longest first: memory is at its peak in the first batch, so what does not fit fails at once, and
    the remaining time is over- rather than underestimated. Equal lengths keep their order, so
    that the batches depend on the lengths only.

    Args:
        lengths: ``[n]``, tokens of each text.
        budget: Tokens a batch may hold, padding included. A longer text is a batch of its own.

    Yields:
        Indices into `lengths`, longest first; every index exactly once over all batches.

    Raises:
        ValueError: The budget is below 1.
    """
    if budget < 1:
        raise ValueError(f"the token budget is {budget}; expected at least 1")
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        rows = max(1, budget // longest)
        yield order[start : start + rows]
        start += rows


def chunks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield lists of so many texts; the last may be shorter."""
    rest = iter(texts)
    while chunk := list(islice(rest, size)):
        yield chunk


def tokenised(
    texts: Iterable[str], tokenizer: Any, window: int | None, budget: int
) -> Iterator[tuple[NDArray[np.int64], list[list[int]]]]:
    """Tokenise texts with a tokenizer of transformers, cut at a window, and batch them by chunks.

    Yields:
        The places of a batch's texts among all, and their token ids, longest first.
    """
    start = 0
    for chunk in chunks(texts, CHUNK):
        ids = tokenizer(chunk, truncation=True, max_length=window)["input_ids"]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        for batch in token_budget_batches(lengths, budget):
            yield start + batch, [ids[row] for row in batch]
        start += len(chunk)
