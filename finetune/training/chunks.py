"""Batches beyond memory: the activations of fewer texts at once, never fewer negatives.

Contrastive losses compare every text of a batch with every other, so that a batch cannot be cut
into independent parts. GradCache (Gao et al. 2021) holds the activations of one chunk at a time
and repeats the forward pass; loss and gradients are those of the whole batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from finetune.config.choices import Precision
from finetune.errors import UserError
from finetune.machine import processes
from finetune.records import AnyRow, read_known
from finetune.sets import only_set
from finetune.training import losses, memory
from finetune.training import train as training
from finetune.training.mixing import Examples, read_parts

Result = TypeVar("Result")


def train(
    rows: Sequence[AnyRow] | Examples,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Path],
    out: Path,
) -> None:
    """Do the work of a step that trains, in smaller chunks where memory runs out.

    Args:
        rows: As `finetune.training.train.train` takes them.
        settings: Of the step, ``chunk`` among them.
        inputs: Of the step: ``model``, ``select``, ``pairs`` and, where sets are mixed, ``mixed``.
        out: See `finetune.training.train.train`.
    """
    plan = training.Plan(
        settings["train"], dict(settings["loss"]), Precision(settings["precision"]),
        settings["device"], settings["threads"], settings["seed"], dict(settings["adapter"]),
        attention=settings["attention"], compile=settings["compile"],
        encode_tokens=settings["encode_tokens"], workers=settings["workers"],
    )  # fmt: skip
    model, select = inputs["model"] / "model", only_set(inputs["select"])
    others = read_known(inputs["pairs"])
    mixed = read_parts(settings["mix"], inputs["mixed"], plan.loss) if "mixed" in inputs else []
    for part in mixed:
        others += read_known(inputs["mixed"] / part.name)
    sets = [part.rows for part in mixed] + ([] if isinstance(rows, Examples) else [rows])
    shrinking(
        lambda chunk: training.train(
            model, rows, select, replace(plan, chunk=chunk), out, others, mixed
        ),
        settings["chunk"],
        batch=plan.train.batch_size // processes.count(),
        columns=max((len(own[0].prompted) for own in sets), default=1),
        can_split=any(map(losses.in_chunks, [plan.loss, *(part.loss for part in mixed)])),
    )


def shrinking(
    attempt: Callable[[int | None], Result],
    chunk: int | None,
    *,
    batch: int,
    columns: int,
    can_split: bool,
) -> Result:
    """Call ``attempt(chunk)`` with a chunk that is halved as long as memory runs out.

    Several processes that work in chunks already halve them within a step
    (`finetune.training.memory.in_step`); from here, one would start again without the others.
    Where the kernel kills a process that takes too much, as Linux does on CPUs, no error can be
    caught: there the chunk of the hardware profile has to hold.

    Args:
        attempt: Trains with at most so many texts' activations at once (None: the whole batch's),
            and goes on from the last checkpoint of the attempt before.
        chunk: Texts at once to start with; None for the whole batch.
        batch: Rows in a batch.
        columns: Texts in a row.
        can_split: Whether the loss has a form that works in chunks.

    Raises:
        UserError: When not even one text at a time fits, the loss cannot be split, or several
            processes train.
    """
    if chunk is not None and (chunk >= batch * columns or not can_split):
        chunk = None  # one forward pass a step, where chunks need two
    while True:
        try:
            return attempt(chunk)
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
            # A chunk holds texts of one column, so that one larger than the batch is the batch.
            held = min(chunk, batch) if chunk else batch * columns
            smaller = min(held // 2, batch)
            if not can_split:
                raise UserError(
                    f"train: memory runs out with train.batch_size={batch}, and this loss cannot "
                    "work in chunks (hardware.chunk); lower train.batch_size or train.max_length"
                ) from error
            if smaller and processes.count() > 1:
                raise UserError(
                    f"train: memory runs out in one of {processes.count()} processes, with {held} "
                    f"texts' activations at once; start again with hardware.chunk={smaller}, which "
                    "changes nothing but speed"
                ) from error
        # After the except clause: the error's frames held the tensors that filled the memory.
        memory.go_on_with(smaller, held)
        chunk = smaller
