"""Many batches at once, each on a thread of its own: what fills a CPU when there is a lot to do."""

import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


class Once(Generic[Made]):
    """Makes a thing when it is first asked for, once, whoever asks."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._made: list[Made] = []
        self._lock = threading.Lock()

    def __call__(self) -> Made:
        """Return it."""
        with self._lock:
            if not self._made:
                self._made.append(self._make())
            return self._made[0]


def run_all(run: Callable[[Item], None], items: Iterator[Item], workers: int) -> None:
    """Run every item on one of some threads; each takes the next as soon as it is done.

    One thread to a batch beats all threads on one: no operator waits for the slowest part of the
    one before, and the next batch is made ready meanwhile.

    Args:
        run: Called once with each item, by several threads at a time.
        items: Taken one by one, under a lock, so that they may be made as they are needed.
        workers: Threads.

    Raises:
        Exception: The first that `run` or `items` raised, after the others ended what they had
            begun.
    """
    # Here, because it would be a tenth of the time that a service takes to start.
    from concurrent.futures import ThreadPoolExecutor

    lock, stop = threading.Lock(), threading.Event()

    def take() -> tuple[Item, ...]:
        with lock:
            return () if stop.is_set() else tuple(islice(items, 1))

    def work() -> None:
        try:
            while taken := take():
                run(taken[0])
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work) for _ in range(workers)]
        try:
            for future in futures:
                future.result()
        finally:
            stop.set()  # Ctrl-C comes to this thread alone
