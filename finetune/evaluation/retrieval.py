"""Rank a corpus for queries, and score the ranking.

Metrics per query, with relevance ``rel`` from the qrels and ``@k`` cutting the ranking:

- ``ndcg@10``: ``DCG / ideal DCG`` with ``DCG = sum(rel_i / log2(i + 1))`` over ranks i = 1..10
  (Järvelin & Kekäläinen 2002, linear gain as trec_eval).
- ``mrr@10``: 1 / rank of the first relevant document, 0 beyond rank 10.
- ``recall@100``: share of the relevant documents among the first 100.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.inference import Encoder, top_k
from finetune.records import EvaluationSet

METRICS = ("ndcg@10", "mrr@10", "recall@100")
DEPTH = 100


@dataclass(frozen=True)
class Ranking:
    """The first documents of each query: ids best first, and their scores ``[n, depth]``."""

    queries: tuple[str, ...]
    documents: tuple[tuple[str, ...], ...]
    scores: NDArray[np.float32]


def rank(
    encoder: Encoder,
    evaluation_set: EvaluationSet,
    *,
    corpus: NDArray[np.float32] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Ranking:
    """Rank the corpus for each query by cosine.

    Args:
        encoder: Any encoder.
        evaluation_set: Queries and corpus.
        corpus: The corpus' vectors ``[m, dim]`` where they are known already.
        progress: Called with the number of texts encoded.
    """
    queries = encoder.encode(list(evaluation_set.queries.values()), "query", progress=progress)
    if corpus is None:
        corpus = encoder.encode(list(evaluation_set.corpus.values()), progress=progress)
    scores, indices = top_k(queries, corpus, DEPTH)
    return ranking(tuple(evaluation_set.queries), tuple(evaluation_set.corpus), scores, indices)


def ranking(
    queries: Sequence[str],
    documents: Sequence[str],
    scores: NDArray[np.float32],
    indices: NDArray[np.integer],
) -> Ranking:
    """Make a ranking of ids from the row indices of a search."""
    rows = tuple(tuple(documents[i] for i in row) for row in indices.tolist())
    return Ranking(tuple(queries), rows, scores)


def score(
    ranking: Ranking, qrels: Mapping[str, Mapping[str, int]]
) -> dict[str, NDArray[np.float64]]:
    """Score each query that has at least one relevant document.

    Returns:
        For each of `METRICS` an array ``[n]``, in the order of `judged`.
    """
    rows = [
        _scores(documents, qrels[query])
        for query, documents in zip(ranking.queries, ranking.documents, strict=True)
        if judged(query, qrels)
    ]
    table = np.array(rows, np.float64).reshape(-1, len(METRICS))
    return {metric: table[:, column] for column, metric in enumerate(METRICS)}


def judged(query: str, qrels: Mapping[str, Mapping[str, int]]) -> bool:
    """True when the query has a relevant document."""
    return any(relevance > 0 for relevance in qrels.get(query, {}).values())


def _scores(documents: Sequence[str], relevance: Mapping[str, int]) -> tuple[float, float, float]:
    gains = np.array([max(0, relevance.get(document, 0)) for document in documents], np.float64)
    ideal = np.sort([r for r in relevance.values() if r > 0])[::-1]
    hits = np.flatnonzero(gains[:10])
    return (
        _dcg(gains[:10]) / _dcg(ideal[:10].astype(np.float64)),
        1.0 / (hits[0] + 1) if hits.size else 0.0,
        np.count_nonzero(gains[:100]) / len(ideal),
    )


def _dcg(gains: NDArray[np.float64]) -> float:
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())
