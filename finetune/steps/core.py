"""What each step of a plan does: read its inputs, choose an encoder, call one module, write.

Every function takes ``(settings, inputs, out)`` as `finetune.stage.Step` describes. Heavy
modules are imported inside, so that a plan whose steps are all cached loads none of them.
"""

import shutil
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np

from finetune import cpu, disk
from finetune.machine import hardware
from finetune.machine.processes import everywhere
from finetune.records import AnyRow, Mined, Pair, Scored, read_dicts, read_known, write_json
from finetune.script import KEEP
from finetune.sets import (
    AnySet,
    EvaluationSet,
    ScoredSet,
    only_set,
    read_halves,
    read_set,
    read_sets,
    write_set,
)
from finetune.stage import Inputs, Settings
from finetune.steps import encoders


def generate(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Make training pairs from documents, alone or beside the domain's own."""
    from finetune.data.generate import generate as make
    from finetune.data.written import Writing

    make(settings["generate"], settings["domain"], settings["check"], inputs["data"],
         read_halves(inputs["sets"]), settings["limit"], settings["seed"], out, settings["model"],
         Writing.of(settings))  # fmt: skip


def base(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Bring the base model into one layout."""
    from finetune.model import build_base

    build_base(settings["model"], out / "model")


def export(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Export a model to ONNX; nothing is published that does not agree with torch."""
    from finetune import hub
    from finetune import model as models
    from finetune.export import Origin, draw, export_bundle
    from finetune.inference.script import converted

    facts, quantize = settings["model"], settings.get("quantize")  # the base has no INT8 form
    way = settings.get("script", KEEP)
    loaded = models.load(inputs["model"] / "model")
    texts = _sample(inputs["sets"], settings["export"].parity_texts, settings["seed"])
    fitted = max(quantize.weight_texts, quantize.range_texts) if quantize else 0
    encoders.set_threads(settings)
    parity = export_bundle(
        loaded,
        converted(models.TorchEncoder(loaded), way),
        texts,
        out / "bundle",
        Origin(settings["name"], facts.id or str(facts.path or facts.name),
               hub.pinned(facts) or "unknown", facts.licence, way),
        settings["export"],
        settings["threads"],
        settings.get("dims", ()),
        quantize=quantize,
        calibration=draw(_texts(inputs["sets"]), fitted, settings["seed"], texts),
        source=inputs["model"] / "model",
    )  # fmt: skip
    write_json(out / "parity.json", parity)


def corpus(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Encode the passages that are searched, whatever the training pairs are."""
    from finetune.embedded import embed as encode

    encoder = encoders.scoring("base", settings, inputs, out)
    encode("passages", _corpus(inputs).values(), encoder, "passage", out)


def embed(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Encode training queries, and the pool that negatives come from."""
    from finetune.embedded import embed as encode

    encoder = encoders.scoring("base", settings, inputs, out)
    knowing = encoders.remembering(encoder, settings, inputs, learns=False)
    pairs = disk.rows(inputs["pairs"] / "train.jsonl", Pair)
    more = {kind: disk.texts(inputs["queries"] / f"{kind}.jsonl") if "queries" in inputs else ()
            for kind in ("queries", "passages")}  # fmt: skip
    passages = chain((pair.positive for pair in pairs), _corpus(inputs).values(), more["passages"])
    encode("pool", passages, knowing, "passage", out)
    queries = chain((pair.query for pair in pairs), more["queries"])
    encode("queries", queries, encoder, "query", out)


def noise(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Leave out pairs whose positive is no answer, by the base model."""
    from finetune.steps.noise import leave_out

    leave_out(settings["noise"].cut, inputs["pairs"], inputs["embed"], out)


def mine(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Find hard negatives for the training pairs."""
    from finetune import mining
    from finetune.embedded import vectors_of
    from finetune.errors import UserError
    from finetune.steps import rounds

    mine_settings = settings["mine"]
    pairs = disk.rows(inputs["pairs"] / "train.jsonl", Pair)
    others = read_known(inputs["pairs"])
    queries, pool = vectors_of(inputs["embed"], (pair.query for pair in pairs))
    mined = mining.mine(
        pairs,
        queries,
        pool.of(pair.positive for pair in pairs),
        pool,
        negatives=mine_settings.negatives,
        candidates=mine_settings.candidates,
        relative_margin=mine_settings.relative_margin,
        others=others,
        cross_encoder=rounds.cross_encoder(settings, inputs),
        search=mine_settings.search.value,
        folder=out,
    )
    audits = mining.write(pairs, mined, others, out)
    counts = mining.summary(audits, mine_settings.negatives)
    if not counts["pairs"]:
        raise UserError(
            f"mine: no pair has {mine_settings.negatives} negatives left ({counts}); lower "
            f"mine.relative_margin={mine_settings.relative_margin}, raise mine.candidates="
            f"{mine_settings.candidates}, or train without mining: recipes=full"
        )
    write_json(out / "summary.json", counts)


def pool(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Make the guard's set, a part of the select half."""
    from finetune.evaluation.guard import guard_texts

    texts_trained = sum(
        2 + len(row.get("negatives", ())) for row in read_dicts(inputs["pairs"] / "train.jsonl")
    )
    size = guard_texts(texts_trained, settings["guard_share"], settings["epochs"],
                       settings["checkpoints"])  # fmt: skip
    _pool(_select(inputs["sets"]), size, settings, out)


def merge_pool(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Make the set on which merged weights are scored: more of the select half than the guard's."""
    _pool(_select(inputs["sets"]), settings["texts"], settings, out)


def _pool(select: AnySet, texts: int, settings: Settings, out: Path) -> None:
    from finetune.evaluation.guard import pooled, sampled

    if isinstance(select, ScoredSet):
        small: AnySet = sampled(select, max_texts=texts, seed=settings["seed"])
    else:
        small = pooled(select, max_texts=texts, seed=settings["seed"])
    write_set(out / select.name, small)


@everywhere
def train(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Train, guarded by the select half."""
    from finetune.training import gradcache

    scored = isinstance(only_set(inputs["select"]), ScoredSet)
    kind: type[AnyRow] = Scored if scored else Mined if settings["mined"] else Pair
    gradcache.train(disk.rows(inputs["pairs"] / "train.jsonl", kind), settings, inputs, out)


def evaluate(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Score artifacts on the report half, and time them.

    On the select half too, all but the baselines: from which cosine on texts match is chosen there.
    """
    from finetune import dims
    from finetune.evaluation.artifacts import evaluate as evaluate_artifact
    from finetune.evaluation.artifacts import lexical, write_outcome
    from finetune.evaluation.lengths import at_lengths

    report = read_sets(inputs["sets"] / "report")
    speeds = {}
    outcomes, select = out / "outcomes", out / "select"
    artifacts, lengths = dims.split(settings["artifacts"])
    for artifact in artifacts:
        if artifact == "bm25":
            (outcomes / artifact).mkdir(parents=True)
            for each in (each for each in report if isinstance(each, EvaluationSet)):
                path = outcomes / artifact / f"{each.name}.jsonl"
                write_outcome(path, lexical(each))
            continue
        if not encoders.is_published(artifact, inputs):
            continue  # which the report tells
        if artifact == "onnx-fp32" and settings["device"] == "cpu":
            for folder in (*outcomes.glob("tuned*"), *select.glob("tuned*")):
                # Scored by this very graph.
                shutil.copytree(folder, folder.with_name(folder.name.replace("tuned", artifact)))
        else:
            scoring = encoders.scoring(artifact, settings, inputs, out)
            encoder = encoders.remembering(scoring, settings, inputs)
            half = None if artifact == "base" else (_select(inputs["sets"]), select)
            for suffix, shorter in at_lengths(encoder, lengths):
                evaluate_artifact(artifact + suffix, shorter, report, outcomes, half)
        speeds[artifact] = timed(artifact, settings, inputs)
    write_json(out / "speed.json", speeds)


def timed(artifact: str, settings: Settings, inputs: Inputs) -> dict[str, Any]:
    """Time the artifact itself on the report half's queries and some passages, and weigh it.

    And say on which machine: another may have timed what the cache holds.
    """
    from finetune.evaluation import speed

    first = read_set(min((inputs["sets"] / "report").iterdir()))
    queries = [question[0] for question in first.questions.values()]
    passages = _sample(inputs["sets"], settings["speed_texts"], settings["seed"])
    encoder = encoders.own(artifact, settings, inputs)
    measured = speed.measure(encoder, queries, passages)
    exported = "cuda" if getattr(encoder, "gpu", False) else "cpu"
    device = settings["device"] if artifact in ("base", "tuned") else exported
    return {**measured.told, "bytes": encoders.size(artifact, inputs),
            "machine": _machine(device), "threads": settings["threads"]}  # fmt: skip


def _machine(device: str) -> str:
    """What computes there is called: the first GPU, or the CPU and how many of it may be used."""
    if device == "cuda" and (gpus := hardware.gpus()):
        return gpus[0].name
    return cpu.described()


def _select(halves: Path) -> AnySet:
    return only_set(halves / "select")


def _corpus(inputs: Inputs) -> Mapping[str, str]:
    """The passages of the select half; only domains of pairs have steps that search them."""
    return cast(EvaluationSet, _select(inputs["sets"])).corpus


def _sample(halves: Path, count: int, seed: int) -> list[str]:
    """Draw texts of the select half, seeded."""
    texts = _texts(halves)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(texts), min(count, len(texts)), replace=False)
    return [texts[index] for index in sorted(chosen.tolist())]


def _texts(halves: Path) -> list[str]:
    return [text for _, text in _select(halves).prompted]
