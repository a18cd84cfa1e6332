"""One run in several processes: the first leads, the others join it where all are needed.

A launcher (``torchrun``, ``accelerate launch``) starts the same command in every process, on one
machine or on several that share a file system. Only the first process reads the command line,
decides the keys and the run directory, and works; it calls the others into the steps that are
marked `everywhere`, and they end when it ends.
"""

import functools
import itertools
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from numpy.typing import NDArray

from finetune.machine.channel import GRACE, PATIENCE, POLL, channel

log = logging.getLogger(__name__)

_LAST_EXCHANGE = 0.5  # seconds for it to end in, before the processes part

Result = TypeVar("Result")
Part = TypeVar("Part")
StepCall = Callable[[Mapping[str, Any], Mapping[str, Path], Path], None]


def count() -> int:
    """Number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def first() -> bool:
    """True in the process that leads, and writes."""
    return rank() == 0


def on_this_machine() -> int:
    """Number of this run's processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", count()))


def started_alone() -> str:
    """What to say where a launcher was asked for several processes and started one, else nothing.

    `accelerate launch` without ``--multi_gpu`` (``--cpu``, or at most one GPU) starts one process,
    whatever ``--num_processes`` says; it gives that away by naming a port to meet at.
    """
    named = {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys()
    if not named or "WORLD_SIZE" in os.environ:
        return ""
    return (
        "accelerate launch was asked for several processes and started one; for N use: torchrun "
        "--nproc_per_node N train.py ..., or on CPUs: ACCELERATE_USE_CPU=true accelerate launch "
        "--multi_gpu --num_processes N train.py ..."
    )


# --- leading and following ---


def run(work: Callable[[], int]) -> int:
    """Do the work of a command in the first process; in the others, join it when called.

    Returns:
        What the work returns.

    Raises:
        SystemExit: In the other processes, with the exit code of the first.
    """
    if count() == 1:
        return work()
    if not first():
        _follow()
    ours = channel()
    code = 1  # should the work raise
    try:
        code = work()
    finally:
        ours.end(code)
    return code


def everywhere(step: StepCall) -> StepCall:
    """Mark a step function (of a module) that runs in all processes at the same time."""

    @functools.wraps(step)
    def in_all(settings: Mapping[str, Any], inputs: Mapping[str, Path], out: Path) -> None:
        if count() > 1 and first():
            # Another machine may have been started from another folder.
            folders = {name: path.resolve() for name, path in inputs.items()}
            call(in_all, dict(settings), folders, out.resolve())
        step(settings, inputs, out)
        _disconnect()

    return in_all


def call(function: Callable[..., None], *arguments: Any) -> None:
    """Have all other processes call a function of a module, while this one, the first, goes on."""
    channel().send((function, arguments))


def once(decide: Callable[[], Result]) -> Result:
    """Let the first process decide something, and all others take its answer.

    To be called in all processes in the same order.
    """
    if count() == 1:
        return decide()
    if not first():
        return cast(Result, channel().receive())
    answer = decide()
    channel().send(answer)
    return answer


def _follow() -> NoReturn:
    while True:
        function, arguments = channel().receive()
        with _first_to_blame():
            function(*arguments)


@contextmanager
def _first_to_blame() -> Iterator[None]:
    """Where a step fails here, see whether it failed in the first process, which tells the user."""
    try:
        yield
    except Exception:
        deadline = time.monotonic() + GRACE
        while (code := channel().code()) is None and time.monotonic() < deadline:
            time.sleep(POLL)
        if code:
            channel().leave_if_ended()
        raise


# --- computing together ---


def connect(device: str, threads: int) -> None:
    """Prepare this process for training together with the others: its GPU, its threads.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: Of this machine; its processes share them.
    """
    import torch

    share = max(1, threads // on_this_machine())
    torch.set_num_threads(share)
    # accelerate would otherwise count threads itself, and take its own precision for ours.
    os.environ.setdefault("OMP_NUM_THREADS", str(share))
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    if count() == 1:
        _tell_idle_gpus(device)
        return
    # What these libraries say to their own developers, once for each process and checkpoint.
    own = r"(accelerate|sentence_transformers)\."
    warnings.filterwarnings("ignore", category=FutureWarning, module=own)
    use_own_gpu(device)
    channel().meet()
    torch.distributed.init_process_group(
        "cuda:nccl,cpu:gloo" if device == "cuda" else "gloo",
        store=channel().group_store(),
        rank=rank(),
        world_size=count(),
        timeout=PATIENCE,
    )


def wait() -> None:
    """Wait until every process is here, between `connect` and the end of the step."""
    if count() > 1:
        import torch

        torch.distributed.barrier()


def dealt(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield the parts of some work that this process does, each part being done by one."""
    return itertools.islice(parts, rank(), None, count())


def add_up(values: NDArray[Any]) -> None:
    """Replace an array of each process by the sum of all, between `connect` and the step's end."""
    if count() > 1:
        import torch

        torch.distributed.all_reduce(torch.from_numpy(values))


def use_own_gpu(device: str) -> None:
    """Make ``cuda`` mean a GPU that no other process of this machine uses."""
    if device == "cuda" and count() > 1:
        import torch

        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())


def _disconnect() -> None:
    import torch

    if torch.distributed.is_initialized():
        # A thread of gloo's that drops the tensors of the last exchange needs Python's lock, which
        # torch 2.7 holds while it waits for that thread to end: here it gets it.
        time.sleep(_LAST_EXCHANGE)
        torch.distributed.destroy_process_group()


def _tell_idle_gpus(device: str) -> None:
    import torch

    gpus = torch.cuda.device_count() if device == "cuda" else 1
    if gpus > 1:
        log.info(
            "1 of %d GPUs is used; for all: torchrun --nproc_per_node %d train.py ...", gpus, gpus
        )


# --- sharing work out ---


def helps(device: str) -> bool:
    """Say whether this process has a GPU, or the CPUs of its machine, to itself between steps."""
    return device == "cuda" or int(os.environ["LOCAL_RANK"]) == 0


def helpers(device: str) -> int:
    """Number of processes, besides the first, of which `helps` holds."""
    return (count() if device == "cuda" else count() // on_this_machine()) - 1


def take(counter: str) -> int:
    """Return how often any process has called this before with the same name."""
    return int(channel().store.add(counter, 1)) - 1


def tell(what: str) -> None:
    """Let all processes know something (`told`)."""
    channel().store.set(what, "")


def told(what: str) -> bool:
    """Say whether a process has told something."""
    return channel().has(what)
