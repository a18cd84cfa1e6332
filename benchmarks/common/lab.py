"""Trains and scores one system of `domains.py`."""

import dataclasses
import gzip
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import flagembedding
from common.runs import ROOT, run, stale
from common.systems import CONVERTED, FOLDS, METHODS, OTHERS, PAIRS, ROTATED, System

from finetune import model as models
from finetune.commands import scoring
from finetune.config.compose import compose
from finetune.data.beir import read_folder
from finetune.data.script import convert_set
from finetune.evaluation.artifacts import Outcome, lexical, read_outcome
from finetune.export import Origin, export_bundle
from finetune.inference.bundle import is_bundle
from finetune.inference.script import converter
from finetune.machine import hardware
from finetune.records import write_jsonl
from finetune.sets import AnySet, EvaluationSet, ScoredSet, write_set
from finetune.starter import build_starter

STS = ("afqmc", "atec", "bq", "chinese_sts", "lcqmc", "medical_qqr", "oppo_xiaobu", "pawsx_zh",
       "stsb_zh")  # fmt: skip
SEARCHES = {"general": "report", "traditional": "all"}  # which part of the other sets' questions
DRAWN = 2_000  # pairs of a similarity set
ARTIFACTS = ("onnx-fp32", "onnx-int8-dynamic")
TRADITIONAL = f"{CONVERTED}+traditional"
BEHIND = {"export", "report"}  # the model; evaluations are too
PARITY_TEXTS = 100
KEPT = ("command", "key", "verdict", "gates", "training", "scripts")


