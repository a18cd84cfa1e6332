"""Many batches at once, each on a thread of its own: what fills a CPU when there is a lot to do."""

import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def run_all(run: Callable[[Item], None], items: Iterator[Item], workers: int) -> None:
    """Run every item on one of some threads; each takes the next as soon as it is done.

    No operator waits for the slowest thread of the one before, and the next batch is made ready
    meanwhile.

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
