"""Exact nearest neighbours by inner product, in bounded memory."""

import numpy as np
from numpy.typing import NDArray

from finetune.inference.vectors import as_float32

# Rows a block of scores has: 256 x 16384 floats are 16 MB, whatever the sizes of the inputs.
QUERY_BLOCK = 256
CORPUS_BLOCK = 16384
# Blocks of queries for which a block of the corpus is read once: a corpus on disk that memory does
# not hold is read once for 16,384 queries, and converted once.
QUERY_BLOCKS = 64

Top = tuple[NDArray[np.float32], NDArray[np.int64]]


def top_k(queries: NDArray[np.number], corpus: NDArray[np.number], k: int) -> Top:
    """Find the k corpus rows with the largest inner product for each query.

    Args:
        queries: ``[n, d]``; those of int8 are given length 1 (`finetune.inference.as_type`).
        corpus: ``[m, d]``, likewise; may be a memory map: it is read in blocks.
        k: How many to return, at least 1.

    Returns:
        Scores ``[n, min(k, m)]`` in falling order and the corpus indices they belong to. Equal
        scores are ordered by index, also where a tie decides what the k-th is.

    Raises:
        ValueError: Shapes do not fit, k is below 1, or a vector holds NaN.
    """
    _check(queries, corpus, k)
    k = min(k, len(corpus))
    scores = np.empty((len(queries), k), dtype=np.float32)
    indices = np.empty((len(queries), k), dtype=np.int64)
    if k:
        for start in range(0, len(queries), QUERY_BLOCKS * QUERY_BLOCK):
            rows = slice(start, start + QUERY_BLOCKS * QUERY_BLOCK)
            scores[rows], indices[rows] = _search_blocks(as_float32(queries[rows]), corpus, k)
    return scores, indices


def _check(queries: NDArray[np.number], corpus: NDArray[np.number], k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    if queries.ndim != 2 or corpus.ndim != 2 or queries.shape[1] != corpus.shape[1]:
        raise ValueError(
            f"queries are {queries.shape} and the corpus is {corpus.shape}; expected [n, d] and "
            "[m, d]: were both encoded with the same model?"
        )


def _search_blocks(queries: NDArray[np.float32], corpus: NDArray[np.number], k: int) -> Top:
    """Search blocks of queries; the best k so far of each are merged with each corpus block's."""
    blocks = [queries[row : row + QUERY_BLOCK] for row in range(0, len(queries), QUERY_BLOCK)]
    best: list[Top] = [
        (np.empty((len(block), 0), dtype=np.float32), np.empty((len(block), 0), dtype=np.int64))
        for block in blocks
    ]
    for start in range(0, len(corpus), CORPUS_BLOCK):
        passages = as_float32(corpus[start : start + CORPUS_BLOCK]).T
        for number, block in enumerate(blocks):
            scores = block @ passages
            if np.isnan(scores.max()):  # max propagates NaN and needs no second array
                raise ValueError(f"a vector is NaN (query, or corpus rows from {start})")
            rows, columns = np.nonzero(_candidates(scores, best[number][0], k))
            found = rows, scores[rows, columns], columns + start
            best[number] = _merge(best[number], *found, k)
    values, indices = zip(*best, strict=True)
    return np.concatenate(values), np.concatenate(indices)


def _candidates(
    scores: NDArray[np.float32], best: NDArray[np.float32], k: int
) -> NDArray[np.bool_]:
    """Mark what may enter the best k: at least k per row at first, few once good ones are known.

    Comparing with the k-th best so far costs a fraction of partitioning each block; a block that
    beats it in too many places (a corpus sorted by likeness) is partitioned all the same.
    """
    full = best.shape[1] == k
    if full:
        better = scores > best[:, -1:]  # equal ones come later in the corpus and lose
        if np.count_nonzero(better) <= 4 * k * len(scores):
            return better
    if scores.shape[1] <= k:
        return better if full else np.ones(scores.shape, dtype=np.bool_)
    kth = np.partition(scores, -k, axis=1)[:, -k, None]
    return better & (scores >= kth) if full else scores >= kth


def _merge(
    best: Top,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    indices: NDArray[np.int64],
    k: int,
) -> Top:
    """Merge candidates (one entry each: row, score, index) with the best so far ``[n, <=k]``."""
    n, known = best[0].shape
    rows = np.concatenate([np.repeat(np.arange(n), known), rows])
    scores = np.concatenate([best[0].ravel(), scores])
    indices = np.concatenate([best[1].ravel(), indices])
    order = np.lexsort((indices, -scores, rows))
    counts = np.bincount(rows, minlength=n)
    keep = min(k, int(counts.min()))
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    chosen = order[first[:, None] + np.arange(keep)]
    return scores[chosen], indices[chosen]
