"""The machine at hand, and what was measured to be the fastest way to run a bundle on it.

``finetune tune-threads`` writes ``tuned.json`` beside ``bundle.json``, with an entry for each
machine: a bundle that is copied elsewhere finds none there, and runs as if nothing had been tuned.
"""

import dataclasses
import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import cpu
from finetune.inference.batches import GPU_TOKEN_BUDGET, TOKEN_BUDGET
from finetune.records import read_json, write_json

FILE = "tuned.json"
_FIELDS = ("model name", "cpu family", "model\t", "stepping", "flags", "CPU part", "Features")


@dataclass(frozen=True)
class Tuned:
    """The fastest way to run a model on a machine, measured in bulk.

    Attributes:
        model: SHA-256 of the model's file; another model is not run so.
        threads: Of the runtime.
        budget: Tokens of a batch.
        texts_per_second: So measured.
        by_default: Texts a second with all CPUs and the default budget.
    """

    model: str
    threads: int
    budget: int
    texts_per_second: float
    by_default: float


def name() -> str:
    """Name the machine by what decides speed: CPU, its instructions, how many, and the runtime.

    A virtual machine often says no more than ``AMD EPYC``, so a hash of model numbers and
    instructions is part of it.
    """
    import onnxruntime

    known = [line for line in cpu.lines() if line.startswith(_FIELDS)]
    digest = hashlib.sha256("\n".join([platform.machine(), *known]).encode()).hexdigest()[:12]
    return f"{cpu.name()} {digest}, {cpu.count()} CPUs, onnxruntime {onnxruntime.__version__}"


def saturates() -> bool:
    """Say whether sums of u8 x s8 products may overflow 16 bits: on x86 CPUs without VNNI.

    Where the system does not tell its CPU's instructions, nothing is known, and the answer is no.
    """
    found = cpu.flags()
    if not found or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not {"avx512_vnni", "avx_vnni"} & found


def settings(
    folder: Path,
    precision: str,
    model: str,
    threads: int | None,
    budget: int | None,
    *,
    gpu: bool = False,
) -> tuple[int, int]:
    """Return threads and token budget: as asked, else as tuned for this machine, else the default.

    Args:
        folder: The bundle.
        precision: Which of its models.
        model: SHA-256 of the model's file.
        threads: As asked.
        budget: As asked; what was tuned counts only where neither is.
        gpu: Whether a GPU will run it; nothing is tuned there.
    """
    if gpu:
        return threads or cpu.count(), budget or GPU_TOKEN_BUDGET
    if threads is None and budget is None:
        entry = read(folder).get(name(), {}).get(precision) if (folder / FILE).is_file() else None
        if entry is not None and entry["model"] == model:
            return int(entry["threads"]), int(entry["budget"])
    return threads or cpu.count(), budget or TOKEN_BUDGET


def read(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Read what was tuned: by machine, by precision, the fields of `Tuned`."""
    path = folder / FILE
    if not path.is_file():
        return {}
    found: dict[str, dict[str, dict[str, Any]]] = read_json(path)
    return found


def write(folder: Path, precision: str, tuned: Tuned | None) -> None:
    """Keep what was tuned on this machine; None removes what was known."""
    known = read(folder)
    entry = known.setdefault(name(), {})
    entry.pop(precision, None)
    if tuned is not None:
        entry[precision] = dataclasses.asdict(tuned)
    known = {machine: entries for machine, entries in known.items() if entries}
    write_json(folder / FILE, known)
