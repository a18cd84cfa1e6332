"""What a run must reach: each gate passes, fails, or cannot tell on so few queries.

A gate fails where the whole 95 % interval lies on the wrong side of its threshold. It passes on a
set that can tell: one that would show a difference of ``evaluate.visible`` 4 times in 5 (else a
model that lost as much would pass as well), or whose whole interval lies on the right side. In
between it is inconclusive. ``benchmarks/gates.py`` measures how often that is right. Only
``failed`` changes the exit code. A gate whose artifacts were not measured is left out.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from finetune.config import Distill, Evaluate, artifact
from finetune.evaluation.artifacts import Outcome
from finetune.evaluation.statistics import Difference, compare, smallest_difference
from finetune.inference.bundle import fastest_of
from finetune.report.facts import (
    BASELINES,
    METRIC_NAMES,
    Facts,
    Outcomes,
    counted,
    exact_and_served,
    tuned_and_set,
)
from finetune.report.scores import Values, by_question, paired
from finetune.report.words import Said

# Gates of the INT8 artifacts, by name.
INT8 = {
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

    ``value``, ``threshold`` and the paired 95 % interval of the value are fractions (of latency,
    milliseconds); ``n`` counts queries; ``detail`` says it in one sentence.
    """

    name: str
    status: Status
    value: float
    threshold: float
    n: int
    ci_low: float
    ci_high: float
    p_value: float | None
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
        served, name = tuned_and_set(outcomes, facts)
        cut = outcomes[served][facts.domain_set]
        gates.append(_domain(base[facts.domain_set], cut, facts, name))
    if facts.general_set in both and not facts.distill:
        values = paired(base[facts.general_set], tuned[facts.general_set])
        gates.append(general(*values, settings, seed, facts.general_set))
    for gate_name, quantised in INT8.items():
        gates += _int8(outcomes, facts, gate_name, quantised)
    fastest = _fastest(facts.speeds, gates)
    if fastest and settings.max_latency_ms is not None:
        gates.append(latency(fastest, facts.speeds[fastest], settings.max_latency_ms))
    return gates


def refused(gates: Iterable[Gate]) -> set[str]:
    """INT8 artifacts that a gate keeps out of the bundle."""
    failed = {gate.name for gate in gates if gate.status is Status.failed}
    return {each for name, each in INT8.items() if name in failed}


def _fastest(timed: Collection[str], gates: Iterable[Gate]) -> str | None:
    """What a service would run: the fastest of the bundle, the tuned model where that is empty."""
    kept = set(timed).difference(("base", "tuned"), BASELINES, refused(gates))
    if kept:
        return artifact(fastest_of([name.removeprefix("onnx-") for name in kept]))
    return "tuned" if "tuned" in timed else None


def _int8(outcomes: Outcomes, facts: Facts, gate_name: str, quantised: str) -> Iterator[Gate]:
    names = exact_and_served(outcomes.keys(), quantised, facts.dim)
    fp32, other = (outcomes[name] for name in names) if names else ({}, {})
    shared = [(fp32[name], other[name]) for name in fp32 if name in other]
    if names and shared:
        metric = shared[0][0].main  # the domain's; sets of another shape cannot be counted in
        values = by_question([pair for pair in shared if pair[0].main == metric])
        dim = names[1].partition("@")[2]
        gate = int8(*values, facts.evaluate, facts.seed, metric, dim)
        yield replace(gate, name=gate_name)


def _domain(base: Outcome, tuned: Outcome, facts: Facts, name: str) -> Gate:
    settings, seed = facts.evaluate, facts.seed
    values = paired(base, tuned)
    if facts.distill:
        gate = distill(*values, facts.speedup, facts.distill, settings, seed, name)
    else:
        gate = gain(*values, settings, seed, name, base.main)
    return _not_improved(gate) if facts.kept_base else gate


def gain(
    base: Values, tuned: Values, settings: Evaluate, seed: int, set_name: str, metric: str
) -> Gate:
    """Gate the gain in NDCG@10 (or Spearman) of the tuned model over the base on the domain's set.

    Passed where the gain exceeds ``min_gain`` and ``p < alpha``. Failed where the whole interval
    does not exceed it, or where a set that can tell shows no significant gain.
    """
    difference = compare(base, tuned, settings.samples, seed)
    if difference.delta > settings.min_gain and difference.p_value < settings.alpha:
        status = Status.passed
    elif difference.ci_high <= settings.min_gain or can_tell(tuned - base, settings):
        status = Status.failed
    else:
        status = Status.inconclusive
    detail = Said(
        "gate.gain", set=set_name, metric=METRIC_NAMES[metric], n=len(base),
        delta=points(difference.delta), low=points(difference.ci_low),
        high=points(difference.ci_high), p=f"{difference.p_value:.2g}",
        counted=Said(f"counted.{counted(metric)}"), threshold=f"{100 * settings.min_gain:.1f}",
        alpha=f"{settings.alpha:g}", few=too_few(status, tuned - base, metric),
    )  # fmt: skip
    return Gate(
        "gain", status, difference.delta, settings.min_gain, len(base), difference.ci_low,
        difference.ci_high, difference.p_value, detail,
    )  # fmt: skip


