"""Whether the installed torch can use the GPUs of this machine."""

import importlib.metadata
import importlib.util
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from finetune.errors import UserError
from finetune.machine import processes
from finetune.stage import Planned


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


def check(planned: Iterable[Planned], name: str) -> None:
    """See, before the first step, that those to be done on a GPU can be; torch fails in them only.

    Args:
        planned: The steps that are asked for.
        name: Of the hardware profile, for the message.

    Raises:
        UserError: When torch cannot use the GPU, or several processes would share one.
    """
    if all(each.cached or each.step.settings.get("device") != "cuda" for each in planned):
        return
    started = processes.on_this_machine()
    found = list(islice(findings(), started))
    if problems := [each for each in found if each.fix]:
        raise UserError(
            f"hardware={name}: the GPU cannot be used: {problems[0].found}; {problems[0].fix}; "
            "or set hardware=cpu"
        )
    # Of a single one that is named, each process may have been given another.
    alone = len(found) == 1 and os.environ.get("CUDA_VISIBLE_DEVICES")
    if started > len(found) and not alone:
        raise UserError(
            f"{started} processes were started on this machine, which has {len(found)} usable "
            f"GPUs; start one for each: torchrun --nproc_per_node {len(found)} train.py ..."
        )


def findings() -> Iterator[Finding]:
    """Say of each GPU that there is whether the installed torch can use it."""
    if importlib.util.find_spec("torch") is None:
        yield Finding("gpu", "there, but torch is not installed", "pip install 'finetune[train]'")
        return
    import torch

    if not torch.cuda.is_available():
        yield _unseen(importlib.metadata.version("torch"), torch.version.cuda)
        return
    for index in range(torch.cuda.device_count()):
        yield finding(
            torch.cuda.get_device_name(index),
            torch.cuda.get_device_capability(index),
            torch.cuda.get_arch_list(),
        )


def _unseen(build: str, cuda: str | None) -> Finding:
    """A GPU that torch does not see: it is built without CUDA, or for a newer one."""
    plain = build.partition("+")[0]
    return Finding(
        "gpu", f"torch {build} does not see it; {f'built for CUDA {cuda}' if cuda else 'no CUDA'}",
        "sudo apt install nvidia-driver-<newest>; nvidia-smi says which CUDA the driver serves"
        if cuda else
        f"pip install --force-reinstall --index-url https://pypi.org/simple torch=={plain}",
    )  # fmt: skip


def finding(name: str, capability: tuple[int, int], built_for: list[str]) -> Finding:
    """Say whether the installed torch carries code for a GPU, and which precision it trains in."""
    arch = f"sm_{capability[0]}{capability[1]}"
    same_major = any(a.startswith(f"sm_{capability[0]}") and a <= arch for a in built_for)
    ptx = [each.removeprefix("compute_") for each in built_for]  # which the driver compiles
    if not same_major and not any(each.isdigit() and int(each) <= int(arch[3:]) for each in ptx):
        return Finding(
            "gpu", f"{name} is {arch}; this torch carries {', '.join(built_for)}",
            "make install CONSTRAINTS=constraints-v100.txt" if capability < (7, 5)
            else "pip install --upgrade torch",
        )  # fmt: skip
    precision = "bf16" if capability >= (8, 0) else "fp16 with a loss scaler (no bf16)"
    return Finding("gpu", f"{name} ({arch}): trains in {precision}")
