"""Rank a corpus for queries, and score the ranking as trec_eval does.

Metrics per query, with relevance ``rel`` from the qrels and ``@k`` cutting the ranking:

- ``ndcg@10``: ``DCG / ideal DCG`` with ``DCG = sum(rel_i / log2(i + 1))`` over ranks i = 1..10
  (Järvelin & Kekäläinen 2002, linear gain as trec_eval).
- ``mrr@10``: 1 / rank of the first relevant document, 0 beyond rank 10.
- ``recall@100``: share of the relevant documents among the first 100.

Documents with equal scores stand in falling order of their ids, as trec_eval puts them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from finetune.inference import Encoder, top_k
from finetune.sets import EvaluationSet

METRICS = ("ndcg@10", "mrr@10", "recall@100")
DEPTH = 100


@dataclass(frozen=True)
class Ranking:
    """The first documents of each query: ids best first, and their scores ``[n, depth]``.

    ``answers`` are the cosines of each query's relevant documents, whatever their place; none
    where the scores are no cosines.
    """

    queries: tuple[str, ...]
    documents: tuple[tuple[str, ...], ...]
    scores: NDArray[np.float32]
    answers: tuple[Mapping[str, float], ...] = ()


def rank(
    encoder: Encoder,
    evaluation_set: EvaluationSet,
    *,
    progress: Callable[[int], None] | None = None,
) -> Ranking:
    """Rank the corpus for each query by cosine.

    Args:
        encoder: Any encoder.
        evaluation_set: Queries and corpus.
        progress: Called with the number of texts encoded.
    """
    queries = encoder.encode(list(evaluation_set.queries.values()), "query", progress=progress)
    corpus = encoder.encode(list(evaluation_set.corpus.values()), progress=progress)
    scores, indices = top_k(queries, corpus, DEPTH)
    found = ranking(tuple(evaluation_set.queries), tuple(evaluation_set.corpus), scores, indices)
    return replace(found, answers=tuple(_answers(evaluation_set, queries, corpus)))


def ranking(
    queries: Sequence[str],
    documents: Sequence[str],
    scores: NDArray[np.float32],
    indices: NDArray[np.integer],
) -> Ranking:
    """Make a ranking of ids from the row indices of a search, whose scores fall along each row."""
    rows = []
    for found, values in zip(indices.tolist(), scores.tolist(), strict=True):
        ids = [documents[index] for index in found]
        if len(set(values)) < len(values):
            ids.sort(reverse=True)
            known = dict(zip((documents[index] for index in found), values, strict=True))
            ids.sort(key=known.__getitem__, reverse=True)  # stable: equal ones stay as they are
        rows.append(tuple(ids))
    return Ranking(tuple(queries), tuple(rows), scores)


def _answers(
    evaluation_set: EvaluationSet, queries: NDArray[np.floating], corpus: NDArray[np.floating]
) -> Iterator[dict[str, float]]:
    """Yield the cosines of each query's relevant documents."""
    rows = {document: row for row, document in enumerate(evaluation_set.corpus)}
    for query, vector in zip(evaluation_set.queries, queries, strict=True):
        relevance = evaluation_set.qrels.get(query, {})
        ids = [document for document, value in relevance.items() if value > 0 and document in rows]
        cosines = np.asarray(corpus[[rows[document] for document in ids]]) @ vector if ids else []
        yield {document: float(cosine) for document, cosine in zip(ids, cosines, strict=True)}


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
