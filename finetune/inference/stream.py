"""Encoding of streams: any number of texts in bounded memory, by one process or several.

Texts are worked through in chunks, and batched within a chunk only: which texts share a batch
depends on their place in the stream alone, not on how often it was stopped or who encodes it.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import UserError
from finetune.inference.batches import CHUNK, chunks
from finetune.inference.encoder import Encoder
from finetune.inference.vectors import as_type

if TYPE_CHECKING:
    from concurrent.futures import Future

Load = Callable[[], Encoder]


def encode_iter(
    encoder: Encoder,
    texts: Iterable[str],
    prompt: str = "passage",
    *,
    chunk: int = CHUNK,
    progress: Callable[[int], None] | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Encode texts as they come; at no time is more than a chunk of them in memory.

    Args:
        encoder: Any encoder.
        texts: As many as there are.
        prompt: Name of the prompt put before each text.
        chunk: Texts that are sorted by length and batched together.
        progress: Called after each batch with the number of texts it held.

    Yields:
        ``[<= chunk, dim]``, unit length, in the order of the texts. With the default chunk they
        are what `Encoder.encode` gives for all texts at once.
    """
    for part in chunks(texts, chunk):
        yield encoder.encode(part, prompt, progress=progress)


def encode_in_processes(
    load: Load,
    texts: Iterable[str],
    prompt: str = "passage",
    *,
    processes: int,
    chunk: int = CHUNK,
    dtype: str = "float32",
) -> Iterator[NDArray[np.generic]]:
    """Encode texts as `encode_iter` does, each chunk in one of several processes.

    The vectors are the same: a chunk is encoded as a whole, and the results come back in order.
    Twice as many chunks as processes are in memory. A script that calls this must be importable
    (``if __name__ == "__main__":``), because the processes are spawned.

    Args:
        load: Makes the encoder, in each process; a function of a module, or a `functools.partial`
            of one.
        texts: As many as there are.
        prompt: Name of the prompt put before each text.
        processes: How many.
        chunk: Texts that are sorted by length and batched together.
        dtype: Type of the vectors, one of `finetune.inference.TYPES`.

    Raises:
        UserError: A process was ended from outside.
    """
    # Here, because they would be a tenth of the time that a service takes to start.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_start, initargs=(load,)
    )
    waiting: deque[Future[NDArray[np.generic]]] = deque()
    try:
        for part in chunks(texts, chunk):
            waiting.append(pool.submit(_encode, part, prompt, dtype))
            if len(waiting) == 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {processes} encoding processes was ended from outside (each holds the model: "
            "was there memory for all?); take fewer. The same command goes on where it stopped"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


# --- in a process of the pool ---

_own: dict[str, Any] = {}


def _start(load: Load) -> None:
    """Remember what to load; leave Ctrl-C to the first process, and end when it is gone."""
    _own["load"] = load
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@cache
def _encoder() -> Encoder:
    # Not in _start: what it raises there is lost, and the pool is only told to be broken.
    encoder: Encoder = _own["load"]()
    return encoder


def _encode(texts: list[str], prompt: str, dtype: str) -> NDArray[np.generic]:
    return as_type(_encoder().encode(texts, prompt), dtype)
