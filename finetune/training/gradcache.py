"""Batches beyond memory: the activations of fewer texts at once, never fewer negatives.

Contrastive losses compare every text of a batch with every other, so that a batch cannot be cut
into independent parts. GradCache (Gao et al. 2021) holds the activations of one chunk at a time
and repeats the forward pass; loss and gradients are those of the whole batch.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer

from finetune.config.choices import Precision
from finetune.errors import UserError
from finetune.machine import estimate, hardware, processes
from finetune.machine.geometry import Geometry
from finetune.mining import usual
from finetune.records import AnyRow, read_json, read_known
from finetune.sets import only_set
from finetune.training import losses, memory
from finetune.training import train as training
from finetune.training.mixing import Examples, read_parts

log = logging.getLogger(__name__)

Result = TypeVar("Result")
_SAMPLE = 2_000  # rows whose texts are counted
_GIB = 1024**3


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
    can_split = any(map(losses.in_chunks, [plan.loss, *(part.loss for part in mixed)]))
    chunk = settings["chunk"]
    if can_split and sets:  # all processes work in chunks, or none
        chunk = processes.once(lambda: within_memory(settings["chunk"], sets, settings, model))
    shrinking(
        lambda chunk: training.train(
            model, rows, select, replace(plan, chunk=chunk), out, others, mixed
        ),
        chunk,
        batch=plan.train.batch_size // processes.count(),
        columns=max((len(own[0].prompted) for own in sets), default=1),
        can_split=can_split,
    )


def within_memory(
    chunk: int | None, sets: Sequence[Sequence[AnyRow]], settings: Mapping[str, Any], model: Path
) -> int | None:
    """Lower a chunk to what fits into the memory that is free, and say so.

    The hardware profile's is counted for one model and one length. Where it is too much, on a CPU
    the kernel would kill the process, and on a GPU half of a training would be done again.

    Args:
        chunk: Texts at once, as configured; None for the whole batch.
        sets: The rows of each set, of which a batch holds one's.
        settings: Of the step.
        model: Folder of the model that is trained.
    """
    free, geometry = _free(settings["device"]), Geometry.of(read_json(model / "config.json"))
    if free is None or geometry is None:
        return chunk
    widths = max((_widths(rows, model, settings["train"].max_length) for rows in sets), key=sum)
    of = estimate.asked(settings, geometry, widths)
    of = replace(of, all_rows=sum(map(len, sets)),
                 chunk=chunk if chunk and chunk < of.rows * len(widths) else None)  # fmt: skip
    fitting = estimate.chunk_within(of, free)
    if fitting == of.chunk:
        return chunk
    log.warning(
        "train: %d texts' activations at once would take %.1f GiB of memory in all, and %.1f GiB "
        "are free; going on with %d (hardware.chunk), same batches",
        of.chunk or of.rows * len(widths), estimate.training(of).total / _GIB, free / _GIB, fitting,
    )  # fmt: skip
    return fitting


def _free(device: str) -> int | None:
    """Bytes that this process may take, of the GPU or of its share of the machine's."""
    if device == "cuda":
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # to be used again
        # The estimate counts CUDA's own memory, which is taken by now.
        return torch.cuda.mem_get_info()[0] + kept + estimate.PROCESS + estimate.RUNTIME
    free = hardware.available_memory()
    return None if free is None else free // processes.on_this_machine()


def _widths(rows: Sequence[AnyRow], model: Path, max_length: int) -> list[int]:
    """Tokens of the longest text of each column, in a sample that is spread over the rows."""
    sample = [row.prompted for row in rows[:: -(-len(rows) // _SAMPLE)]]
    columns = list(zip_longest(*sample, fillvalue=("", "")))[: usual([len(row) for row in sample])]
    file = model / "tokenizer.json"
    if not file.is_file():
        return [max_length] * len(columns)
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    found = (tokenizer.encode_batch([text for _, text in column]) for column in columns)
    return [min(max_length, max(len(each.ids) for each in encoded)) for encoded in found]


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
