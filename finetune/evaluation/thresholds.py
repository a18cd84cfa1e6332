"""From which cosine on two texts match: chosen on some questions, measured on others.

A service that looks for duplicates, or answers only where it is sure, needs a number. It is chosen
for its F1 on the select half; what it is worth is measured on the report half, beside the oracle:
the best F1 that any threshold has there.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation import sts
from finetune.evaluation.artifacts import Outcome
from finetune.sets import AnySet, ScoredSet

Values = NDArray[np.float64]

_NEAR = 0.01


@dataclass(frozen=True)
class Matches:
    """Cosines ``[n]`` of what may match, and 1 where it does, else 0."""

    cosines: Values
    labels: Values

    @property
    def both(self) -> bool:
        """True where there is something to tell apart."""
        return 0 < self.labels.sum() < len(self.labels)


@dataclass(frozen=True)
class Quality:
    """What a threshold does: fractions; ``n`` counts candidates, ``matches`` those that match."""

    f1: float
    precision: float
    recall: float
    n: int
    matches: int


def calibrate(select: Matches, report: Matches) -> dict[str, Any] | None:
    """Choose the threshold on ``select`` and measure it on ``report``.

    Returns:
        ``threshold``, its quality on ``select`` and ``report``, and the ``oracle``'s: threshold and
        F1 of the best one on ``report``. None where either holds matches alone, or none.
    """
    if not (select.both and report.both):
        return None
    chosen = _middle(select)
    oracle = sts.threshold(report.cosines, report.labels)
    return {
        "threshold": chosen,
        "select": asdict(quality(select, chosen)),
        "report": asdict(quality(report, chosen)),
        "oracle": {"threshold": oracle, "f1": quality(report, oracle).f1},
    }


def _middle(matches: Matches) -> float:
    """The middle of the thresholds whose F1 is within a point of the best.

    The very best one is chance: F1 hardly changes around it. On held-out AFQMC pairs the middle
    loses 0.6 points against the oracle, the very best 0.7; chosen on 500 pairs only, 0.7 and 1.0.
    """
    cosines, f1 = sts.f1_curve(matches.cosines, matches.labels)
    good = cosines[f1 >= f1.max() - _NEAR]
    return float(good.min() + good.max()) / 2


def quality(matches: Matches, threshold: float) -> Quality:
    """Measure a threshold: what has this cosine or a higher one is called a match."""
    called = matches.cosines >= threshold
    hits = float(matches.labels[called].sum())
    wanted = float(matches.labels.sum())
    return Quality(
        f1=2 * hits / max(1.0, called.sum() + wanted),
        precision=hits / max(1, int(called.sum())),
        recall=hits / max(1.0, wanted),
        n=len(called),
        matches=int(wanted),
    )


def matches_of(outcome: Outcome, each: AnySet) -> Matches | None:
    """Gather what may match: the pairs, or each query's first documents and its answers.

    None where it is not known what matches (graded pairs) or how near it is (BM25).
    """
    if isinstance(each, ScoredSet):
        scores = {pair.id: pair.score for pair in each.pairs}
        labels = np.array([scores[query] for query in outcome.queries])
        known = set(labels.tolist()) <= {0.0, 1.0}
        return Matches(np.array(outcome.cosines), labels) if known else None
    if not outcome.answers:
        return None
    found = []
    for top, scores_of_top, answers in zip(
        outcome.top, outcome.scores, outcome.answers, strict=True
    ):
        others = [s for name, s in zip(top, scores_of_top, strict=True) if name not in answers]
        found += [(cosine, 1.0) for cosine in answers.values()]
        found += [(cosine, 0.0) for cosine in others]
    table = np.array(found).reshape(-1, 2)
    return Matches(table[:, 0], table[:, 1])
