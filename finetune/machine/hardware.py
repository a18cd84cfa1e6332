"""What this machine can do, and what a run should therefore use."""

import contextlib
import ctypes
import dataclasses
import gc
import importlib.util
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from finetune import cpu
from finetune.config import Hardware
from finetune.config.choices import Precision
from finetune.config.compose import ROOT
from finetune.errors import UserError
from finetune.machine import processes

MIB = 1024**2
_ASKED = ("name", "compute_cap", "memory.total", "memory.free", "uuid")
_NODES = Path("/dev")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as its driver describes it; memory in bytes."""

    name: str
    capability: tuple[int, int]
    memory: int
    free: int


def resolve(hardware: Hardware) -> Hardware:
    """Replace every ``auto`` by what this machine offers; the result is part of the stage keys.

    Raises:
        UserError: When the machine cannot run what is asked for.
    """
    device = hardware.device
    if device == "auto":
        device = "cuda" if has_nvidia() else "cpu"
    if device == "cuda" and not has_nvidia():
        by_device = hardware.name in ("auto", "cpu")  # the other profiles are of GPUs
        key, value = ("hardware.device", device) if by_device else ("hardware", hardware.name)
        raise UserError(
            f"{key}={value}: no NVIDIA GPU on this machine{chosen()}; set {key}=cpu, or run "
            "`finetune doctor` to see why"
        )
    best = _cuda_precision() if device == "cuda" else _cpu_precision()
    precision = best if hardware.precision is Precision.auto else hardware.precision
    if device == "cuda" and precision is Precision.bf16 and best is not Precision.bf16:
        raise UserError(
            "hardware.precision=bf16: this GPU has no bf16; set hardware=auto and leave "
            "hardware.precision out, or set it to fp16"
        )
    if device == "cpu" and precision is Precision.fp16:
        raise UserError(
            "hardware.precision=fp16: needs a GPU; leave hardware.precision out, or set it to auto"
        )
    started = processes.count()
    if hardware.processes not in (0, started):
        raise UserError(
            f"hardware.processes={hardware.processes}: {started} started; start as many with "
            f"torchrun --nproc_per_node {hardware.processes} train.py ..."
        )
    threads = hardware.threads or cpu.count()
    profile = settings_of(fitting(device))
    rest = {key: profile[key] for key in _FROM_PROFILE if getattr(hardware, key) is None}
    found = dataclasses.replace(
        hardware, device=device, precision=precision, threads=threads, processes=started, **rest
    )
    _check_attention(found)
    return found


# What ``hardware=auto`` leaves to the profile that fits the machine.
_FROM_PROFILE = ("chunk", "attention", "compile", "encode_tokens", "workers")


def fitting(device: str) -> str:
    """The name of the profile that fits this machine's CPU or GPU.

    GPUs without a profile of their own get that of the nearest older one: sm_70 and sm_75 (T4)
    v100, sm_80 a100, sm_86 and sm_89 (RTX 4090, L4) a10, newer ones h100.
    """
    if device == "cpu":
        return "cpu"
    capability = _capability()
    if capability < (8, 0):
        return "v100"
    if capability >= (9, 0):
        return "h100"
    return "a100" if capability == (8, 0) else "a10"


@cache
def settings_of(profile: str) -> Mapping[str, Any]:
    """The content of ``configs/hardware/<profile>.yaml``."""
    text = (ROOT / "configs/hardware" / f"{profile}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def has_flash_attention() -> bool:
    """True where the package flash-attn is installed."""
    return importlib.util.find_spec("flash_attn") is not None


def _check_attention(hardware: Hardware) -> None:
    if hardware.attention != "flash_attention_2":
        return
    key = "hardware.attention=flash_attention_2"
    if hardware.device == "cpu" or _capability() < (8, 0):
        raise UserError(f"{key}: needs a GPU from sm_80 on (A100, A10, H100); set "
                        "hardware.attention=sdpa")  # fmt: skip
    if hardware.precision is Precision.fp32:
        raise UserError(f"{key}: computes in 16 bits only; set hardware.precision=bf16, or "
                        "hardware.attention=sdpa")  # fmt: skip
    if not has_flash_attention():
        raise UserError(f"{key}: is not installed; pip install flash-attn --no-build-isolation, or "
                        "set hardware.attention=sdpa")  # fmt: skip


def has_nvidia() -> bool:
    """True when an NVIDIA GPU is there and not hidden (asked without importing torch)."""
    first = os.environ.get(_VISIBLE, "0").split(",")[0].strip()
    if not first.startswith((*"0123456789", "GPU-", "MIG-")):  # nothing, -1, or NoDevFiles
        return False
    # A container may have any of them; WSL2 has one node for GPUs of all makers.
    return any(_NODES.glob("nvidia[0-9]*")) or ((_NODES / "dxg").exists() and bool(gpus()))


def chosen() -> str:
    """What `CUDA_VISIBLE_DEVICES` is set to, for messages; nothing where it is not."""
    return f" ({_VISIBLE}={os.environ[_VISIBLE]})" if _VISIBLE in os.environ else ""


def label(hardware: Hardware) -> str:
    """What a resolved machine is called among the times that earlier runs took."""
    names = [each.name for each in gpus()[:1]] if hardware.device == "cuda" else [cpu.name()]
    return " ".join([*names, f"{hardware.threads} threads", hardware.precision.value])


def _cpu_precision() -> Precision:
    # bf16 doubles training speed where the CPU multiplies it natively, and halves it elsewhere.
    native = cpu.flags() & {"avx512_bf16", "amx_bf16"}
    return Precision.bf16 if native else Precision.fp32


def _cuda_precision() -> Precision:
    return Precision.bf16 if _capability() >= (8, 0) else Precision.fp16


def _capability() -> tuple[int, int]:
    """Compute capability of the first GPU; torch, which takes seconds to load, is asked last."""
    if found := gpus():
        return found[0].capability
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_capability()
    raise UserError("hardware: an NVIDIA GPU is there, but neither nvidia-smi nor torch can use "
                    f"it{chosen()}; set hardware=cpu, or run `finetune doctor`")  # fmt: skip


@cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that ``nvidia-smi`` lists and `CUDA_VISIBLE_DEVICES` leaves, in CUDA's order.

    None where it is not installed or does not answer.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ()
    try:
        return tuple(map(_gpu, _visible([line.split(", ") for line in answer.stdout.splitlines()])))
    except ValueError:  # "[N/A]", or a message instead of a table
        return ()


def _visible(rows: Sequence[list[str]]) -> Sequence[list[str]]:
    asked = os.environ.get(_VISIBLE)
    if asked is None or "MIG-" in asked:  # parts of GPUs, which have no rows
        return rows
    found: list[list[str]] = []
    for name in map(str.strip, asked.split(",")):
        same = [
            row
            for index, row in enumerate(rows)
            if name == str(index) or name.startswith("GPU-") and row[-1].startswith(name)
        ]
        if not same:  # CUDA, too, takes none from here on
            break
        found += same[:1]
    return found


def _gpu(row: Sequence[str]) -> Gpu:
    name, capability, total, free, _ = row
    major, minor = map(int, capability.split("."))
    return Gpu(name, (major, minor), int(total) * MIB, int(free) * MIB)


def give_memory_back() -> None:
    """Hand what a step has freed back to the system, which glibc keeps for the process otherwise.

    After training or an export that is a gigabyte and more, which the next step would come on top
    of. What is left when a step has ended are the libraries: they are taken out of the collector's
    sight, which goes through a million objects in a third of a second otherwise, at every step.
    """
    gc.collect()
    gc.freeze()
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def bound_kernel_caches() -> None:
    """Keep torch from remembering a compiled kernel for every shape of a batch; before its first.

    On CPUs oneDNN compiles the matrix products of 16-bit training for their exact shapes and keeps
    the last 1,024, about 0.5 MiB each. Batches of real texts hardly ever have the shape of another,
    so that this grows to a gigabyte without saving anything. 64 are those of one step.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")


def available_memory() -> int | None:
    """Bytes that a process may still take, within its container's limit; None if not told."""
    info = Path("/proc/meminfo")
    if not info.is_file():
        return None
    told = dict(line.split(":", 1) for line in info.read_text(encoding="utf-8").splitlines())
    free = int(told["MemAvailable"].split()[0]) * 1024
    # cgroup v2, v1; there, what is near 2^63 is no limit
    older = (_CGROUP / "memory", "memory.limit_in_bytes", "total_rss")
    for folder, name, used in ((_CGROUP, "memory.max", "anon"), older):
        if (folder / name).is_file() and (limit := (folder / name).read_text().strip()) != "max":
            lines = (folder / "memory.stat").read_text().splitlines()
            free = min(free, int(limit) - int(dict(line.split() for line in lines)[used]))
    return free
