"""Long documents in pieces: a document is as near to a query as its nearest piece.

A model reads the first tokens of a text alone. Cut into pieces that it reads whole, a long document
costs more vectors and can be found by what it says further down.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.retrieval import DEPTH, Ranking, ranking
from finetune.inference import Encoder
from finetune.sets import EvaluationSet

SIZE = 400  # characters: 512 tokens hold them in Chinese and in English
OVERLAP = 50
_BLOCK = 64  # queries whose scores with all pieces are held at once


def pieces(text: str, size: int = SIZE, overlap: int = OVERLAP) -> list[str]:
    """Cut a text into pieces of at most ``size`` characters, each with the last ``overlap``."""
    starts = range(0, max(1, len(text) - overlap), size - overlap)
    return [text[start : start + size] for start in starts]


def rank(
    encoder: Encoder,
    evaluation_set: EvaluationSet,
    *,
    progress: Callable[[int], None] | None = None,
) -> Ranking:
    """Rank the corpus for each query by the cosine of each document's nearest piece."""
    cut = [pieces(text) for text in evaluation_set.corpus.values()]
    starts = np.cumsum([0, *(len(each) for each in cut[:-1])])
    queries = encoder.encode(list(evaluation_set.queries.values()), "query", progress=progress)
    vectors = encoder.encode([piece for each in cut for piece in each], progress=progress)
    names, ids = tuple(evaluation_set.queries), tuple(evaluation_set.corpus)
    blocks = list(_best(queries, vectors, starts))
    scores = np.concatenate([values for values, _ in blocks])
    return ranking(names, ids, scores, np.concatenate([indices for _, indices in blocks]))


def _best(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], starts: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Yield, for a block of queries, the scores and rows of the nearest documents."""
    for start in range(0, len(queries), _BLOCK):
        nearest = np.maximum.reduceat(queries[start : start + _BLOCK] @ vectors.T, starts, axis=1)
        order = np.argsort(-nearest, axis=1, kind="stable")[:, :DEPTH]
        yield np.take_along_axis(nearest, order, axis=1), order
