"""What a run must reach: each gate passes, fails, or cannot tell on so few queries.

Only ``failed`` changes the exit code. A gate whose artifacts were not measured is left out.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from finetune.config import Evaluate
from finetune.evaluation.artifacts import Outcome
from finetune.evaluation.statistics import compare, smallest_difference
from finetune.report.facts import METRIC_NAMES, Outcomes, counted
from finetune.report.scores import Values, paired


class Status(Enum):
    """How a gate came out."""

    passed = "passed"
    failed = "failed"
    inconclusive = "inconclusive"


@dataclass(frozen=True)
class Gate:
    """One gate, as ``report.json`` lists it.

    ``value``, ``threshold`` and the paired 95 % interval of the value are fractions; ``n`` counts
    queries; ``detail`` says it in one sentence.
    """

    name: str
    status: Status
    value: float
    threshold: float
    n: int
    ci_low: float
    ci_high: float
    p_value: float
    detail: str


def judge(
    outcomes: Outcomes,
    domain_set: str,
    settings: Evaluate,
    seed: int,
    general_set: str | None = None,
    *,
    kept_base: bool = False,
) -> list[Gate]:
    """Judge every gate whose artifacts were measured.

    Args:
        outcomes: By artifact and set.
        domain_set: The set that must gain.
        settings: Thresholds.
        seed: Of the resampling.
        general_set: The set that must not lose.
        kept_base: The guard kept the base: whatever the scores, nothing was gained.
    """
    gates = []
    base, tuned = (outcomes.get(name, {}) for name in ("base", "tuned"))
    if domain_set in base and domain_set in tuned:
        values = paired(base[domain_set], tuned[domain_set])
        gate = gain(*values, settings, seed, domain_set, base[domain_set].main)
        gates.append(_not_improved(gate) if kept_base else gate)
    if general_set is not None and general_set in base and general_set in tuned:
        values = paired(base[general_set], tuned[general_set])
        gates.append(general(*values, settings, seed, general_set))
    fp32, quantised = (outcomes.get(f"onnx-{name}", {}) for name in ("fp32", "int8-dynamic"))
    shared = [(fp32[name], quantised[name]) for name in fp32 if name in quantised]
    if shared:
        metric = shared[0][0].main  # the domain's; sets of the other shape cannot be counted in
        values = by_question([pair for pair in shared if pair[0].main == metric])
        gates.append(int8(*values, settings, seed, metric))
    return gates


def gain(
    base: Values, tuned: Values, settings: Evaluate, seed: int, set_name: str, metric: str
) -> Gate:
    """Gate the gain in NDCG@10 (or Spearman) of the tuned model over the base on the domain's set.

    Passed where the gain exceeds ``min_gain`` and ``p < alpha``; failed where it does not exceed
    ``min_gain``, or where ``enough_queries`` queries still show no significant gain.
    """
    difference = compare(base, tuned, settings.samples, seed)
    sure = difference.p_value < settings.alpha
    if difference.delta > settings.min_gain and sure:
        status = Status.passed
    elif difference.delta <= settings.min_gain or len(base) >= settings.enough_queries:
        status = Status.failed
    else:
        status = Status.inconclusive
    detail = (
        f"tuned against base on {set_name}: {_points(difference.delta)} points "
        f"{METRIC_NAMES[metric]} [{_points(difference.ci_low)}, {_points(difference.ci_high)}], "
        f"p = {difference.p_value:.2g}, {len(base)} {counted(metric)}; to pass, more than "
        f"{100 * settings.min_gain:.1f} points and p < {settings.alpha:g}"
    )
    if status is Status.inconclusive:
        smallest = f"{100 * smallest_difference(tuned - base):.1f} points"
        detail += f" (so few {counted(metric)} show differences from about {smallest} on)"
    return Gate(
        "gain", status, difference.delta, settings.min_gain, len(base), difference.ci_low,
        difference.ci_high, difference.p_value, detail + ".",
    )  # fmt: skip


def general(base: Values, tuned: Values, settings: Evaluate, seed: int, set_name: str) -> Gate:
    """Gate what the tuned model loses in NDCG@10 on questions outside the domain.

    Passed up to ``max_general_drop``; failed where the drop's whole interval lies above it;
    between, the set is too small to tell.
    """
    difference = compare(tuned, base, settings.samples, seed)
    drop, limit = difference.delta, settings.max_general_drop
    detail = (
        f"tuned against base on {set_name}: {_points(-drop)} points NDCG@10 "
        f"[{_points(-difference.ci_high)}, {_points(-difference.ci_low)}], {len(base)} queries; "
        f"it may lose {100 * limit:.1f}."
    )
    return Gate(
        "general", _within(drop, difference.ci_low, limit), drop, limit, len(base),
        difference.ci_low, difference.ci_high, difference.p_value, detail,
    )  # fmt: skip


def int8(fp32: Values, quantised: Values, settings: Evaluate, seed: int, metric: str) -> Gate:
    """Gate the relative drop in mean NDCG@10 (or Spearman) from fp32 to INT8.

    ``drop = (mean fp32 - mean int8) / mean fp32``. Passed up to ``max_int8_drop``; failed where the
    drop's whole interval lies above it; between, the set is too small to tell.
    """
    difference = compare(quantised, fp32, settings.samples, seed)
    # A model that finds nothing at all has nothing to lose; the gain gate deals with it.
    scale = abs(float(fp32.mean())) or 1.0
    drop, low, high = (
        value / scale for value in (difference.delta, difference.ci_low, difference.ci_high)
    )
    limit = settings.max_int8_drop
    status = _within(drop, low, limit)
    ends = f"[{_percent(-high)}, {_percent(-low)}]"
    detail = (
        f"INT8 changes {METRIC_NAMES[metric]} by {_percent(-drop)} % of fp32 {ends}, {len(fp32)} "
        f"{counted(metric)}; it may lose {100 * limit:g} %."
    )
    return Gate(
        "int8", status, drop, limit, len(fp32), low, high, difference.p_value, detail
    )  # fmt: skip


def by_question(pairs: list[tuple[Outcome, Outcome]]) -> tuple[Values, Values]:
    """Mean values of two artifacts for each query id over the sets that ask it.

    A question asked in two scripts is one observation: counted twice, it would make an interval
    look narrower than it is.
    """
    rows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one, other in pairs:
        for query, *values in zip(one.queries, *paired(one, other), strict=True):
            rows[query].append((float(values[0]), float(values[1])))
    means = np.array([np.mean(values, axis=0) for values in rows.values()])
    return means[:, 0], means[:, 1]


def _within(drop: float, low: float, limit: float) -> Status:
    if drop <= limit:
        return Status.passed
    return Status.failed if low > limit else Status.inconclusive


def _not_improved(gate: Gate) -> Gate:
    """Two exports of the same weights may differ in the last digits; that is no gain."""
    detail = f"not improved: the guard kept the base. As exported, {gate.detail}"
    return replace(gate, status=Status.failed, detail=detail)


def _points(fraction: float) -> str:
    return f"{round(100 * fraction, 1) + 0.0:+.1f}"  # + 0.0 turns -0.0 into 0.0


def _percent(fraction: float) -> str:
    return f"{round(100 * fraction, 2) + 0.0:+.2f}"
