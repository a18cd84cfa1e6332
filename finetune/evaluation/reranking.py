"""Rank each query's own candidates, and score the ranking.

- ``map``: mean over queries of ``AP = sum(P@i over the ranks i of relevant candidates) / their
  number``, as trec_eval computes it.
- ``mrr@10``: as in `finetune.evaluation.retrieval`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.retrieval import Ranking
from finetune.inference import Encoder
from finetune.sets import RerankingSet

METRICS = ("map", "mrr@10")


def rank(
    encoder: Encoder,
    evaluation_set: RerankingSet,
    *,
    progress: Callable[[int], None] | None = None,
) -> Ranking:
    """Rank by cosine.

    Args:
        encoder: Any encoder.
        evaluation_set: Queries and their candidates.
        progress: Called with the number of texts encoded.
    """
    queries = encoder.encode(list(evaluation_set.queries.values()), "query", progress=progress)
    corpus = encoder.encode(list(evaluation_set.corpus.values()), progress=progress)
    rows = {name: row for row, name in enumerate(evaluation_set.corpus)}
    scores = [
        corpus[[rows[name] for name in evaluation_set.candidates[query]]] @ vector
        for query, vector in zip(evaluation_set.queries, queries, strict=True)
    ]
    return ranking(evaluation_set, scores, cosines=True)


def ranking(
    evaluation_set: RerankingSet, scores: Sequence[NDArray[np.floating]], *, cosines: bool = False
) -> Ranking:
    """Order the candidates by their scores, equal ones by falling id, as trec_eval does.

    Args:
        evaluation_set: Queries and their candidates.
        scores: For each query one of each candidate.
        cosines: The scores are cosines, and the answers' are kept.
    """
    documents, ordered, answers = [], [], []
    for query, values in zip(evaluation_set.queries, scores, strict=True):
        known = dict(zip(evaluation_set.candidates[query], map(float, values), strict=True))
        names = sorted(known, reverse=True)
        names.sort(key=known.__getitem__, reverse=True)  # stable: equal ones stay as they are
        relevance = evaluation_set.qrels[query]
        documents.append(tuple(names))
        ordered.append([known[name] for name in names])
        answers.append({name: known[name] for name in known if relevance.get(name, 0) > 0})
    table = np.full((len(ordered), max(map(len, ordered))), -np.inf, np.float32)
    for row, known_scores in zip(table, ordered, strict=True):
        row[: len(known_scores)] = known_scores
    return Ranking(
        tuple(evaluation_set.queries), tuple(documents), table, tuple(answers) if cosines else ()
    )


def score(found: Ranking, evaluation_set: RerankingSet) -> dict[str, NDArray[np.float64]]:
    """Score each query; for each of `METRICS` an array ``[n]``."""
    rows = []
    for query, documents in zip(found.queries, found.documents, strict=True):
        relevance = evaluation_set.qrels[query]
        places = np.flatnonzero([relevance.get(name, 0) > 0 for name in documents]) + 1
        answers = sum(value > 0 for value in relevance.values())
        precision = np.arange(1, len(places) + 1) / places
        first = places[0] if len(places) else np.inf
        rows.append((precision.sum() / answers, 1 / first if first <= 10 else 0.0))
    table = np.array(rows, np.float64).reshape(-1, len(METRICS))
    return {metric: table[:, column] for column, metric in enumerate(METRICS)}
