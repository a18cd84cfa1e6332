"""The CPU at hand, as the system tells it."""

import os
import platform
from pathlib import Path

_INFO = Path("/proc/cpuinfo")


def count() -> int:
    """CPUs that this process may run on; libraries would count the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
