"""Four domains: what the best recipe gives, beside BM25, the base and what people do otherwise.

python benchmarks/domains.py --data ../shared/data [--only legal-best] [--seeds 3]

Systems: BM25 on characters and bigrams; the starter; the script that everybody writes (`plain.py`,
4,000 pairs drawn at random); `full`, `lora`, `prefix` and `contrastive` on 4,000 pairs; and
``recipes=best_<domain>``. Three seeds of the script and of the best recipe, one of the others.

Everything is scored on the report half of the domain's queries; settings were chosen on the select
half. E-commerce has few queries: there the best recipe is trained five times a seed, each time with
another fifth of them as report half, so that all of them report, and the systems that select
nothing are scored on all. The best recipe, the script and the starter are scored on the other sets
too: general questions, natively Traditional ones, similarity; with their first seed.

Writes one JSON a run to ``benchmarks/results/domains/`` as it ends (scores of every query, no text)
and ``table.md``; what is there is not repeated.
"""

import argparse
import dataclasses
import gzip
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison import table
from runs import RESULTS, ROOT, run

from finetune.commands import scoring
from finetune.data.beir import read_folder
from finetune.evaluation.artifacts import Outcome, lexical, read_outcome
from finetune.report.scores import measure
from finetune.sets import AnySet, EvaluationSet, write_set
from finetune.starter import build_starter

FOLDER = RESULTS / "domains"
DOMAINS = ("legal", "medical", "ecommerce", "finance")
METHODS = ("full", "lora", "prefix", "contrastive")
PAIRS, FOLDS = 4000, 5
ROTATED = "ecommerce"
STS = ("afqmc", "atec", "bq", "chinese_sts", "lcqmc", "medical_qqr", "oppo_xiaobu", "pawsx_zh",
       "stsb_zh")  # fmt: skip
OTHERS = ("general", "traditional", *(f"sts/{name}" for name in STS))
MINUTES = {"bm25": 0.5, "starter": 30, "plain": 12, "best": 25}  # assumed; 12 for any other
_SAMPLES = 10_000


@dataclass(frozen=True)
class System:
    """One training, or none, on one domain.

    Attributes:
        domain: One of `DOMAINS`.
        name: Of the system.
        seed: Of its training.
        fold: Of the rotation; None where the halves are the usual ones.
    """

    domain: str
    name: str
    seed: int
    fold: int | None = None

    @property
    def label(self) -> str:
        """Name of its JSON."""
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return f"{self.domain}-{self.name}-{self.seed}{fold}"

    @property
    def elsewhere(self) -> bool:
        """Whether it is scored on the other sets too."""
        return self.name in ("plain", "best") and self.seed == 1 and not self.fold


