"""Which queries improved and which got worse, with their texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.evaluation.artifacts import Outcome
from finetune.records import EvaluationSet
from finetune.report.scores import paired


@dataclass(frozen=True)
class Example:
    """A query, what answers it, and what base and tuned model put first."""

    id: str
    query: str
    gold: tuple[str, ...]
    base: float
    tuned: float
    base_first: str
    tuned_first: str


def changed(
    base: Outcome, tuned: Outcome, evaluation_set: EvaluationSet, count: int = 5
) -> tuple[list[Example], list[Example]]:
    """Find the queries whose NDCG@10 rose most, and those where it fell most.

    Queries that changed equally are ordered by id.
    """
    before, after = paired(base, tuned)
    difference = after - before
    order = sorted(range(len(difference)), key=lambda row: (-difference[row], base.queries[row]))
    rose = [row for row in order if difference[row] > 0][:count]
    fell = sorted(
        np.flatnonzero(difference < 0).tolist(),
        key=lambda row: (difference[row], base.queries[row]),
    )[:count]

    def example(row: int) -> Example:
        query = base.queries[row]
        relevance = evaluation_set.qrels.get(query, {})
        return Example(
            query,
            evaluation_set.queries.get(query, ""),
            tuple(evaluation_set.corpus.get(key, "") for key, r in relevance.items() if r > 0),
            float(before[row]),
            float(after[row]),
            _first(base.top[row], evaluation_set),
            _first(tuned.top[row], evaluation_set),
        )

    return [example(row) for row in rose], [example(row) for row in fell]


def _first(top: Sequence[str], evaluation_set: EvaluationSet) -> str:
    return evaluation_set.corpus.get(top[0], "") if top else ""
