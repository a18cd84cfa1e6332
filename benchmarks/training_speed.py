"""Training pairs a second: our full tuning against the plain script, in fp32 and in bf16.

python benchmarks/training_speed.py --data ../shared/data --pairs 640 --rounds 3

The same pairs of the legal set, batch of 32, prompts and truncation (256 tokens); each measurement
in a process of its own, the four interleaved, medians over the rounds. Ours includes what the
others leave out: the guard and the checkpoints. Bars: 2.5 times the fp32 script, 1.2 times the bf16
one. Ours is measured with torch's fused attention too (``hardware.attention=sdpa``). Writes
``benchmarks/results/training_speed.json``; wants a machine that does nothing else.
"""

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
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
    out = asked.work / "plain"
    line = [
        sys.executable, str(ROOT / "benchmarks/plain.py"), str(folders["data"] / "train.jsonl"),
        str(folders["base"] / "model"), str(out), "--precision", precision,
        "--max-length", str(asked.max_length),
    ]  # fmt: skip
    told = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
    shutil.rmtree(out)
    return float(json.loads(told.splitlines()[-1])["pairs_per_second"])


def cpu() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(names)} cores"


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
    medians = {name: statistics.median(values) for name, values in measured.items()}
    ratios = {name: round(medians["ours"] / medians[name], 2) for name in list(medians)[1:]}
    result = {
        "cpu": cpu(), "pairs": asked.pairs, "max_length": asked.max_length, "batch_size": 32,
        "pairs_per_second": measured, "ratio": ratios, "bars": BARS,
        "passed": all(ratios[name] >= bar for name, bar in BARS.items()),
    }  # fmt: skip
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