def systems(seeds: int) -> Iterator[System]:
    """All systems, the first seed of each before the second of any."""
    for seed in range(1, seeds + 1):
        for domain in DOMAINS:
            if seed == 1:
                yield from (System(domain, name, 1) for name in ("bm25", "starter"))
            yield System(domain, "plain", seed)
            folds = range(FOLDS) if domain == ROTATED else (None,)
            yield from (System(domain, "best", seed, fold) for fold in folds)
    yield System("legal", "strict", 1)
    yield from (System(domain, name, 1) for domain in DOMAINS for name in METHODS)


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
        start = time.monotonic()
        if system.name == "bm25":
            found = lexical(self.questions(system))
            return {"values": values(found)}
        if system.name == "starter":
            return self.scored(system, self.starter)
        if system.name == "plain":
            self.plain(system)
            minutes = (time.monotonic() - start) / 60
            return {"minutes": round(minutes, 1), **self.scored(system, self.model(system))}
        return self.trained(system)

    def questions(self, system: System) -> EvaluationSet:
        """The questions that a system without a select half is scored on."""
        if system.domain == ROTATED:
            return read_folder(self.data / system.domain)
        return scoring.read(self.data / system.domain, "report")

    def model(self, system: System) -> Path:
        """Where the plain script leaves its model."""
        return self.work / system.label / "model"

    def plain(self, system: System) -> None:
        """Train as everybody does, on pairs drawn at random."""
        lines = read_lines(self.data / system.domain / "train.jsonl")
        drawn = random.Random(system.seed).sample(lines, PAIRS)
        folder = self.work / system.label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.jsonl").write_text("".join(drawn), encoding="utf-8")
        script = [sys.executable, ROOT / "benchmarks/plain.py", folder / "train.jsonl",
                  self.starter, folder, "--seed", system.seed]  # fmt: skip
        subprocess.run(list(map(str, script)), check=True, stdout=subprocess.DEVNULL)

    def scored(self, system: System, model: Path) -> dict[str, Any]:
        """Score a model folder on the domain and, where that is asked, on the other sets."""
        sets: list[AnySet] = [self.questions(system)]
        if system.elsewhere or system.name == "starter":
            sets += [scoring.read(self.data / each, "all") for each in self.others(system)]
        ((_, found),) = scoring.outcomes(model, sets, None)
        own = found.pop(system.domain)
        return {"values": values(own), "others": others(found)}

    def others(self, system: System) -> Sequence[str]:
        """The other sets; the starter's scores on them are those of one domain."""
        wanted = system.name != "starter" or system.domain == DOMAINS[0]
        return [each for each in OTHERS if wanted and (self.data / each).is_dir()]

    def trained(self, system: System) -> dict[str, Any] | None:
        """Run the pipeline, and score what it published on the other sets."""
        words = [f"recipes={recipe(system)}", f"domain={system.domain}", "model=starter",
                 f"paths.data={self.data}", f"seed={system.seed}"]  # fmt: skip
        words += [f"limit={PAIRS}"] if system.name in METHODS else []
        words += ["check.leak=strict"] if system.name == "strict" else []
        words += self.rotated(system)
        done = run(system.label, words, self.work / "runs")
        if done is None:
            return None
        out = ROOT / "runs" / f"runs-{system.label}"
        found = {each: values(read_outcome(out / f"outcomes/{each}/{system.domain}.jsonl"))
                 for each in ("tuned", "onnx-int8-dynamic")}  # fmt: skip
        kept = {
            key: done[key] for key in ("verdict", "gates", "training", "scripts") if key in done
        }
        result = {
            "command": done["command"],
            "minutes": round(done["seconds"] / 60, 1),
            "values": found["tuned"],
            "int8": found["onnx-int8-dynamic"]["ndcg@10"],
            **kept,
        }
        if system.elsewhere:
            sets = [scoring.read(self.data / each, "all") for each in self.others(system)]
            ((_, more),) = scoring.outcomes(out / "bundle", sets, "fp32")
            result["others"] = others(more)
        return result

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


def recipe(system: System) -> str:
    """Name of the recipe that trains a system."""
    return system.name if system.name in METHODS else f"best_{system.domain}"


def values(found: Outcome) -> dict[str, dict[str, float]]:
    """What each query got, by metric."""
    return {
        metric: dict(zip(found.queries, (round(float(each), 4) for each in column), strict=True))
        for metric, column in found.metrics.items()
    }


def others(found: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """Scores on the other sets, by the metric that decides."""
    rows = measure({"base": found}, _SAMPLES, 0)
    return [{"set": row.set, "metric": row.metric, "value": row.value, "n": row.n}
            for row in rows if row.set in found and row.metric == found[row.set].main]  # fmt: skip


def read_lines(path: Path) -> list[str]:
    """Lines of a file, or of the same with ``.gz``."""
    if path.is_file():
        return path.read_text(encoding="utf-8").splitlines(keepends=True)
    with gzip.open(f"{path}.gz", "rt", encoding="utf-8") as file:
        return list(file)


def forecast(missing: Sequence[System]) -> float:
    """Hours that the runs which are not there take, roughly."""
    return sum(MINUTES.get(each.name, 12) for each in missing) / 60


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
    wanted = [each for each in systems(asked.seeds) if each.label.startswith(asked.only)]
    missing = [each for each in wanted if not (FOLDER / f"{each.label}.json").is_file()]
    print(f"{len(missing)} runs, about {forecast(missing):.1f} h", flush=True)
    lab = Lab(asked.data, asked.work)
    failed = []
    for system in missing:
        result = lab.result(system)
        if result is None:
            failed.append(system.label)
            continue
        FOLDER.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**dataclasses.asdict(system), **result}, ensure_ascii=False)
        (FOLDER / f"{system.label}.json").write_text(text + "\n", encoding="utf-8")
        (FOLDER / "table.md").write_text(table(FOLDER), encoding="utf-8")
    print(table(FOLDER))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
