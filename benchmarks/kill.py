"""Kill a run at random moments, start it again each time, and compare its weights with a quiet run.

python benchmarks/kill.py --kills 10 --limit 96

Both runs train the starter on statutes in fp32 with their own empty caches. Prints how far the
weights are apart (bar: 1e-6) and writes the result to ``benchmarks/results/kill.json``.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]


def command(folder: Path, limit: int) -> list[str]:
    """The run, up to the tuned model, with everything it writes under ``folder``."""
    return [
        sys.executable, str(ROOT / "train.py"), "recipes=contrastive", "domain=statutes",
        "tracking=none", "hardware=cpu", "hardware.precision=fp32", f"limit={limit}",
        "train.checkpoints=3", "train.batch_size=8", "until=train", f"paths.cache={folder}/cache",
        f"run_dir={folder}/run",
    ]  # fmt: skip


def finish(folder: Path, limit: int) -> float:
    """Run to the end; return the seconds it took."""
    start = time.perf_counter()
    subprocess.run(command(folder, limit), check=True, capture_output=True)
    return time.perf_counter() - start


def kill_often(folder: Path, limit: int, kills: int, seconds: float, seed: int) -> list[float]:
    """Start and kill ``kills`` times, after a random part of a whole run; return the moments."""
    rng = random.Random(seed)
    moments = []
    for _ in range(kills):
        moment = rng.uniform(0.05, 0.6) * seconds
        process = subprocess.Popen(
            command(folder, limit), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            moments.append(round(moment, 1))
        else:
            break  # done before the next kill
    return moments


def weights(folder: Path) -> dict:
    """The tuned model's tensors."""
    (file,) = folder.glob("cache/train/[!.]*/model/model.safetensors")
    return load_file(file)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--limit", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        quiet, killed = Path(name) / "quiet", Path(name) / "killed"
        seconds = finish(quiet, asked.limit)
        moments = kill_often(killed, asked.limit, asked.kills, seconds, asked.seed)
        finish(killed, asked.limit)
        one, other = weights(quiet), weights(killed)
        if one.keys() != other.keys():
            raise RuntimeError("the two models have other tensors")
        apart = max(float(abs(one[key] - other[key]).max()) for key in one)
    result = {"killed_after_seconds": moments, "quiet_seconds": round(seconds, 1),
              "largest_difference": apart, "limit": asked.limit, "seed": asked.seed}  # fmt: skip
    print(json.dumps(result, indent=2))
    folder = ROOT / "benchmarks/results"
    folder.mkdir(exist_ok=True)
    (folder / "kill.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if apart <= 1e-6 else 1


if __name__ == "__main__":
    sys.exit(main())
