"""What a run must reach: each gate passes, fails, or cannot tell on so few queries.

Only ``failed`` changes the exit code. A gate whose artifacts were not measured is left out.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from finetune.config import Distill, Evaluate
from finetune.evaluation.artifacts import Outcome
from finetune.evaluation.statistics import compare, smallest_difference
from finetune.report.facts import METRIC_NAMES, Facts, Outcomes, counted
from finetune.report.scores import Values, paired

# Gates of the INT8 artifacts, by name.
_INT8 = {
    "int8": "onnx-int8-dynamic", "int8-static": "onnx-int8-static",
    "openvino-int8": "openvino-int8",
}  # fmt: skip


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


def judge(outcomes: Outcomes, facts: Facts) -> list[Gate]:
    """Judge every gate whose artifacts were measured.

    A student is held to its teacher on the domain, whose texts it learned from: it need not gain,
    and what it loses outside is told, not judged.

    Args:
        outcomes: By artifact and set.
        facts: Thresholds, seed, and the sets that the gates are about.
    """
    gates = []
    settings, seed = facts.evaluate, facts.seed
    base, tuned = (outcomes.get(name, {}) for name in ("base", "tuned"))
    both = base.keys() & tuned.keys()
    if facts.domain_set in both:
        gates.append(_domain(base[facts.domain_set], tuned[facts.domain_set], facts))
    if facts.general_set in both and not facts.distill:
        values = paired(base[facts.general_set], tuned[facts.general_set])
        gates.append(general(*values, settings, seed, facts.general_set))
    fp32 = outcomes.get("onnx-fp32", {})
    for gate_name, artifact in _INT8.items():
        quantised = outcomes.get(artifact, {})
        shared = [(fp32[name], quantised[name]) for name in fp32 if name in quantised]
        if shared:
            metric = shared[0][0].main  # the domain's; sets of another shape cannot be counted in
            values = by_question([pair for pair in shared if pair[0].main == metric])
            gates.append(replace(int8(*values, settings, seed, metric), name=gate_name))
    return gates


def _domain(base: Outcome, tuned: Outcome, facts: Facts) -> Gate:
    settings, seed, name = facts.evaluate, facts.seed, facts.domain_set
    values = paired(base, tuned)
    if facts.distill:
        return distill(*values, facts.speedup, facts.distill, settings, seed, name)
    gate = gain(*values, settings, seed, name, base.main)
    return _not_improved(gate) if facts.kept_base else gate


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


def distill(
    teacher: Values,
    student: Values,
    speedup: float,
    limits: Distill,
    settings: Evaluate,
    seed: int,
    set_name: str,
) -> Gate:
    """Gate what a student keeps of its teacher's NDCG@10, and how much faster it is.

    ``kept = mean student / mean teacher``. Failed where the whole interval lies below
    ``min_kept``, or the student is slower than ``min_speedup`` asks; passed where the mean reaches
    ``min_kept``; between, the set is too small to tell.
    """
    difference = compare(teacher, student, settings.samples, seed)
    scale = float(teacher.mean()) or 1.0
    kept, low, high = (
        1 + value / scale for value in (difference.delta, difference.ci_low, difference.ci_high)
    )
    if high < limits.min_kept or speedup < limits.min_speedup:
        status = Status.failed
    else:
        status = Status.passed if kept >= limits.min_kept else Status.inconclusive
    detail = (
        f"the student keeps {100 * kept:.1f} % of its teacher's NDCG@10 on {set_name} "
        f"[{100 * low:.1f}, {100 * high:.1f}], {len(teacher)} queries, at {speedup:.2f} times its "
        f"texts a second; to pass, {100 * limits.min_kept:g} % at {limits.min_speedup:g} times."
    )
    return Gate(
        "distill", status, kept, limits.min_kept, len(teacher), low, high, difference.p_value,
        detail,
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
