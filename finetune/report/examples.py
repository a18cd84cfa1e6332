"""Which queries (or pairs) improved and which got worse, with their texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation import sts
from finetune.evaluation.artifacts import Outcome
from finetune.report.facts import METRIC_NAMES
from finetune.report.scores import Values, paired
from finetune.report.words import Said
from finetune.sets import AnySet, EvaluationSet, ScoredSet

_GOLDS = 3  # answers of a query that an example shows
_SHOWN = 5  # of those that rose, and of those that fell


@dataclass(frozen=True)
class Example:
    """A query or pair, and what base and tuned model made of it.

    Attributes:
        id: Of the query or pair.
        query: The query, or the pair's first text.
        measure: What ``base`` and ``tuned`` measure.
        base: A fraction.
        tuned: A fraction.
        lines: More texts, each with what it is.
    """

    id: str
    query: str
    measure: str
    base: float
    tuned: float
    lines: tuple[tuple[str, str], ...]


def changed(
    base: Outcome, tuned: Outcome, evaluation_set: AnySet
) -> tuple[list[Example], list[Example]]:
    """Find the queries whose NDCG@10 rose most, and those where it fell most.

    Of a scored set, find the pairs whose rank by cosine came nearest to their rank by score, and
    those where it went farthest from it. What changed equally is ordered by id.
    """
    if isinstance(evaluation_set, ScoredSet):
        scores = np.array([pair.score for pair in evaluation_set.pairs])
        before, after = _nearness(base, scores), _nearness(tuned, scores)
    else:
        before, after = paired(base, tuned)
    difference = after - before
    order = sorted(range(len(difference)), key=lambda row: (-difference[row], base.queries[row]))
    rose = [row for row in order if difference[row] > 0][:_SHOWN]
    fell = sorted(
        np.flatnonzero(difference < 0).tolist(),
        key=lambda row: (difference[row], base.queries[row]),
    )[:_SHOWN]

    def example(row: int) -> Example:
        if isinstance(evaluation_set, ScoredSet):
            lines = _pair_lines(base, tuned, evaluation_set, row)
            measure: str = Said("example.rank")
        else:
            lines = _query_lines(base, tuned, evaluation_set, row)
            measure = METRIC_NAMES[base.main]
        query = evaluation_set.questions.get(base.queries[row], ("",))[0]
        return Example(
            base.queries[row], query, measure, float(before[row]), float(after[row]), lines
        )

    return [example(row) for row in rose], [example(row) for row in fell]


def _query_lines(
    base: Outcome, tuned: Outcome, evaluation_set: EvaluationSet, row: int
) -> tuple[tuple[str, str], ...]:
    relevance = evaluation_set.qrels.get(base.queries[row], {})
    golds = [evaluation_set.corpus.get(key, "") for key, r in relevance.items() if r > 0]
    more = len(golds) - _GOLDS
    return (
        *((Said("example.answer"), text) for text in golds[:_GOLDS]),
        *([(Said("example.more"), str(more))] if more > 0 else []),
        (Said("example.base"), _first(base.top[row], evaluation_set)),
        (Said("example.tuned"), _first(tuned.top[row], evaluation_set)),
    )


def _pair_lines(
    base: Outcome, tuned: Outcome, evaluation_set: ScoredSet, row: int
) -> tuple[tuple[str, str], ...]:
    pair = evaluation_set.pairs[row]
    return (
        (Said("example.other"), pair.b),
        (Said("example.score"), f"{pair.score:g}"),
        (Said("example.cosines"), f"{base.cosines[row]:.3f}, {tuned.cosines[row]:.3f}"),
    )


def _first(top: Sequence[str], evaluation_set: EvaluationSet) -> str:
    return evaluation_set.corpus.get(top[0], "") if top else ""


def _nearness(outcome: Outcome, scores: NDArray[np.floating]) -> Values:
    """1 where a pair stands as high among all by its cosine as by its score, less where not."""
    return 1 - np.abs(sts.ranks(np.array(outcome.cosines)) - sts.ranks(scores))
