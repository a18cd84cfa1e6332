"""`finetune doctor`: what this machine can run, what is missing, and the command that mends it."""

import dataclasses
import importlib.metadata
import importlib.util
import platform
import re
import shutil
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from finetune import cpu
from finetune.config import Config, Hardware, Tracking
from finetune.config.choices import Precision, Tracker
from finetune.errors import UserError
from finetune.machine import estimate, gpu, hardware
from finetune.machine.geometry import M3E_BASE
from finetune.machine.gpu import Finding

_GIB = 1024**3
# Starter, cache and checkpoints of one run of the demo.
_DISK_NEEDED = 5 * _GIB
_TOKENS = 128  # of the texts that the largest batch is told for
_TIMEOUT = 3.0  # seconds
_ON_CPU: dict[str, Any] = {"device": "cpu", "precision": Precision.auto, "attention": None}
_REQUIRED = re.compile(r"([\w.-]+).*; extra == ['\"]([\w-]+)['\"]")
# Extras that only this needs; a run of the defaults needs the others.
_OPTIONAL = {
    "augment": "augment=typos", "cmteb": "evaluate=cmteb", "data": "Excel files",
    "modelscope": "model.hub=modelscope", "openvino": "export=openvino",
    "search": "mine.search=ivf and hnsw", "sweep": "hydra/launcher=", "tune": "finetune tune",
}  # fmt: skip


def findings(config: Config) -> Iterator[Finding]:
    """Look at the machine, the installation, the disk and the tracking server.

    Args:
        config: Of the run that is to be; a default one tells most of it.
    """
    yield Finding("python", platform.python_version())
    yield from _packages()
    yield _cpu()
    if hardware.has_nvidia():
        yield from gpu.findings()
    else:
        yield Finding("gpu", f"none{hardware.chosen()}: training runs on the CPU")
    yield _runtime()
    machine, profile = _machine(config.hardware)
    yield profile
    yield _flash_attention(machine.device)
    yield _memory(machine)
    if machine.device == "cuda":
        yield from _gpu_memory(machine)
    yield _disk(config.paths.cache)
    yield _mlflow(config.tracking)


def _packages() -> Iterator[Finding]:
    for extra, packages in sorted(extras().items(), key=lambda each: each[0] in _OPTIONAL):
        missing = [name for name in packages if not _installed(name)]
        fix = f"pip install 'finetune[{extra}]'"
        if not missing:
            yield Finding(extra, "installed")
        elif extra in _OPTIONAL:
            yield Finding(extra, f"not installed, and needed by {_OPTIONAL[extra]} alone: {fix}")
        else:
            yield Finding(extra, f"missing: {', '.join(missing)}", fix)


def extras() -> dict[str, list[str]]:
    """The packages of each extra of ``pyproject.toml`` but that of development, as installed."""
    found: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("finetune") or []:
        if required := _REQUIRED.match(line):
            found.setdefault(required[2], []).append(required[1])
    found.pop("dev", None)
    return found


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _cpu() -> Finding:
    native = sorted(cpu.flags() & {"avx512_bf16", "amx_bf16", "avx512_vnni", "avx_vnni"})
    found = f"{cpu.count()} usable; {', '.join(native) or 'no bf16, no int8 dot product'}"
    return Finding("cpu", found)


def _runtime() -> Finding:
    """What ONNX Runtime can start on; nothing needs its GPU, which fp16 models are made for."""
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    found = f"{onnxruntime.__version__}: {', '.join(providers)}"
    if hardware.has_nvidia() and "CUDAExecutionProvider" not in providers:
        found += ("; export=fp16 runs on the CPU. To run it on the GPU: pip uninstall onnxruntime, "
                  "then pip install onnxruntime-gpu")  # fmt: skip
    return Finding("onnx", found)


def _flash_attention(device: str) -> Finding:
    """Installed, and of any use here? Nothing needs it."""
    installed = "installed" if hardware.has_flash_attention() else "not installed"
    if device == "cpu":
        return Finding("flash-attn", f"{installed}; of no use on a CPU")
    if hardware.fitting(device) == "v100":
        return Finding("flash-attn", f"{installed}; needs sm_80, this GPU is older")
    if not hardware.has_flash_attention():
        return Finding("flash-attn", "not installed, and not needed: hardware.attention=sdpa; to "
                       "try it: pip install flash-attn --no-build-isolation")  # fmt: skip
    return Finding("flash-attn", "installed: hardware.attention=flash_attention_2 can be set")


def _machine(asked: Hardware) -> tuple[Hardware, Finding]:
    """What a run would use, and which profile fits; the CPU where what is asked for cannot be."""
    try:
        machine = hardware.resolve(asked)
    except UserError as error:
        problem, _, fix = str(error).partition("; ")
        machine = hardware.resolve(dataclasses.replace(asked, **_ON_CPU))
        return machine, Finding("hardware", problem, fix.partition(", or run `finetune doctor`")[0])
    return machine, _profile(machine)


def _profile(machine: Hardware) -> Finding:
    fitting = hardware.fitting(machine.device)
    found = (f"{machine.precision.value}, {machine.attention} attention, "
             f"{machine.threads} threads, {machine.workers} workers")  # fmt: skip
    if machine.name not in ("auto", fitting):
        return Finding("hardware", f"{machine.name}: {found}",
                       f"this machine is like hardware={fitting}: set that, or leave it out "
                       "(hardware=auto)")  # fmt: skip
    return Finding("hardware", f"{fitting} fits: {found}")


def _memory(machine: Hardware) -> Finding:
    available = hardware.available_memory()
    if available is None:
        return Finding("memory", "unknown on this system")
    fix = "close other programs, or lower train.batch_size" if available < 4 * _GIB else ""
    found = f"{available / _GIB:.1f} GiB available"
    if machine.device == "cpu":
        found += _batch(machine, available)
    return Finding("memory", found, fix)


def _gpu_memory(machine: Hardware) -> Iterator[Finding]:
    for each in hardware.gpus():
        found = f"{each.free / _GIB:.1f} of {each.memory / _GIB:.1f} GiB free on {each.name}"
        yield Finding("memory", found + _batch(machine, each.free))


def _batch(machine: Hardware, available: int) -> str:
    """The largest batch of a common model in so much memory, by estimate."""
    attention = machine.attention or "sdpa"
    rows = estimate.largest_batch(
        estimate.Training(M3E_BASE, 1, (_TOKENS, _TOKENS), machine.precision,
                          machine.device, attention), available)  # fmt: skip
    return f"; m3e-base trains on about {rows} pairs of {_TOKENS} tokens at once"


def _disk(cache: Path) -> Finding:
    folder = next(path for path in (cache.absolute(), *cache.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    fix = "free some, or set paths.cache=<folder on another disk>" if free < _DISK_NEEDED else ""
    return Finding("disk", f"{free / _GIB:.0f} GiB free in {folder}", fix)


def _mlflow(tracking: Tracking) -> Finding:
    """Ask a server how it is; a database is opened by MLflow alone."""
    if tracking.kind is Tracker.none:
        return Finding("mlflow", "switched off (tracking=none)")
    if urlsplit(tracking.uri).scheme not in ("http", "https"):
        return Finding("mlflow", f"{tracking.uri}: no server to reach")
    fix = "start it (mlflow server), or correct tracking.uri; until then runs go on untracked"
    try:
        with urlopen(f"{tracking.uri.rstrip('/')}/health", timeout=_TIMEOUT):
            return Finding("mlflow", f"{tracking.uri} answers")
    except (OSError, HTTPException, ValueError) as error:
        return Finding("mlflow", f"{tracking.uri} does not answer ({error})", fix)