def general(base: Values, tuned: Values, settings: Evaluate, seed: int, set_name: str) -> Gate:
    """Gate what the tuned model loses in NDCG@10 on questions outside the domain.

    Passed up to ``max_general_drop`` on a set that can tell; failed where the drop's whole interval
    lies above it.
    """
    difference = compare(tuned, base, settings.samples, seed)
    drop, limit = difference.delta, settings.max_general_drop
    status = _within(difference, limit, base - tuned, settings)
    detail = Said(
        "gate.general", set=set_name, n=len(base), delta=points(-drop),
        low=points(-difference.ci_high), high=points(-difference.ci_low),
        threshold=f"{100 * limit:.1f}", few=too_few(status, base - tuned),
    )  # fmt: skip
    return Gate(
        "general", status, drop, limit, len(base),
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
    detail = Said(
        "gate.distill", kept=f"{100 * kept:.1f}", set=set_name, low=f"{100 * low:.1f}",
        high=f"{100 * high:.1f}", n=len(teacher), speedup=f"{speedup:.2f}",
        min_kept=f"{100 * limits.min_kept:g}", min_speedup=f"{limits.min_speedup:g}",
    )  # fmt: skip
    return Gate(
        "distill", status, kept, limits.min_kept, len(teacher), low, high, difference.p_value,
        detail,
    )  # fmt: skip


def int8(
    fp32: Values, quantised: Values, settings: Evaluate, seed: int, metric: str, dim: str = ""
) -> Gate:
    """Gate the relative drop in mean NDCG@10 (or Spearman) from fp32 to INT8.

    ``drop = (mean fp32 - mean int8) / mean fp32``. Passed up to ``max_int8_drop`` on a set that can
    tell; failed where the drop's whole interval lies above it. ``dim`` says how long the vectors
    are where they were cut.
    """
    difference = compare(quantised, fp32, settings.samples, seed)
    # A model that finds nothing at all has nothing to lose; the gain gate deals with it.
    scale = abs(float(fp32.mean())) or 1.0
    drop, low, high = (
        value / scale for value in (difference.delta, difference.ci_low, difference.ci_high)
    )
    limit = settings.max_int8_drop
    status = _within(difference, scale * limit, fp32 - quantised, settings)
    detail = Said(
        "gate.int8", metric=METRIC_NAMES[metric], delta=_percent(-drop), low=_percent(-high),
        high=_percent(-low), n=len(fp32), counted=Said(f"counted.{counted(metric)}"),
        at=Said("gate.at", dim=dim) if dim else Said("nothing"),
        threshold=f"{100 * limit:g}", few=too_few(status, fp32 - quantised, metric),
    )  # fmt: skip
    return Gate(
        "int8", status, drop, limit, len(fp32), low, high, difference.p_value, detail
    )  # fmt: skip


def latency(served: str, speed: Mapping[str, Any], limit: float) -> Gate:
    """Gate the median latency of one query with the artifact that a service would run.

    Failed where the whole interval of the median lies above the limit, passed where it lies below.
    """
    value, low, high = (float(speed[f"latency_{name}"]) for name in ("ms", "low", "high"))
    status = Status.inconclusive
    if low > limit or high <= limit:
        status = Status.failed if low > limit else Status.passed
    detail = Said(
        "gate.latency", artifact=served, value=f"{value:.1f}", low=f"{low:.1f}",
        high=f"{high:.1f}", n=speed["timed"], threshold=f"{limit:g}",
    )  # fmt: skip
    return Gate("latency", status, value, limit, int(speed["timed"]), low, high, None, detail)


def _within(drop: Difference, limit: float, differences: Values, settings: Evaluate) -> Status:
    if drop.ci_low > limit:
        return Status.failed
    if drop.ci_high <= limit or (drop.delta <= limit and can_tell(differences, settings)):
        return Status.passed
    return Status.inconclusive


def can_tell(differences: Values, settings: Evaluate) -> bool:
    """Say whether a set would show a difference of ``evaluate.visible`` 4 times in 5."""
    return smallest_difference(differences) <= settings.visible


def too_few(status: Status, differences: Values, metric: str = "ndcg@10") -> Said:
    """Say what the set could have shown, where it could not tell."""
    if status is not Status.inconclusive:
        return Said("nothing")
    smallest, what = smallest_difference(differences), Said(f"counted.{counted(metric)}")
    if smallest == float("inf"):
        return Said("gate.few-none", counted=what)
    return Said("gate.few", counted=what, points=f"{100 * smallest:.1f}")


def _not_improved(gate: Gate) -> Gate:
    """Two exports of the same weights may differ in the last digits; that is no gain.

    A student that was kept as it was cut may reach its share all the same: not by training.
    """
    key = "gate.untrained" if gate.name == "distill" else "gate.not-improved"
    return replace(gate, status=Status.failed, detail=Said(key, detail=gate.detail))


def points(fraction: float) -> str:
    """A difference in points, with its sign."""
    return f"{round(100 * fraction, 1) + 0.0:+.1f}"  # + 0.0 turns -0.0 into 0.0


def _percent(fraction: float) -> str:
    return f"{round(100 * fraction, 2) + 0.0:+.2f}"
