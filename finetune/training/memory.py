"""Memory that runs out in one of several processes: all repeat the step, in smaller chunks.

A process that fails while others wait for its embeddings or gradients would leave them waiting.
Forward and backward passes in chunks exchange nothing, though: one that runs out of memory there
says so at the next of two places where all tell how they fare, before the embeddings are gathered
(`Chunked`) and before the gradients are added up (`in_step`).
"""

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from torch import Tensor, distributed, nn

from finetune.errors import UserError
from finetune.machine import processes

log = logging.getLogger(__name__)

_CPU_WORDS = ("can't allocate memory", "not enough memory", "bad_alloc")


class OtherIsShortError(Exception):
    """Memory ran out in another process, before this one had anything to exchange with it."""


class Chunked(CachedMultipleNegativesRankingLoss):
    """GradCache in which all processes gather their embeddings, or none."""

    exchanges = False  # whether others may be waiting for this process

    def calculate_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of embeddings, as the library computes it.

        Raises:
            OtherIsShortError: In a process that has embeddings, where another has none.
        """
        if _any_short(False):
            raise OtherIsShortError
        self.exchanges = True
        loss: Tensor = super().calculate_loss(*args, **kwargs)
        self.exchanges = False
        return loss


def chunked(*losses: nn.Module) -> list[Chunked]:
    """The parts of losses that work in chunks."""
    return [each for loss in losses for each in loss.modules() if isinstance(each, Chunked)]


def in_step(
    attempt: Callable[[], Tensor], model: nn.Module, losses: Sequence[Chunked], batch: int
) -> Tensor:
    """Compute a step in all processes, and repeat it in smaller chunks where one lacks memory.

    Args:
        attempt: Does the forward and backward passes of this process, and returns the loss; it
            exchanges nothing but the embeddings of `losses`.
        model: Its gradients become the mean of those in all processes.
        losses: All that work in chunks, which are halved; this step's among them.
        batch: Rows of this process.

    Raises:
        UserError: When not even one text at a time fits.
    """
    while True:
        try:
            loss = attempt()
            if not _any_short(False):
                _average(model)
                return loss
        except OtherIsShortError:
            pass
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or any(each.exchanges for each in losses):
                raise
            _any_short(True)
        # After the except clause: the error's frames held the tensors that filled the memory.
        model.zero_grad()
        held = min(batch, *(each.mini_batch_size for each in losses))
        go_on_with(held // 2, held)
        for each in losses:
            each.mini_batch_size = held // 2


def go_on_with(smaller: int, held: int) -> None:
    """Free memory after it ran out, and tell in how small chunks training goes on.

    Args:
        smaller: Texts of a chunk from now on.
        held: Texts whose activations were held when it ran out.

    Raises:
        UserError: When there is no smaller chunk.
    """
    if not smaller:
        raise UserError(
            "train: memory runs out with one text at a time; lower train.max_length, take a "
            "smaller model, or a machine with more memory"
        )
    if processes.first():
        log.warning(
            "memory ran out with %d texts' activations at once; going on with %d (hardware.chunk), "
            "same batches", held, smaller,
        )  # fmt: skip
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def advising(advice: str) -> Iterator[None]:
    """Where memory runs out inside and smaller chunks would not help, say what would.

    Raises:
        UserError: Memory runs out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"train: memory runs out {advice}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on a GPU or on the CPU.

    torch has an error of its own for GPUs; its CPU allocator raises a plain RuntimeError.
    """
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in _CPU_WORDS)


def _any_short(here: bool) -> bool:
    """Say whether memory ran out in any process; all must ask, each with how it fares itself."""
    if processes.count() == 1:
        return here
    flag = torch.tensor(float(here))
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


def _average(model: nn.Module) -> None:
    """Replace gradients by their mean over all processes."""
    found = [each.grad for each in model.parameters() if each.grad is not None]
    for work in [distributed.all_reduce(each, async_op=True) for each in found]:
        work.wait()
    for each in found:
        each /= processes.count()
