"""How much memory training rows take, which stay on disk.

python benchmarks/rows.py [--pairs 1000000]

Generated pairs with a mined negative each, made ready for training, and the batches of an epoch: of
50,000 and of ``--pairs``, each in a process of its own. Writes ``benchmarks/results/rows.json``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from common.questions import pairs
from common.runs import RESULTS

from finetune import disk
from finetune.records import Mined, write_jsonl
from finetune.training.mixing import Part, examples

BATCH = 64


def rows(count: int) -> Iterator[Mined]:
    """Pairs of which each has the next one's answer as its negative."""
    made = pairwise(pairs(count + 1, 1))
    for number, (row, after) in enumerate(made):
        yield Mined(str(number), row["query"], row["positive"], (after["positive"],), (0.9, 0.5),
                    "generated")  # fmt: skip


def held(kind: str) -> float:
    """MiB that this process holds now: ``RssAnon`` its own, ``VmHWM`` at most, files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


def many(file: Path) -> dict[str, Any]:
    """Make the rows of a file ready, and go through an epoch."""
    before, start = held("RssAnon"), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        found = disk.rows(file, Mined)
        fed = examples([Part("domain", found, {})], [], {}, BATCH, 0, Path(folder))
        made, ready = held("RssAnon"), time.perf_counter()
        batches = sum(1 for _ in fed.batches)
        largest = max(made, held("RssAnon"))
    return {"pairs": len(found), "file_mib": round(file.stat().st_size / 2**20),
            "before_mib": round(before), "held_mib": round(largest),
            "bytes_a_row": round((largest - before) * 2**20 / len(found)), "batches": batches,
            "seconds": round(ready - start), "epoch_seconds": round(time.perf_counter() - ready),
            "peak_with_files_mib": round(held("VmHWM"))}  # fmt: skip


def main() -> int:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--child", type=Path, help="measure this file here, and print JSON")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(many(arguments.child)))
        return 0
    result = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.jsonl"
        for count in sorted({50_000, arguments.pairs}):
            write_jsonl(file, rows(count))
            command = [sys.executable, __file__, "--child", str(file)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(result[-1]))
    text = json.dumps(result, indent=2) + "\n"
    (RESULTS / "rows.json").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
