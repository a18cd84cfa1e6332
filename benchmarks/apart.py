"""One runtime in a process of its own, asked for timings line by line; see `inference.py`."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common.engines import LEAST, ROOT, encoder, runner, timed
from sizes import VOCABULARY

PAUSE = 0.02  # seconds, in which the threads of the runtime before stop spinning


class Apart:
    """A process that holds one runtime, and times what it is given when asked."""

    def __init__(self, made: Path, kind: str, name: str, threads: int) -> None:
        """Start it.

        Args:
            made: The bundle; torch runs the model folder beside it.
            kind: Of what it is given, one of `KINDS`.
            name: One of `engines.RUNTIMES` for batches, of `engines.SYSTEMS` for texts.
            threads: Of the runtime.
        """
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(made), kind, name, str(threads)], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._answer()

    def seconds(self, given: Sequence[Any]) -> float:
        """Seconds of one batch of so many rows and tokens, or of some texts."""
        time.sleep(PAUSE)
        self._process.stdin.write(f"{json.dumps(given)}\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Let it end."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> float:
        # Libraries may print lines of their own.
        for line in self._process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise SystemExit(f"{self._process.args}: exit code {self._process.wait()}")


@contextmanager
def apart(made: Path, kind: str, names: Iterable[str], threads: int) -> Iterator[dict[str, Apart]]:
    """Processes by the name of what each holds, until the block ends."""
    engines = {name: Apart(made, kind, name, threads) for name in names}
    yield engines
    for engine in engines.values():
        engine.end()


def batch(rows: int, length: int) -> dict[str, Any]:
    """Random tokens, without padding."""
    ids = np.random.default_rng(0).integers(5, VOCABULARY, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def of_batches(made: Path, runtime: str, threads: int) -> Callable[[list[int]], float]:
    """Seconds of one batch, over 0.1 s of them."""
    run = runner(made, runtime, threads)

    def seconds(shape: list[int]) -> float:
        feed = batch(*shape)
        run(feed)
        once = timed(lambda: run(feed), 1)
        return timed(lambda: run(feed), math.ceil(LEAST / once)) if once < LEAST else once

    return seconds


def of_texts(made: Path, system: str, threads: int) -> Callable[[list[str]], float]:
    """Seconds of some texts, once."""
    encode = encoder(made, system, threads)
    return lambda texts: timed(lambda: encode(texts), 1)


KINDS: dict[str, Callable[[Path, str, int], Callable[[list[Any]], float]]] = {
    "batches": of_batches, "texts": of_texts
}  # fmt: skip


def main() -> None:
    """Load, then answer each line with the seconds of what it holds."""
    made, kind, name, threads = sys.argv[1:]
    seconds = KINDS[kind](Path(made), name, int(threads))
    print("seconds 0", flush=True)
    for line in sys.stdin:
        print(f"seconds {seconds(json.loads(line))}", flush=True)


if __name__ == "__main__":
    main()
