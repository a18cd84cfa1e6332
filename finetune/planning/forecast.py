"""What the steps of a plan will take: time, memory and disk, before any of them has run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from finetune.config import artifact as artifact_name
from finetune.config.choices import Precision
from finetune.data.peek import Texts
from finetune.embedded import PART
from finetune.evaluation.speed import PASSES
from finetune.inference.batches import TOKEN_BUDGET
from finetune.machine import estimate, rates
from finetune.machine.geometry import Geometry
from finetune.planning.costs import Cost, generate, shared_rate, train
from finetune.planning.facts import Facts
from finetune.script import KEEP
from finetune.stage import Planned, Step

# Seconds that a step takes beside its operations: imports and loading (the demo's, rounded up).
_STARTUP = {"sets": 2, "data": 2, "general": 2, "generate": 3, "queries": 2, "base": 3, "export": 4,
            "corpus": 2, "embed": 2, "pseudo": 3, "noise": 1, "mine": 1, "pool": 1, "student": 3,
            "train": 8, "distill": 12, "merge_pool": 1, "merge": 4, "evaluate": 5,
            "evaluate_general": 2,
            "script": 2, "script_sets": 2, "script_select": 1, "script_mix": 2, "augment": 3,
            "characters": 3, "report": 4}  # fmt: skip
_LOADING = 2  # seconds to write and load a model
_INT8_SECONDS = 0.65e-6  # a matrix weight: rounding so that errors cancel (demo: 14 s for 21 M)
_MINE_SECONDS = 0.7e-3  # a pair


def costs(planned: Sequence[Planned], cache: Path, machine: str) -> dict[str, Cost]:
    """Forecast the steps that are not cached, by name; the ones that are cost nothing.

    Args:
        planned: The plan.
        cache: Where earlier runs wrote down what their steps took.
        machine: What this machine was called then.
    """
    corrections = rates.corrections(cache, machine)
    facts = Facts(planned)
    found = {}
    for each in planned:
        if not each.cached:
            cost = predict(each.step, facts)
            factor = corrections.get(each.step.name, 1.0)
            seconds = None if cost.seconds is None else cost.seconds * factor
            found[each.step.name] = replace(cost, seconds=seconds)
    return found


def remember(
    planned: Sequence[Planned], seconds: Mapping[str, float], cache: Path, machine: str
) -> None:
    """Write down what steps took, beside what would have been forecast knowing all their inputs."""
    facts = Facts(planned)
    for each in planned:
        took = seconds.get(each.step.name)
        predicted = predict(each.step, facts).seconds
        if took is not None and predicted is not None:
            rates.remember(cache, each.step.name, machine, predicted, took)


def predict(step: Step, facts: Facts) -> Cost:
    """Forecast one step by the table of rates alone."""
    kind = step.call.__name__
    if kind not in _STARTUP:
        return Cost()
    cost = _HEAVY[kind](step, facts) if kind in _HEAVY else Cost(0.0, None, 0)
    if cost.seconds is None:
        return cost
    return replace(cost, seconds=cost.seconds + _STARTUP[kind])


def _base(step: Step, facts: Facts) -> Cost:
    if facts.geometry is None:
        return Cost()
    weights = facts.geometry.weights
    return Cost(weights / 100e6, estimate.PROCESS + int(1.5 * weights), weights)


def _export(step: Step, facts: Facts) -> Cost:
    geometry, settings, data = facts.geometry_of(step), step.settings, facts.data
    if geometry is None:
        return Cost()
    precisions = settings["export"].precisions
    disk = geometry.weights * len(precisions)
    cost = Cost(None, estimate.export(geometry, precisions), disk)
    if data is None:
        return cost
    flops = settings["export"].parity_texts * facts.forward(data.passages, geometry)
    seconds = sum(flops / rates.rate(work, "cpu", settings["threads"])
                  for work in ("torch", *map(artifact_name, precisions)))  # fmt: skip
    if estimate.is_quantised(precisions):
        seconds += _INT8_SECONDS * geometry.matrices
    return replace(cost, seconds=seconds)


def _embed(step: Step, facts: Facts) -> Cost:
    geometry, data = facts.geometry, facts.data
    if geometry is None:
        return Cost()
    cost, pairs = _encoding(step, facts, geometry), facts.texts(step)
    if data is None or pairs is None or "queries" in step.inputs:  # which nobody has counted
        return cost
    queries, positives = (tuple((row[i],) for row in pairs.sample) for i in (0, 1))
    read = [Texts(pairs.count, queries), Texts(pairs.count, positives)]
    known = data.passages.count if "corpus" in step.inputs else 0
    if not known:
        read.append(data.passages)
    return _encoded(cost, read, step, facts, geometry, known)


def _corpus(step: Step, facts: Facts) -> Cost:
    geometry = facts.geometry
    if geometry is None:
        return Cost()
    cost = _encoding(step, facts, geometry)
    if facts.data is None:
        return cost
    return _encoded(cost, [facts.data.passages], step, facts, geometry)


def _encoded(
    cost: Cost, read: Sequence[Texts], step: Step, facts: Facts, geometry: Geometry, known: int = 0
) -> Cost:
    """What it takes to encode texts and keep their vectors, and those of ``known`` others."""
    flops = sum(texts.count * facts.forward(texts, geometry) for texts in read)
    counts = [known, *(texts.count for texts in read)]
    held = 4 * geometry.hidden * min(PART, max(counts))
    return replace(
        cost, seconds=flops / _encoding_rate("base", step),
        memory=(cost.memory or 0) + held, disk=4 * geometry.hidden * sum(counts),
    )  # fmt: skip


def _mine(step: Step, facts: Facts) -> Cost:
    pairs = facts.texts(step)
    filtered = step.settings["mine"].filter is not None or "filter" in step.files
    if facts.geometry is None or facts.data is None or pairs is None or filtered:
        return Cost()  # of a cross-encoder's size nothing is known
    flops = 2.0 * pairs.count * (pairs.count + facts.data.passages.count) * facts.geometry.hidden
    return Cost(flops / rates.rate("onnx-fp32", "cpu", 1) + _MINE_SECONDS * pairs.count, None, 0)


def _evaluate(step: Step, facts: Facts) -> Cost:
    geometry, data = facts.geometry_of(step), facts.data
    if geometry is None:
        return Cost()
    cost = _encoding(step, facts, geometry)
    if not cost.gpu:
        graphs = len({"tuned", "onnx-int8-dynamic"} & set(step.settings["artifacts"]))
        memory = estimate.evaluation(geometry, graphs or 1, cost.memory or 0)
        cost = replace(cost, memory=memory)
    if data is None:
        return cost
    queries = Texts(data.queries["report"], tuple((row[0],) for row in data.rows.sample))
    passage = facts.forward(data.passages, geometry)
    questions = queries.count * facts.forward(queries, geometry)
    seconds = 0.0
    for artifact in step.settings["artifacts"]:
        if artifact == "bm25" or "@" in artifact:
            continue
        scored_by_another = artifact == "onnx-fp32" and step.settings["device"] == "cpu"
        corpus = 0 if "corpus" in step.inputs else data.passages.count * passage
        if step.inputs["sets"] == "script-sets" and step.settings.get("script", KEEP) == KEEP:
            corpus += data.passages.count * passage  # once more, in the other script
        flops = 0.0 if scored_by_another else questions + corpus
        seconds += flops / _encoding_rate(artifact, step)
        timed = PASSES * step.settings["speed_texts"] * passage
        seconds += timed / _encoding_rate(artifact, step, own=True)
    return replace(cost, seconds=seconds)


def _evaluate_general(step: Step, facts: Facts) -> Cost:
    geometry, data = facts.geometry_of(step), facts.general
    if geometry is None:
        return Cost()
    cost = _encoding(step, facts, geometry)
    if data is None:
        return cost
    texts = data.passages.count + sum(data.queries.values())  # queries are short: a little too much
    vectors = 4 * geometry.hidden * data.passages.count
    flops = texts * facts.forward(data.passages, geometry)
    return replace(cost, seconds=flops / _encoding_rate(step.settings["artifact"], step),
                   memory=(cost.memory or 0) + vectors)  # fmt: skip


def _merge(step: Step, facts: Facts) -> Cost:
    geometry, weighed = facts.geometry_of(step), facts.weighed()
    if geometry is None:
        return Cost()
    cost = _encoding(step, facts, geometry)
    # Base, tuned and merged are held at once.
    cost = replace(cost, memory=(cost.memory or 0) + 2 * geometry.weights, disk=geometry.weights)
    if weighed is None or facts.data is None:
        return cost
    flops = weighed * facts.forward(facts.data.passages, geometry)
    if facts.general is not None and "general" in step.inputs:
        texts = min(step.settings["general_texts"], facts.general.passages.count)
        flops += texts * facts.forward(facts.general.passages, geometry)
    tried = len({0.0, *step.settings["weights"], 1.0})
    rate = rates.rate("train", step.settings["device"], step.settings["threads"],
                      Precision(step.settings["precision"]).value)  # fmt: skip
    return replace(cost, seconds=tried * (flops / rate + _LOADING))


def _encoding(step: Step, facts: Facts, geometry: Geometry) -> Cost:
    gpu = step.settings["device"] == "cuda"
    tokens = step.settings["encode_tokens"] if gpu else TOKEN_BUDGET
    memory = estimate.encoding(geometry, max(tokens, facts.longest), facts.longest)
    lower = f"hardware.encode_tokens={tokens}" if gpu else ""
    return Cost(None, memory, 0, gpu, lower)


def _encoding_rate(artifact: str, step: Step, *, own: bool = False) -> float:
    """Rate at which `finetune.steps.core` encodes with an artifact (``own``: when it is timed)."""
    device = step.settings["device"]
    through_graph = device == "cpu" and not own
    work = "onnx-fp32" if through_graph and artifact in ("base", "tuned") else artifact
    work = work if rates.is_exported(work) else "torch"
    if own:
        return rates.rate(work, device, step.settings["threads"])
    return shared_rate(work, step)


_HEAVY: Mapping[str, Callable[[Step, Facts], Cost]] = {
    "generate": generate, "base": _base, "student": _base, "export": _export, "corpus": _corpus,
    "embed": _embed, "mine": _mine, "train": train, "distill": train, "merge": _merge,
    "evaluate": _evaluate, "evaluate_general": _evaluate_general,
}  # fmt: skip
