"""Train in one process, in two, and in two that are killed halfway and started again.

python benchmarks/processes.py --limit 96

All three train the starter on statutes in fp32, dropout 0, with the same batches. Prints the loss
of every step and how far they are apart (bar: 1e-4; they add in another order), and writes it to
``benchmarks/results/processes.json``.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
BAR = 1e-4
ONE = [sys.executable]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(launcher: list[str], cache: Path, limit: int) -> subprocess.Popen:
    """Start a run up to the tuned model; runs with the same cache share the steps before it."""
    line = [
        *launcher, str(ROOT / "train.py"), "recipes=full", "domain=statutes", "tracking=none",
        "hardware=cpu", "hardware.precision=fp32", f"limit={limit}", "train.batch_size=8",
        "train.dropout=0", "train.checkpoints=12", "until=train", f"paths.cache={cache}",
        f"run_dir={cache}/run",
    ]  # fmt: skip
    return subprocess.Popen(line, cwd=ROOT)


def finish(process: subprocess.Popen) -> None:
    """Wait for a run that must succeed."""
    if process.wait() != 0:
        raise RuntimeError(f"a run ended with {process.returncode}")


def losses(folder: Path) -> dict[int, float]:
    """The loss of each step that a training has logged in a finished or partial folder."""
    curves = folder / "curves.jsonl"
    lines = curves.read_text("utf-8").splitlines() if curves.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def made(cache: Path, *before: Path) -> Path:
    """The folder of the one training that was not there before."""
    (folder,) = (path for path in (cache / "train").glob("[!.]*") if path not in before)
    return folder


def kill_at(cache: Path, limit: int, step: int) -> None:
    """Start two processes, and kill them and their launcher once a step is logged."""
    process = start(TWO, cache, limit)
    while not any(step in losses(path) for path in cache.glob("train/.partial-*")):
        if process.poll() is not None:
            raise RuntimeError("the run ended before it could be killed")
        time.sleep(0.1)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("ascii").split()
    for each in (process.pid, *map(int, workers)):
        os.kill(each, signal.SIGKILL)
    process.wait()


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=96)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        finish(start(ONE, cache, asked.limit))
        one = made(cache)
        finish(start(TWO, cache, asked.limit))
        two = made(cache, one)
        shared = losses(two)
        two.rename(cache / "two")
        kill_at(cache, asked.limit, len(shared) // 2)
        finish(start(TWO, cache, asked.limit))
        columns = [losses(one), shared, losses(made(cache, one))]
    if not columns[0].keys() == columns[1].keys() == columns[2].keys():
        raise RuntimeError("the runs logged other steps")
    rows = [[step, *(column[step] for column in columns)] for step in columns[0]]
    print("step       one       two   resumed")
    for step, *values in rows:
        print(f"{step:4d} " + " ".join(f"{value:9.6f}" for value in values))
    apart = {name: max(abs(row[1] - row[at]) for row in rows)
             for name, at in (("two", 2), ("two, killed and resumed", 3))}  # fmt: skip
    result = {"largest_difference_from_one": apart, "bar": BAR, "limit": asked.limit,
              "losses": [dict(zip(("step", "one", "two", "resumed"), row, strict=True))
                         for row in rows]}  # fmt: skip
    print(json.dumps(apart, indent=2))
    path = ROOT / "benchmarks/results/processes.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if max(apart.values()) <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
