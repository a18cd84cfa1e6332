"""Training pairs a second: our full tuning against the plain script, in fp32 and in bf16.

python benchmarks/training_speed.py --data ../shared/data --pairs 640 --rounds 3

The same pairs of the legal set, batch of 32, prompts and truncation (256 tokens); each measurement
in a process of its own, the four interleaved, medians over the rounds. Ours includes what the
others leave out: the guard and the checkpoints. Bars: 2.5 times the fp32 script, 1.2 times the bf16
one, and NDCG@10 on the report half of legal, of the models of the last round, not below either's.
Ours is measured with torch's fused attention too (``hardware.attention=sdpa``). Writes
``benchmarks/results/training_speed.json``; wants a machine that does nothing else.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from finetune import cpu  # noqa: E402

RESULTS = ROOT / "benchmarks/results/training_speed.json"
BARS = {"fp32": 2.5, "bf16": 1.2}


def overrides(asked: argparse.Namespace, *more: str) -> list[str]:
    """The run's, up to the trained model."""
    work = asked.work.resolve()
    return [
        "recipes=full", "domain=legal", f"paths.data={asked.data.resolve()}", "tracking=none",
        f"limit={asked.pairs}", f"train.max_length={asked.max_length}", "until=train",
        f"paths.cache={work}/cache", f"run_dir={work}/run",
        *more,
    ]  # fmt: skip


def steps(asked: argparse.Namespace, *more: str) -> dict[str, Path]:
    """Where each step's output lies, by step name."""
    from finetune import pipeline
    from finetune.config.compose import compose
    from finetune.stage import plan

    config = pipeline.resolve(compose(overrides(asked, *more)))
    return {each.step.name: each.folder
            for each in plan(pipeline.steps_of(config), config.paths.cache)}  # fmt: skip


def ours(asked: argparse.Namespace, *more: str) -> float:
    """Train with the recipe; pairs a second."""
    folder = steps(asked, *more)["train"]
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, str(ROOT / "train.py"), *overrides(asked, *more)], check=True)
    result = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return float(result["pairs_per_second"])


def plain(asked: argparse.Namespace, folders: dict[str, Path], precision: str) -> float:
    """Train with the plain script; pairs a second."""
    out = asked.work / f"plain-{precision}"
    shutil.rmtree(out, ignore_errors=True)
    line = [
        sys.executable, str(ROOT / "benchmarks/plain.py"), str(folders["data"] / "train.jsonl"),
        str(folders["base"] / "model"), str(out), "--precision", precision,
        "--max-length", str(asked.max_length),
    ]  # fmt: skip
    told = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(json.loads(told.splitlines()[-1])["pairs_per_second"])


def quality(model: Path, data: Path) -> float:
    """NDCG@10 of a model folder on the report half of legal."""
    from finetune.commands.scoring import evaluate

    rows = evaluate(model, [data / "legal"], "report", None)
    return next(row.value for row in rows if (row.set, row.metric) == ("legal", "ndcg@10"))


def judged(measured: Mapping[str, Sequence[float]], ndcg: Mapping[str, float]) -> dict[str, Any]:
    """Medians, ratios and whether every bar is met.

    Args:
        measured: Pairs a second, by what trained: ``ours``, the scripts of `BARS`, and others.
        ndcg: NDCG@10 of ours and of the scripts' models.
    """
    medians = {name: statistics.median(values) for name, values in measured.items()}
    ratios = {name: round(medians["ours"] / medians[name], 2) for name in medians
              if name != "ours"}  # fmt: skip
    fast = all(ratios[name] >= bar for name, bar in BARS.items())
    good = all(ndcg["ours"] >= ndcg[name] for name in BARS)
    return {
        "pairs_per_second": dict(measured), "ratio": ratios, "bars": BARS,
        "ndcg@10": {name: round(value, 4) for name, value in ndcg.items()},
        "passed": fast and good,
    }  # fmt: skip


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--pairs", type=int, default=640)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=ROOT / ".cache/benchmark-speed")
    asked = parser.parse_args()
    if not (asked.data / "legal").is_dir():
        print(f"skipped: no folder {asked.data / 'legal'}; name the data with --data")
        return 0
    folders = steps(asked)
    subprocess.run([sys.executable, str(ROOT / "train.py"), *overrides(asked), "until=pool"],
                   check=True)  # fmt: skip
    measured: dict[str, list[float]] = {name: [] for name in ("ours", "ours, sdpa", *BARS)}
    for _ in range(asked.rounds):
        measured["ours"].append(ours(asked))
        measured["ours, sdpa"].append(ours(asked, "hardware.attention=sdpa"))
        for precision in BARS:
            measured[precision].append(plain(asked, folders, precision))
        print(json.dumps(measured), flush=True)
    models = {"ours": folders["train"] / "model"}
    models |= {name: asked.work / f"plain-{name}/model" for name in BARS}
    ndcg = {name: quality(folder, asked.data) for name, folder in models.items()}
    result = {
        "cpu": cpu.described(), "pairs": asked.pairs, "max_length": asked.max_length,
        "batch_size": 32,
        **judged(measured, ndcg),
    }  # fmt: skip
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
