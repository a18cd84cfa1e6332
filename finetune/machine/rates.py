"""How fast this machine is: a table to begin with, corrected by what earlier runs took here.

Seconds are operations over a rate of the table, and that is multiplied with the median ratio of
measured to predicted seconds of the last runs of the same step on the same machine. Runs write
them to ``<cache>/times.jsonl``, so the second run on a machine is told better than the first.
"""

import json
from pathlib import Path
from statistics import median
from typing import Any

from finetune.machine import hardware

_TIMES = "times.jsonl"
_REMEMBERED = 5  # runs

# Operations a second and thread on a CPU: what the steps of the demo did on an idle AMD EPYC with
# AVX512-BF16 and VNNI, 2 threads. A CPU with AVX2 only has about half.
# fp16 computes in fp32 there.
_PER_THREAD = {"train-bf16": 105e9, "train-fp32": 52e9, "torch": 73e9, "onnx-fp32": 150e9,
               "onnx-fp16": 150e9, "onnx-int8-dynamic": 340e9, "onnx-int8-static": 340e9,
               "openvino-int8": 370e9}  # fmt: skip
_EXPORTED = ("onnx", "openvino")
# Peak of a GPU in 16 and in 32 bits (vendors' data sheets), by profile. What of it is used is a
# guess until a run was timed: lengths vary, and these models are small.
PEAK = {"v100": (125e12, 15.7e12), "a10": (125e12, 31.2e12), "a100": (312e12, 19.5e12),
         "h100": (989e12, 67e12)}  # fmt: skip
_USED = 0.25


def rate(work: str, device: str, threads: int, precision: str = "fp32") -> float:
    """Operations a second of ``train``, ``torch`` (encoding) or an exported artifact.

    These run on the CPU, also beside a GPU.
    """
    if device == "cpu" or is_exported(work):
        name = f"{work}-{precision}" if work == "train" else work
        return threads * _PER_THREAD[name]
    in_16_bits, in_32_bits = PEAK[hardware.fitting(device)]
    return _USED * (in_32_bits if precision == "fp32" else in_16_bits)


def is_exported(work: str) -> bool:
    """Say whether an artifact is run without torch."""
    return work.startswith(_EXPORTED)


def remember(cache: Path, step: str, machine: str, predicted: float, took: float) -> None:
    """Write down what a step took."""
    row = {"step": step, "machine": machine, "predicted": round(predicted, 3), "took": took}
    with (cache / _TIMES).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def corrections(cache: Path, machine: str) -> dict[str, float]:
    """By step: what earlier runs on this machine took, over what was predicted."""
    path = cache / _TIMES
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    ratios: dict[str, list[float]] = {}
    for row in filter(None, map(_row, lines)):
        if row["machine"] == machine and row["predicted"]:
            ratios.setdefault(row["step"], []).append(row["took"] / row["predicted"])
    return {step: median(found[-_REMEMBERED:]) for step, found in ratios.items()}


def _row(line: str) -> dict[str, Any] | None:
    """A row; of a line that a kill or a full disk cut short, perhaps with a row behind it, none."""
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return row
