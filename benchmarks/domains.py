"""Four domains: what the best recipe gives, beside BM25, the base and what people do otherwise.

python benchmarks/domains.py --data ../shared/data [--only legal-best] [--seeds 3]

Systems: BM25 on characters and bigrams; the starter; the script that everybody writes (`plain.py`,
4,000 pairs drawn at random); `full`, `lora`, `prefix` and `contrastive` on 4,000 pairs; and
``recipes=best_<domain>``. Three seeds of the script and of the best recipe, one of the others. A
domain without a best recipe is told and left out of that.

Everything is scored on the report half of the domain's queries; settings were chosen on the select
half. E-commerce has few queries: there the best recipe is trained five times a seed, each time with
another fifth of them as report half, so that all of them report, and the systems that select
nothing are scored on all. With their first seed the starter, the script and the best recipe are
scored on the other sets too (general questions, natively Traditional ones, similarity), and on the
legal questions and articles converted to Traditional. Starter and script are scored as ONNX fp32,
which is held against torch first and takes half of its time; of the best recipe that is the bundle
it published. Minutes are of what comes before a trained model: for a recipe its stages but export,
evaluation and report, for the script its one process.

Prints first what the whole plan takes (under 12 h on 2 cores) and what is missing. Writes one JSON
a run to ``benchmarks/results/domains/`` as it ends (seed, versions, scores of every query, no text)
and ``table.md``; what is there is not repeated.
"""

import argparse
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

from comparison import table
from runs import RESULTS, ROOT, run, versions
from systems import CONVERTED, DOMAINS, FOLDS, METHODS, PAIRS, ROTATED, System, hours, systems

from finetune import model as models
from finetune.commands import scoring
from finetune.config.compose import choices, compose
from finetune.data.beir import read_folder
from finetune.data.script import convert_set
from finetune.evaluation.artifacts import Outcome, lexical, read_outcome
from finetune.evaluation.statistics import interval
from finetune.export import Origin, export_bundle
from finetune.inference.script import converter
from finetune.sets import AnySet, EvaluationSet, write_set
from finetune.starter import build_starter

FOLDER = RESULTS / "domains"
STS = ("afqmc", "atec", "bq", "chinese_sts", "lcqmc", "medical_qqr", "oppo_xiaobu", "pawsx_zh",
       "stsb_zh")  # fmt: skip
OTHERS = ("general", "traditional", *(f"sts/{name}" for name in STS))
ARTIFACTS = ("onnx-fp32", "onnx-int8-dynamic")
TRADITIONAL = f"{CONVERTED}+traditional"
BEHIND = {"export", "report"}  # the model; evaluations are too
PARITY_TEXTS = 100
_SAMPLES = 2_000