class Lab:
    """Where the data, the starter and what is trained lie."""

    def __init__(self, data: Path, work: Path) -> None:
        """Make nothing yet.

        Args:
            data: The domains' folders.
            work: For what need not last.
        """
        self.data, self.work, self.starter = data.resolve(), work, work / "starter"

    def stale(self, system: System, kept: Mapping[str, Any]) -> bool:
        """Whether a recipe's kept result was made by another command, recipe or data."""
        return system.recipe is not None and stale(kept, self.words(system))

    def result(self, system: System) -> dict[str, Any] | None:
        """Train and score a system; None where its run failed."""
        start = time.monotonic()
        if not (self.starter / "modules.json").is_file():
            build_starter(self.starter)
        found = self.trained(system) if system.recipe else self.untrained(system)
        if found is None:
            return None
        seconds = max(time.monotonic() - start, 60 * found.get("whole minutes", 0))
        return {"seconds": round(seconds, 1), **found}

    def untrained(self, system: System) -> dict[str, Any]:
        """Score what no recipe made, and train what others' code trains before."""
        if system.name == "bm25":
            there = [each for each in self.elsewhere(system) if isinstance(each, EvaluationSet)]
            own = values(lexical(self.questions(system)))
            return {"values": own, **beyond({each.name: lexical(each) for each in there}, there)}
        told = self.otherwise(system) if system.name in OTHERS else {}
        model = self.starter if system.name == "starter" else self.work / system.label / "model"
        texts = list(self.questions(system).queries.values())
        bundle = bundled(model, system.name, texts)
        return {**told, **self.scored(system, bundle, self.questions(system))}

    def questions(self, system: System) -> EvaluationSet:
        """The questions that a system without a select half is scored on."""
        if system.domain == ROTATED:
            return read_folder(self.data / system.domain)
        return scoring.read(self.data / system.domain, "report")

    def otherwise(self, system: System) -> dict[str, Any]:
        """Train as people do, on pairs drawn at random, in what this machine computes fast."""
        lines = read_lines(self.data / system.domain / "train.jsonl")
        pairs = random.Random(system.seed).sample(lines, PAIRS)
        folder = self.work / system.label
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_text("".join(pairs), encoding="utf-8")
        rows = [json.loads(line) for line in pairs]
        flag = system.name == "flagembedding"
        words = self.flag(rows, folder, system.seed) if flag else self.script(folder, system.seed)
        start = time.monotonic()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        taken = round((time.monotonic() - start) / 60, 1)
        if flag:
            flagembedding.completed(self.starter, folder)
        return {"minutes": taken, "precision": precision(),
                "sources": sorted({row["source"] for row in rows})}  # fmt: skip

    def script(self, folder: Path, seed: int) -> list[str]:
        """The command of the script that everybody writes."""
        return [sys.executable, str(ROOT / "benchmarks/plain.py"), str(folder / "train.jsonl"),
                str(self.starter), str(folder), "--seed", str(seed),
                "--precision", precision()]  # fmt: skip

    def flag(self, rows: Sequence[Mapping[str, str]], folder: Path, seed: int) -> list[str]:
        """The command of FlagEmbedding's trainer, which is installed and given its rows before."""
        python = flagembedding.environment(self.work / "flagembedding")
        write_jsonl(folder / "rows.jsonl", flagembedding.rows(rows, seed))
        return flagembedding.command(python, self.starter, folder, seed, precision())

    def elsewhere(self, system: System) -> list[AnySet]:
        """The sets beyond the domain that a system is scored on."""
        if not system.elsewhere:
            return []
        parts = {**SEARCHES, **{f"sts/{name}": "all" for name in STS}}
        if system.recipe:
            del parts["general"]  # which the run itself has scored
        there = (scoring.read(self.data / name, part) for name, part in parts.items()
                 if (self.data / name).is_dir())  # fmt: skip
        return [drawn(each) if isinstance(each, ScoredSet) else each for each in there]

    def scored(
        self, system: System, bundle: Path, own: EvaluationSet | None = None
    ) -> dict[str, Any]:
        """What a bundle's fp32 gets on the domain, where asked, and beyond it."""
        sets = [*([own] if own else []), *(others := self.elsewhere(system))]
        if system.converted:
            asked = dataclasses.replace(self.questions(system), name=TRADITIONAL)
            sets.append(convert_set(asked, converter("s2t")))
        if not sets:
            return {}
        ((_, found),) = scoring.outcomes(bundle, sets, "fp32")
        told = {"values": values(found[own.name])} if own else {}
        if TRADITIONAL in found:
            told["traditional"] = values(found[TRADITIONAL])
        return {**told, **beyond(found, others)}

    def words(self, system: System) -> list[str]:
        """Overrides of the run that trains a system."""
        words = [f"recipes={system.recipe}", f"domain={system.domain}", "model=starter",
                 f"paths.data={self.data}", f"seed={system.seed}",
                 "evaluate.speed_texts=30"]  # fmt: skip
        words += [] if system.rounded else ["export.precisions=[fp32]"]
        if system.name in METHODS:
            words += [f"limit={PAIRS}", "evaluate.general=null"]
        words += ["check.leak=strict"] if system.name == "strict" else []
        return words + self.rotated(system)

    def trained(self, system: System) -> dict[str, Any] | None:
        """Run the pipeline, and score what it published beyond the domain."""
        out = ROOT / "runs" / f"runs-{system.label}"
        if not (out / "outcomes").is_dir():  # what each query got, which the run's JSON has not
            (self.work / f"runs/{system.label}.json").unlink(missing_ok=True)
        done = run(system.label, self.words(system), self.work / "runs")
        if done is None:
            return None
        scores = {each: out / f"outcomes/{each}/{system.domain}.jsonl"
                  for each in ("tuned", *ARTIFACTS)}  # fmt: skip
        found = {each: values(read_outcome(path))
                 for each, path in scores.items() if path.is_file()}  # fmt: skip
        more = self.scored(system, out / "bundle")
        general = out / "outcomes/tuned/general.jsonl"
        if system.elsewhere and general.is_file():
            more.setdefault("others", {})["general"] = kept(read_outcome(general), named=True)
        data = done["data"]
        mixed = [name for each in data.get("mixed", {}).values() for name in each["sources"]]
        return {
            "minutes": round(minutes(done["stages"]), 1),
            "whole minutes": round(whole(done) / 60, 1),
            "sources": sorted({*data["sources"], *mixed}),
            "values": found.pop("tuned"),
            "artifacts": found,
            **{key: done[key] for key in KEPT if key in done},
            **more,
        }

    def rotated(self, system: System) -> list[str]:
        """Overrides that make one fifth of the queries report, and the others select."""
        if system.fold is None:
            return []
        whole = read_folder(self.data / system.domain)
        order = sorted(whole.queries)
        random.Random(0).shuffle(order)
        report = set(order[system.fold :: FOLDS])
        folders = {"dev": set(order) - report, "test": report}
        for name, queries in folders.items():
            write_set(self.work / f"fold{system.fold}/{name}/{system.domain}", whole.only(queries))
        return [f"domain.{name}={self.work}/fold{system.fold}/{name}/{system.domain}"
                for name in folders]  # fmt: skip


