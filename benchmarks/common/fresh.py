"""What a process takes from its start: CPU seconds to its first vector, and memory at its peak."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.engines import ROOT, bundle, texts_of

CHUNK = 8192  # texts that the core tokenises and sorts together (finetune.inference.onnx)
LONG, OTHERS = 2000, 64  # characters of a long text; so many of them differ
FIRST = (
    "import sys; from pathlib import Path; from finetune.inference import OnnxEncoder\n"
    "encoder = OnnxEncoder.load(Path(sys.argv[1]), sys.argv[2])\n"
)
COLD = FIRST + "encoder.encode(['房东不退押金怎么办'], 'query')"
# Texts, how often, and after how many vectors to stop. Not the peak that wait4 tells: a child
# begins with its parent's.
MANY = FIRST + (
    "texts = Path(sys.argv[3]).read_text('utf-8').split('\\0') * int(sys.argv[4])\n"
    "left = int(sys.argv[5])\n"
    "def count(done):\n"
    "    global left\n"
    "    left -= done\n"
    "    if left <= 0:\n"
    "        lines = Path('/proc/self/status').read_text().splitlines()\n"
    "        print(next(line.split()[1] for line in lines if line.startswith('VmHWM')))\n"
    "        sys.exit()\n"
    "encoder.encode(texts, progress=count)"
)


def cold(asked: argparse.Namespace) -> dict[str, float]:
    """Median CPU seconds from the start of a process to the first vector, of INT8."""
    runs: dict[str, list[float]] = {name: [] for name in asked.models}
    for _ in range(asked.rounds):
        for name, values in runs.items():
            made = bundle(name, asked.work, asked.data)
            values.append(python(COLD, str(made), "int8-dynamic")[0])
    return {name: round(statistics.median(values), 3) for name, values in runs.items()}


def memory(asked: argparse.Namespace) -> dict[str, Any]:
    """Peak MB while encoding, and the bar: twice the model file and 200 MB.

    Of a chunk of long texts all are tokenised, and the vectors of some are enough: its batches are
    all alike.
    """
    real = texts_of(asked.data, asked.limit)
    long = [(text * LONG)[:LONG] for text in real[:OTHERS]]
    found: dict[str, Any] = {}
    for name in asked.models:
        made = bundle(name, asked.work, asked.data)
        for precision in ("int8-dynamic", "fp32"):
            size = (made / precision / "model.onnx").stat().st_size / 1e6
            for kind, texts, times in (("", real, 1), (" long", long, CHUNK // len(long))):
                most = peak(made, precision, texts, times)
                found[f"{name} {precision}{kind}"] = {
                    "peak_mb": round(most), "bar_mb": round(2 * size + 200),
                    "met": most <= 2 * size + 200,
                }  # fmt: skip
    return found


def peak(made: Path, precision: str, texts: Sequence[str], times: int) -> float:
    """Peak MB of a process that is given texts so many times, and makes each one's vector once."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts"
        file.write_text("\0".join(texts), encoding="utf-8")
        words = (str(made), precision, str(file), str(times), str(len(texts)))
        return int(python(MANY, *words)[1]) * 1024 / 1e6


def python(code: str, *words: str) -> tuple[float, str]:
    """CPU seconds of a Python process from its start, and what it printed."""
    command = [sys.executable, "-c", code, *words]
    before = os.times()
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        check=True,
    )  # fmt: skip
    after = os.times()
    spent = after.children_user - before.children_user
    return spent + after.children_system - before.children_system, done.stdout
