"""The first line of the report: what came out, in plain words."""

from collections.abc import Iterable, Mapping, Sequence

from finetune.records import Score
from finetune.report.facts import MAIN, METRIC_NAMES, Facts, counted
from finetune.report.gates import Gate, Status


def verdict(facts: Facts, scores: Sequence[Score], gates: Iterable[Gate]) -> str:
    """Say whether the tuned model is better than its base, by how much, and at what cost.

    Of a student it says what it keeps of its teacher.
    """
    named = {gate.name: gate for gate in gates}
    gain, distill = named.get("gain"), named.get("distill")
    if distill is not None:
        half = 50 * (distill.ci_high - distill.ci_low)
        first = (
            f"Keeps {100 * distill.value:.1f} ± {half:.1f} % of its teacher's NDCG@10 on "
            f"{facts.domain_set}, at {facts.speedup:.1f} times its speed"
        )
    elif gain is None:
        first = f"Nothing to compare on {facts.domain_set}: base and tuned were not both measured"
    elif facts.kept_base:
        first = (
            f"Not improved: the guard kept the base (no checkpoint beat it on the select half of "
            f"{facts.domain_set})"
        )
    else:
        first = _comparison(gain, facts)
    return f"{first}{_general(facts, named)}{_int8(scores, facts.domain_set)}."


def _comparison(gain: Gate, facts: Facts) -> str:
    name, settings, metric = facts.domain_set, facts.evaluate, METRIC_NAMES[facts.metric]
    half = (gain.ci_high - gain.ci_low) / 2
    chance = 1.0 if gain.p_value is None else gain.p_value
    p_value = f"p {p_text(chance)}"
    if chance >= settings.alpha:
        return (
            f"Inside the noise: {100 * gain.value:+.1f} ± {100 * half:.1f} points {metric} against "
            f"the base on {name} ({p_value}, {gain.n} {counted(facts.metric)})"
        )
    word = "Better" if gain.value > 0 else "Worse"
    text = (
        f"{word} than the base on {name} by {100 * abs(gain.value):.1f} ± {100 * half:.1f} points "
        f"{metric} ({p_value})"
    )
    if 0 < gain.value <= settings.min_gain:
        text += f", less than the {100 * settings.min_gain:.1f} points asked for"
    return text


def _general(facts: Facts, gates: Mapping[str, Gate]) -> str:
    gate = gates.get("general")
    if gate is None or facts.kept_base:
        return ""
    half = 50 * (gate.ci_high - gate.ci_low)
    judged = {
        Status.passed: "",
        Status.failed: f" (it may lose {100 * gate.threshold:.1f})",
        Status.inconclusive: " (too few queries to tell whether it forgot)",
    }[gate.status]
    change = round(-100 * gate.value, 1) + 0.0  # + 0.0 turns -0.0 into 0.0
    return f"; {change:+.1f} ± {half:.1f} points on {facts.general_set}{judged}"


def _int8(scores: Iterable[Score], name: str) -> str:
    values = {s.artifact: s.value for s in scores if s.set == name and s.metric in MAIN}
    if not {"onnx-fp32", "onnx-int8-dynamic"} <= values.keys():
        return ""
    lost = round(100 * (values["onnx-fp32"] - values["onnx-int8-dynamic"]), 1)
    if lost == 0:
        return "; INT8 loses nothing"
    return f"; INT8 {'loses' if lost > 0 else 'gains'} {abs(lost):.1f} points"


def p_text(p_value: float) -> str:
    """Write a p-value with its relation: ``= 0.031``, ``< 0.001``."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.{3 if p_value < 0.1 else 2}f}"
