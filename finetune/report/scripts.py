"""How far scores and results depend on the script that questions and passages are written in."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from finetune.config import Evaluate
from finetune.evaluation.artifacts import Outcome
from finetune.evaluation.statistics import compare, interval
from finetune.report.facts import METRIC_NAMES, Facts, Outcomes, counted
from finetune.report.gates import Gate, Status, can_tell, points, too_few
from finetune.report.scores import Values, paired
from finetune.report.words import Said

SCRIPTS = ("simplified", "traditional")
CROSSED = "crossed"


def is_converted(name: str) -> bool:
    """Say whether a set is another one in the other script, or crossed."""
    return name.partition("+")[2] in (*SCRIPTS, CROSSED)


def sections(
    outcomes: Outcomes, sets: Sequence[str], samples: int, seed: int
) -> list[dict[str, Any]]:
    """Tell what each artifact gets on each set in either script.

    Args:
        outcomes: By artifact and set.
        sets: Names of the sets; of those that were not measured in both scripts nothing is told.
        samples: Of the bootstrap and the randomisation test.
        seed: Of both.

    Returns:
        A row a set and artifact: ``set``, ``artifact``, ``metric``, ``n``; ``simplified``,
        ``traditional`` and ``crossed``, each with ``value``, ``ci_low`` and ``ci_high``; ``gap``
        (Simplified less Traditional, paired) with ``gap_low``, ``gap_high`` and ``p_value``; and
        ``overlap_traditional`` and ``overlap_crossed``, the share of the first ten documents that
        both scripts, and the set as given and crossed, have in common (None of pairs).
    """
    return [
        {"set": name, "artifact": artifact, **_told(found, by_set[name], samples, seed)}
        for name in sets
        for artifact, by_set in outcomes.items()
        if (found := _versions(by_set, name)) is not None
    ]


def gates(outcomes: Outcomes, facts: Facts) -> Iterator[Gate]:
    """Yield the gate on the gap of the tuned model on the domain's set, where it was measured."""
    found = _versions(outcomes.get("tuned", {}), facts.domain_set)
    if found is not None:
        simplified, traditional, _ = found
        yield gap(*paired(traditional, simplified), facts.evaluate, facts.seed,
                  facts.domain_set, simplified.main)  # fmt: skip


def gap(
    traditional: Values,
    simplified: Values,
    settings: Evaluate,
    seed: int,
    set_name: str,
    metric: str,
) -> Gate:
    """Gate the difference in NDCG@10 (or Spearman) between the scripts, whichever is ahead.

    Passed up to ``max_script_gap`` either way on a set that can tell, or where the whole interval
    lies within; failed where it lies outside on one side.
    """
    found = compare(traditional, simplified, settings.samples, seed)
    limit = settings.max_script_gap
    if found.ci_low > limit or found.ci_high < -limit:
        status = Status.failed
    elif -limit <= found.ci_low and found.ci_high <= limit:
        status = Status.passed
    elif abs(found.delta) <= limit and can_tell(simplified - traditional, settings):
        status = Status.passed
    else:
        status = Status.inconclusive
    detail = Said(
        "gate.script", set=set_name, metric=METRIC_NAMES[metric], n=len(simplified),
        delta=points(found.delta), low=points(found.ci_low), high=points(found.ci_high),
        counted=Said(f"counted.{counted(metric)}"), threshold=f"{100 * limit:.1f}",
        few=too_few(status, simplified - traditional, metric),
    )  # fmt: skip
    return Gate(
        "script", status, found.delta, limit, len(simplified), found.ci_low, found.ci_high,
        found.p_value, detail,
    )  # fmt: skip


def _versions(by_set: Mapping[str, Outcome], name: str) -> tuple[Outcome, Outcome, Outcome] | None:
    """Outcomes in Simplified, in Traditional, and crossed.

    The set as given stands for the script that it was not converted into.
    """
    if name not in by_set or f"{name}+{CROSSED}" not in by_set:
        return None
    given = by_set[name]
    simplified, traditional = (by_set.get(f"{name}+{script}", given) for script in SCRIPTS)
    return simplified, traditional, by_set[f"{name}+{CROSSED}"]


def _told(
    found: tuple[Outcome, Outcome, Outcome], given: Outcome, samples: int, seed: int
) -> dict[str, Any]:
    simplified, traditional, crossed = found
    values = dict(zip((*SCRIPTS, CROSSED), found, strict=True))
    difference = compare(*paired(traditional, simplified), samples, seed)
    return {
        "metric": simplified.main,
        "n": len(simplified.queries),
        **{script: _value(each, samples, seed) for script, each in values.items()},
        "gap": difference.delta,
        "gap_low": difference.ci_low,
        "gap_high": difference.ci_high,
        "p_value": difference.p_value,
        "overlap_traditional": overlap(simplified.top, traditional.top),
        "overlap_crossed": overlap(given.top, crossed.top),
    }


def _value(each: Outcome, samples: int, seed: int) -> dict[str, float]:
    values = each.metrics[each.main]
    low, high = interval(values, samples, seed)
    return {"value": float(values.mean()), "ci_low": low, "ci_high": high}


def overlap(one: Sequence[Sequence[str]], other: Sequence[Sequence[str]]) -> float | None:
    """Share of the first documents that two rankings of the same queries have in common."""
    shares = [len(set(a) & set(b)) / max(len(a), len(b), 1)
              for a, b in zip(one, other, strict=True)]  # fmt: skip
    return float(np.mean(shares)) if shares else None
