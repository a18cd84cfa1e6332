"""What this machine can do, and what a run should therefore use."""

import dataclasses
import os
from pathlib import Path

from finetune import processes
from finetune.config import Hardware, Precision
from finetune.errors import UserError


def resolve(hardware: Hardware) -> Hardware:
    """Replace every ``auto`` by what this machine offers; the result is part of the stage keys.

    Raises:
        UserError: When the machine cannot run what is asked for.
    """
    device = hardware.device
    if device == "auto":
        device = "cuda" if has_nvidia() else "cpu"
    if device == "cuda" and not has_nvidia():
        raise UserError(
            f"hardware={hardware.name}: no NVIDIA GPU on this machine; set hardware=cpu, or run "
            "`finetune doctor` to see why"
        )
    best = _cuda_precision() if device == "cuda" else _cpu_precision()
    precision = best if hardware.precision is Precision.auto else hardware.precision
    if device == "cuda" and precision is Precision.bf16 and best is not Precision.bf16:
        raise UserError(
            "hardware.precision=bf16: this GPU has no bf16; set hardware=v100 (fp16 with a loss "
            "scaler)"
        )
    if device == "cpu" and precision is Precision.fp16:
        raise UserError("hardware.precision=fp16: needs a GPU; set hardware=cpu")
    started = processes.count()
    if hardware.processes not in (0, started):
        raise UserError(
            f"hardware.processes={hardware.processes}: {started} started; start as many with "
            f"torchrun --nproc_per_node {hardware.processes} train.py ..."
        )
    threads = hardware.threads or usable_cpus()
    return dataclasses.replace(
        hardware, device=device, precision=precision, threads=threads, processes=started
    )


def has_nvidia() -> bool:
    """True when an NVIDIA device node is there (asked without importing torch)."""
    return Path("/dev/nvidia0").exists()


def usable_cpus() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_flags() -> set[str]:
    """Instruction-set flags of the first CPU (empty where /proc does not tell)."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return set()
    for line in info.read_text(encoding="utf-8").splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.split(":", 1)[1].split())
    return set()


def _cpu_precision() -> Precision:
    # bf16 doubles training speed where the CPU multiplies it natively, and halves it elsewhere.
    native = cpu_flags() & {"avx512_bf16", "amx_bf16"}
    return Precision.bf16 if native else Precision.fp32


def _cuda_precision() -> Precision:
    import torch

    return Precision.bf16 if torch.cuda.get_device_capability() >= (8, 0) else Precision.fp16