class Lab:
    """Where the data, the starter and what is trained lie."""

    def __init__(self, data: Path, work: Path) -> None:
        """Build the starter where it is not there.

        Args:
            data: The domains' folders.
            work: For what need not last.
        """
        self.data, self.work, self.starter = data.resolve(), work, work / "starter"
        if not (self.starter / "modules.json").is_file():
            build_starter(self.starter)

    def result(self, system: System) -> dict[str, Any] | None:
        """Train and score a system; None where that failed."""
        if system.name == "bm25":
            return {"values": values(lexical(self.questions(system)))}
        if system.recipe is not None:
            return self.trained(system)
        start = time.monotonic()
        if system.name == "plain":
            self.plain(system)
        taken = {"minutes": round((time.monotonic() - start) / 60, 1)}
        model = self.starter if system.name == "starter" else self.work / system.label / "model"
        found = self.scored(system, self.exported(model, system), [self.questions(system)])
        return {
            **(taken if system.name == "plain" else {}),
            "values": values(found.pop(system.domain)),
            **beyond(found),
        }

    def questions(self, system: System) -> EvaluationSet:
        """The questions that a system without a select half is scored on."""
        if system.domain == ROTATED:
            return read_folder(self.data / system.domain)
        return scoring.read(self.data / system.domain, "report")

    def plain(self, system: System) -> None:
        """Train as everybody does, on pairs drawn at random."""
        lines = read_lines(self.data / system.domain / "train.jsonl")
        drawn = random.Random(system.seed).sample(lines, PAIRS)
        folder = self.work / system.label
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_text("".join(drawn), encoding="utf-8")
        script = [sys.executable, ROOT / "benchmarks/plain.py", folder / "train.jsonl",
                  self.starter, folder, "--seed", system.seed]  # fmt: skip
        subprocess.run(list(map(str, script)), check=True, stdout=subprocess.DEVNULL)

    def exported(self, model: Path, system: System) -> Path:
        """A model folder as a bundle in fp32, made once and compared with torch."""
        bundle = model.with_name(f"{model.name}-bundle")
        if not bundle.is_dir():
            loaded = models.load(model)
            texts = list(self.questions(system).queries.values())[:PARITY_TEXTS]
            origin = Origin(system.name, "intfloat/multilingual-e5-small", "unknown", "mit")
            config = compose(["recipes=full", "export.precisions=[fp32]"])
            export_bundle(loaded, models.TorchEncoder(loaded), texts, bundle, origin, config.export)
        return bundle

    def scored(self, system: System, bundle: Path, own: Sequence[AnySet]) -> dict[str, Outcome]:
        """Score a bundle's fp32 on some sets, and on those beyond the domain that are asked for."""
        sets = list(own)
        if system.converted:
            asked = dataclasses.replace(self.questions(system), name=TRADITIONAL)
            sets.append(convert_set(asked, converter("s2t")))
        if system.elsewhere:
            there = [self.data / name for name in OTHERS if (self.data / name).is_dir()]
            sets += [scoring.read(folder, "all") for folder in there]
        ((_, found),) = scoring.outcomes(bundle, sets, "fp32") if sets else [("", {})]
        return found

    def trained(self, system: System) -> dict[str, Any] | None:
        """Run the pipeline, and score what it published beyond the domain."""
        words = [f"recipes={system.recipe}", f"domain={system.domain}", "model=starter",
                 f"paths.data={self.data}", f"seed={system.seed}"]  # fmt: skip
        if system.name in METHODS:
            words += [f"limit={PAIRS}", "export.precisions=[fp32]", "evaluate.general=null"]
        words += ["check.leak=strict"] if system.name == "strict" else []
        words += self.rotated(system)
        out = ROOT / "runs" / f"runs-{system.label}"
        if not (out / "outcomes").is_dir():  # what each query got, which the run's JSON has not
            (self.work / f"runs/{system.label}.json").unlink(missing_ok=True)
        done = run(system.label, words, self.work / "runs")
        if done is None:
            return None
        scores = {each: out / f"outcomes/{each}/{system.domain}.jsonl"
                  for each in ("tuned", *ARTIFACTS)}  # fmt: skip
        found = {each: values(read_outcome(path))
                 for each, path in scores.items() if path.is_file()}  # fmt: skip
        kept = ("command", "verdict", "gates", "training", "scripts")
        return {
            "minutes": round(minutes(done["stages"]), 1),
            "values": found.pop("tuned"),
            "artifacts": found,
            **{key: done[key] for key in kept if key in done},
            **beyond(self.scored(system, out / "bundle", [])),
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


def minutes(stages: Sequence[Mapping[str, Any]]) -> float:
    """Minutes before a trained model: of all stages, cached ones too, but what comes behind it."""
    behind = BEHIND | {each["name"] for each in stages if each["name"].startswith("evaluate")}
    return sum(each["seconds"] for each in stages if each["name"] not in behind) / 60


def values(found: Outcome) -> dict[str, dict[str, float]]:
    """What each query got, by metric."""
    return {
        metric: dict(zip(found.queries, (round(float(each), 4) for each in column), strict=True))
        for metric, column in found.metrics.items()
    }


def beyond(found: Mapping[str, Outcome]) -> dict[str, Any]:
    """What was scored beyond the domain: each query in Traditional, the other sets as a whole."""
    kept: dict[str, Any] = {}
    for name, each in found.items():
        if name == TRADITIONAL:
            kept["traditional"] = values(each)
            continue
        own = each.metrics[each.main]
        low, high = interval(own, _SAMPLES)
        row = {"value": float(own.mean()), "low": low, "high": high, "n": len(own)}
        kept.setdefault("others", []).append({"set": name, "metric": each.main, **row})
    return kept


def read_lines(path: Path) -> list[str]:
    """Lines of a file, or of the same with ``.gz``."""
    if path.is_file():
        return path.read_text(encoding="utf-8").splitlines(keepends=True)
    with gzip.open(f"{path}.gz", "rt", encoding="utf-8") as file:
        return list(file)


def main() -> int:
    """Run what is missing; print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache/domains")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="runs whose name begins so")
    asked = parser.parse_args()
    if not (asked.data / "legal").is_dir():
        print(f"skipped: no folder {asked.data / 'legal'}; name the data with --data")
        return 0
    recipes = choices("recipes")
    planned = list(systems(asked.seeds, recipes))
    missing = [each for each in planned if each.label.startswith(asked.only)
               and not (FOLDER / f"{each.label}.json").is_file()]  # fmt: skip
    print(f"{len(planned)} runs, about {hours(planned):.1f} h in all; {len(missing)} to do, about "
          f"{hours(missing):.1f} h", flush=True)  # fmt: skip
    for name in [name for name in DOMAINS if f"best_{name}" not in recipes]:
        print(f"no recipe best_{name}: {name} is left without", flush=True)
    lab = Lab(asked.data, asked.work)
    failed = []
    for system in missing:
        result = lab.result(system)
        if result is None:
            failed.append(system.label)
            continue
        FOLDER.mkdir(parents=True, exist_ok=True)
        whole = {**dataclasses.asdict(system), "versions": versions(), **result}
        text = json.dumps(whole, ensure_ascii=False)
        (FOLDER / f"{system.label}.json").write_text(text + "\n", encoding="utf-8")
        (FOLDER / "table.md").write_text(table(FOLDER), encoding="utf-8")
    print(table(FOLDER))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
