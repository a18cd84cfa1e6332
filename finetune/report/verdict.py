"""The first line of the report: what came out, in plain words."""

from collections.abc import Iterable, Mapping, Sequence

from finetune.records import Score
from finetune.report.facts import MAIN, Facts, exact_and_served, tuned_and_set
from finetune.report.gates import Gate, Status, points
from finetune.report.words import Said


def verdict(facts: Facts, scores: Sequence[Score], gates: Iterable[Gate]) -> Said:
    """Say whether the tuned model is better than its base, by how much, and at what cost.

    Of a student it says what it keeps of its teacher, and whether training had a part in it.
    """
    named = {gate.name: gate for gate in gates}
    gain, distill = named.get("gain"), named.get("distill")
    name = tuned_and_set({score.artifact for score in scores}, facts)[1]
    if distill is not None:
        first = Said(
            "verdict.keeps", set=name, percent=f"{100 * distill.value:.1f}", half=_half(distill),
            times=f"{facts.speedup:.1f}",
        )  # fmt: skip
        if facts.kept_base:
            first = Said("verdict.untrained", set=name, first=first)
    elif gain is None:
        first = Said("verdict.nothing", set=facts.domain_set)
    elif facts.kept_base:
        first = Said("verdict.kept-base", set=facts.domain_set)
    else:
        first = _comparison(gain, facts, name)
    return Said(
        "verdict.whole", first=first, general=_general(facts, named),
        int8=_int8(scores, facts),
    )  # fmt: skip


def _comparison(gain: Gate, facts: Facts, name: str) -> Said:
    settings, points = facts.evaluate, 100 * gain.value
    if gain.p_value is None or gain.p_value >= settings.alpha:
        return Said("verdict.noise", set=name, points=f"{points:+.1f}", half=_half(gain))
    found = Said(
        "verdict.better" if gain.value > 0 else "verdict.worse",
        set=name, points=f"{abs(points):.1f}", half=_half(gain),
    )  # fmt: skip
    if 0 < gain.value <= settings.min_gain:
        return Said("verdict.short", first=found, points=f"{100 * settings.min_gain:.1f}")
    return found


def _general(facts: Facts, gates: Mapping[str, Gate]) -> Said:
    gate = gates.get("general")
    if gate is None or facts.kept_base:
        return Said("nothing")
    if gate.status is Status.passed and gate.ci_low <= 0 <= gate.ci_high:
        return Said("verdict.unchanged")
    keys = {Status.passed: "general", Status.failed: "general-failed",
            Status.inconclusive: "general-open"}  # fmt: skip
    values = {"change": points(-gate.value), "half": _half(gate)}
    if gate.status is Status.failed:
        values["limit"] = f"{100 * gate.threshold:.1f}"
    return Said(f"verdict.{keys[gate.status]}", **values)


def _int8(scores: Iterable[Score], facts: Facts) -> Said:
    values = {s.artifact: s.value for s in scores if s.set == facts.domain_set and s.metric in MAIN}
    names = exact_and_served(values.keys(), "onnx-int8-dynamic", facts.dim)
    if names is None:
        return Said("nothing")
    exact, served = names
    lost = round(100 * (values[exact] - values[served]), 1)
    if lost == 0:
        return Said("verdict.int8-same")
    return Said(f"verdict.int8-{'loses' if lost > 0 else 'gains'}", points=f"{abs(lost):.1f}")


def _half(gate: Gate) -> str:
    """Half the interval, in points."""
    return f"{50 * (gate.ci_high - gate.ci_low):.1f}"


def p_text(p_value: float) -> str:
    """Write a p-value with its relation: ``= 0.031``, ``< 0.001``."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.{3 if p_value < 0.1 else 2}f}"
