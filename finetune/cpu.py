"""The CPU at hand, as the system tells it."""

import math
import os
import platform
from pathlib import Path

_INFO = Path("/proc/cpuinfo")
_CGROUP = Path("/sys/fs/cgroup")


def count() -> int:
    """CPUs that this process may run on, or use up in time; libraries count the machine's."""
    known = hasattr(os, "sched_getaffinity")
    there = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return min(there, _quota() or there)


def _quota() -> int | None:
    """CPUs whose time the container may use, rounded up; None where there is no limit."""
    names = ("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")  # cgroup v2, v1
    for files in ([_CGROUP / name for name in each] for each in names):
        if all(file.is_file() for file in files):
            quota, period = " ".join(file.read_text() for file in files).split()
            return math.ceil(int(quota) / int(period)) if quota not in ("max", "-1") else None
    return None


def name() -> str:
    """What the CPU is called, or its architecture where the system does not tell."""
    return _told("model name", "CPU part").strip() or platform.machine()


def described() -> str:
    """Its name and how many of it may be used."""
    return f"{name()}, {count()} CPUs"


def flags() -> set[str]:
    """Its instruction sets; empty where the system does not tell."""
    return set(_told("flags", "Features").split())


def lines() -> list[str]:
    """What the system says of the first CPU; nothing where it does not tell."""
    text = _INFO.read_text(encoding="utf-8") if _INFO.is_file() else ""
    return text.split("\n\n")[0].splitlines()


def _told(*names: str) -> str:
    return next((line.split(":", 1)[1] for line in lines() if line.startswith(names)), "")