def bundled(model: Path, name: str, texts: Sequence[str]) -> Path:
    """A model folder, the starter's or made of it, as a bundle in fp32 beside it, made once.

    Args:
        model: The folder.
        name: Of its system.
        texts: On whose first it is compared with torch.
    """
    bundle = model.with_name(f"{model.name}-bundle")
    if not is_bundle(bundle):
        shutil.rmtree(bundle, ignore_errors=True)
        loaded = models.load(model)
        origin = Origin(name, "intfloat/multilingual-e5-small", "unknown", "mit")
        config = compose(["recipes=full", "export.precisions=[fp32]"])
        encoder = models.TorchEncoder(loaded)
        export_bundle(loaded, encoder, texts[:PARITY_TEXTS], bundle, origin, config.export)
    return bundle


def read_lines(path: Path) -> list[str]:
    """Lines of a file, or of the same with ``.gz``."""
    if path.is_file():
        return path.read_text(encoding="utf-8").splitlines(keepends=True)
    with gzip.open(f"{path}.gz", "rt", encoding="utf-8") as file:
        return list(file)


def precision() -> str:
    """What this machine trains in: bf16 where it computes that itself, not by emulation."""
    return hardware.resolve(compose(["recipes=full"]).hardware).precision.value


def drawn(each: ScoredSet) -> ScoredSet:
    """At most `DRAWN` pairs of a set, the same ones for every system."""
    ids = sorted(pair.id for pair in each.pairs)
    return each.only(set(random.Random(0).sample(ids, min(DRAWN, len(ids)))))


def minutes(stages: Sequence[Mapping[str, Any]]) -> float:
    """Minutes before a trained model: of all stages, cached ones too, but what comes behind it."""
    behind = BEHIND | {each["name"] for each in stages if each["name"].startswith("evaluate")}
    return sum(each["seconds"] for each in stages if each["name"] not in behind) / 60


def whole(done: Mapping[str, Any]) -> float:
    """Seconds of a whole command, as if no stage of it had been in the cache."""
    return max(done["seconds"], sum(each["seconds"] for each in done["stages"]))


def values(found: Outcome) -> dict[str, dict[str, float]]:
    """What each query got, by metric."""
    return {
        metric: dict(zip(found.queries, (round(float(each), 4) for each in column), strict=True))
        for metric, column in found.metrics.items()
    }


def kept(found: Outcome, *, named: bool) -> dict[str, Any]:
    """What each query got by the metric that decides; of drawn pairs, in the order drawn."""
    row = [round(float(each), 4) for each in found.metrics[found.main]]
    return {"metric": found.main,
            "values": dict(zip(found.queries, row, strict=True)) if named else row}  # fmt: skip


def beyond(found: Mapping[str, Outcome], sets: Sequence[AnySet]) -> dict[str, Any]:
    """What was scored beyond the domain, as ``others``; nothing where there are no such sets."""
    others = {each.name: kept(found[each.name], named=isinstance(each, EvaluationSet))
              for each in sets}  # fmt: skip
    return {"others": others} if others else {}
