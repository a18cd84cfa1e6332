"""Several processes of one run, started without a launcher and with what it would tell them."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_runs
from serving import free_port

from finetune.machine import processes

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["finetune.training.train"])


def in_processes(
    target: Callable[..., int | None], *arguments: Any, count: int = 2, machines: int = 1,
    said: Path = Path(os.devnull),
) -> list[int | None]:  # fmt: skip
    """Call a function in all processes of a run, told apart as a launcher does it.

    Args:
        target: The function, of a module.
        *arguments: Its arguments.
        count: How many processes.
        machines: How many machines they believe to be on.
        said: Gets what they write to standard error; nothing else shows it.

    Returns:
        Their exit codes.
    """
    here = count // machines
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": here, "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": free_port()}  # fmt: skip
    ranks = [{**shared, "RANK": n, "LOCAL_RANK": n % here} for n in range(count)]
    children = [FORKS.Process(target=_child, args=(own, said, target, arguments)) for own in ranks]
    for each in children:
        each.start()
    for each in children:
        each.join(120)
    return [each.exitcode for each in children]


def _child(
    environment: dict[str, Any], said: Path, target: Callable[..., int | None],
    arguments: tuple[Any, ...],
) -> None:  # fmt: skip
    with said.open("a") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ.update({name: str(value) for name, value in environment.items()})
    sys.exit(target(*arguments))


def run_together(arguments: list[str], mishap: str = "none") -> int:
    """Run a pipeline in all processes, with one of `MISHAPS`; for `in_processes`."""
    MISHAPS[mishap]()

    def lead() -> int:
        tiny_runs.run(arguments)
        return 0

    return processes.run(lead)


def run_noting(arguments: list[str], folder: Path) -> int:
    """Run a pipeline in all processes; each notes how many texts it encodes for the guard."""
    from finetune.model import TorchEncoder

    run = TorchEncoder._run

    def noting(self: TorchEncoder, ids: list[list[int]]) -> Any:
        if self.together:
            with (folder / f"encoded-{processes.rank()}").open("a") as notes:
                notes.write(f"{len(ids)}\n")
        return run(self, ids)

    TorchEncoder._run = noting
    return run_together(arguments)


def fail_in_the_first() -> None:
    """Raise in the first process, in the middle of training."""
    from finetune.training import train as training

    def on_log(self: training.Curves, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if processes.first() and state.global_step == 3:
            raise RuntimeError("a mishap of the first process")

    training.Curves.on_log = on_log


MISHAPS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    # 24 steps in 3 epochs, a line every step, the guard (another line) and a checkpoint every 5
    "all killed in the second epoch": lambda: tiny_runs._on(
        "finetune.training.train:Curves", "on_log", 15
    ),
    "the first fails": fail_in_the_first,
}
