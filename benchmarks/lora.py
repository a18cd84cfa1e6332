"""What LoRA costs and gives, against full tuning on the same pairs, batches and epochs.

python benchmarks/lora.py --data ../shared/data --domain legal --pairs 2000

The cost is time x memory of the train step (its guard and, for LoRA, the frozen layers included):
seconds, times peak resident memory minus what is resident after all imports. Each step runs in a
process of its own; then the rest of the run scores the model on the report half. Writes every run
to ``benchmarks/results/lora.json`` as it ends; a run that is there is not repeated. Bar: at most
30 % of full tuning's cost, NDCG@10 within half a point. More overrides (``hardware.threads=2``)
may follow, and count for both.
"""

import argparse
import importlib
import json
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks/results/lora.json"
METHODS = ("full", "lora")
# All that either method needs, so that both start from the same resident memory.
IMPORTS = ("finetune.pipeline", "finetune.training.train", "finetune.adapter.lora", "onnxruntime")
MAX_COST, MAX_LOSS = 0.30, 0.005


def command(asked: argparse.Namespace, method: str) -> list[str]:
    """The run's overrides."""
    work = asked.work.resolve()
    return [
        f"recipes={method}", f"domain={asked.domain}", f"paths.data={asked.data.resolve()}",
        f"limit={asked.pairs}", f"train.epochs={asked.epochs}", f"seed={asked.seed}",
        "tracking=none", f"paths.cache={work}/cache", f"run_dir={work}/{name(asked, method)}",
        *asked.overrides,
    ]  # fmt: skip


def name(asked: argparse.Namespace, method: str) -> str:
    """What tells a run from others in the results."""
    parts = [method, asked.domain, f"{asked.pairs}-pairs", f"{asked.epochs:g}-epochs",
             f"seed-{asked.seed}", *asked.overrides]  # fmt: skip
    return "_".join(parts).replace("/", "-")


def measure(asked: argparse.Namespace, method: str) -> dict[str, float]:
    """Run the train step in this process; seconds and mebibytes."""
    for module in IMPORTS:
        importlib.import_module(module)
    from finetune import pipeline
    from finetune.config.compose import compose
    from finetune.stage import plan

    config = pipeline.resolve(compose([*command(asked, method), "until=train"]))
    planned = plan(pipeline.steps_of(config), config.paths.cache)
    step = next(each for each in planned if each.step.name == "train")
    for left in (step.folder, step.partial):  # an attempt that was cut short
        shutil.rmtree(left, ignore_errors=True)
    before, peak, done = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    pipeline.run(config)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(seconds, 1), "mib_after_imports": round(before, 1),
            "mib_peak_sampled": round(peak[0], 1), "mib_peak": round(most, 1),
            "mib": round(most - before, 1)}  # fmt: skip


def resident() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def run(asked: argparse.Namespace, method: str) -> dict:
    """Prepare, measure, score: each in a process of its own."""
    train = [sys.executable, str(ROOT / "train.py"), *command(asked, method)]
    subprocess.run([*train, "until=pool"], check=True)
    own = [sys.executable, __file__, "--measure", method, *sys.argv[1:]]
    told = subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(told.splitlines()[-1])
    code = subprocess.run(train, check=False).returncode
    if code not in (0, 3):  # 3: a gate failed
        raise SystemExit(code)
    folder = asked.work / name(asked, method)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    for row in report["scores"]:
        if row["metric"] == "ndcg@10" and row["set"] == report["about"]["domain_set"]:
            if row["artifact"] in ("base", "tuned"):
                found[row["artifact"]] = {key: row[key] for key in ("value", "ci_low", "ci_high")}
    kept = ("best_step", "steps", "improved", "parameters", "trainable_parameters")
    return found | {key: report["training"][key] for key in kept}


def compare(full: dict, lora: dict) -> dict:
    """LoRA against full: cost as a share, NDCG@10 as a difference (a point is 0.01)."""
    cost = {part: lora[part] / full[part] for part in ("seconds", "mib")}
    share = cost["seconds"] * cost["mib"]
    gained = lora["tuned"]["value"] - full["tuned"]["value"]
    return {"time": round(cost["seconds"], 3), "memory": round(cost["mib"], 3),
            "time_x_memory": round(share, 3), "ndcg@10": round(gained, 4),
            "passed": share <= MAX_COST and gained >= -MAX_LOSS}  # fmt: skip


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--domain", default="legal", choices=("legal", "finance"))
    parser.add_argument("--pairs", type=int, default=2_000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--work", type=Path, default=ROOT / ".cache/benchmark-lora")
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    if not (asked.data / asked.domain).is_dir():
        print(f"skipped: no folder {asked.data / asked.domain}; name the data with --data")
        return 0
    if asked.measure:
        print(json.dumps(measure(asked, asked.measure)))
        return 0
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for method in METHODS:
        key = name(asked, method)
        if key not in results:
            results[key] = run(asked, method)
            write(results)
        print(key, json.dumps(results[key], indent=1))
    both = compare(*(results[name(asked, method)] for method in METHODS))
    results[name(asked, "lora-against-full")] = both
    write(results)
    print(json.dumps(both, indent=1))
    return 0 if both["passed"] else 1


def write(results: dict) -> None:
    """Write the results, whole or not at all."""
    RESULTS.parent.mkdir(exist_ok=True)
    partial = RESULTS.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    partial.replace(RESULTS)


if __name__ == "__main__":
    sys.exit(main())
