"""How near answers and false neighbours lie, and which false neighbours are the hardest."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.artifacts import Outcome
from finetune.evaluation.thresholds import Matches, calibrate, matches_of
from finetune.report.examples import Example
from finetune.report.facts import METRIC_NAMES, Facts, Outcomes, read_folder
from finetune.report.words import Said
from finetune.sets import AnySet, EvaluationSet

_BINS = 40


def similarity(outcomes: Outcomes, each: AnySet) -> dict[str, Any]:
    """Tell, by artifact, how cosines of matches and of what does not match are distributed.

    Returns:
        By artifact ``positive`` and ``negative``: ``mean``, ``p10`` and ``p90``, and ``counts`` in
        40 bins between the cosines ``low`` and ``high``; ``apart`` is the share of pairs of one of
        each kind in which the match is nearer. Artifacts whose cosines are not known are left out.
    """
    found = {}
    for artifact, by_set in outcomes.items():
        matches = matches_of(by_set[each.name], each) if each.name in by_set else None
        if matches is not None and matches.both:
            found[artifact] = _told(matches)
    return found


def calibrated(facts: Facts, outcomes: Outcomes) -> dict[str, Any]:
    """Calibrate each artifact's threshold on the domain's set, where its select half was scored."""
    if facts.select is None:
        return {}
    folder, select = facts.select
    report = next(each for each in facts.sets if each.name == facts.domain_set)
    found = {}
    for artifact, by_set in read_folder(folder).items():
        parts = [matches_of(by_set[select.name], select)]
        if report.name in outcomes.get(artifact, {}):
            parts.append(matches_of(outcomes[artifact][report.name], report))
        both = [each for each in parts if each is not None]
        result = calibrate(*both) if len(both) == 2 else None
        if result is not None:
            found[artifact] = {"set": report.name, **result}
    return found


def false_neighbours(outcome: Outcome, each: EvaluationSet, count: int = 5) -> list[Example]:
    """Find the queries whose first document is no answer and lies farthest before the nearest one.

    Args:
        outcome: With the cosines of documents and answers.
        each: The set, for the texts.
        count: How many at most.
    """
    worst: list[tuple[float, int]] = []
    for row, answers in enumerate(outcome.answers):
        top = outcome.top[row]
        if answers and top and top[0] not in answers:
            worst.append((outcome.scores[row][0] - max(answers.values()), row))
    worst.sort(key=lambda found: (-found[0], outcome.queries[found[1]]))
    return [_example(outcome, each, row) for _, row in worst[:count]]


def _example(outcome: Outcome, each: EvaluationSet, row: int) -> Example:
    query, answers = outcome.queries[row], outcome.answers[row]
    value = float(outcome.metrics[outcome.main][row])
    nearest = max(answers, key=answers.__getitem__)
    lines = (
        (Said("example.nearest", cosine=f"{answers[nearest]:.3f}"), each.corpus.get(nearest, "")),
        (
            Said("example.first", cosine=f"{outcome.scores[row][0]:.3f}"),
            each.corpus.get(outcome.top[row][0], ""),
        ),
    )
    name = METRIC_NAMES[outcome.main]
    return Example(query, each.queries.get(query, ""), name, value, value, lines)


def _told(matches: Matches) -> dict[str, Any]:
    low, high = float(matches.cosines.min()), float(matches.cosines.max())
    kinds = {"positive": matches.labels > 0, "negative": matches.labels == 0}
    parts = {name: _distribution(matches.cosines[rows], low, high) for name, rows in kinds.items()}
    return {"low": low, "high": high, "apart": _apart(matches), **parts}


def _distribution(cosines: NDArray[np.float64], low: float, high: float) -> Mapping[str, Any]:
    p10, p90 = np.percentile(cosines, [10, 90]).tolist()
    counts = np.histogram(cosines, _BINS, (low, high))[0].tolist()
    return {"mean": float(cosines.mean()), "p10": p10, "p90": p90, "counts": counts}


def _apart(matches: Matches) -> float:
    """Area under the ROC curve: ties count half."""
    negatives = np.sort(matches.cosines[matches.labels == 0])
    positives = matches.cosines[matches.labels > 0]
    below = np.searchsorted(negatives, positives, "left")
    up_to = np.searchsorted(negatives, positives, "right")
    return float((below + up_to).mean() / (2 * len(negatives)))
