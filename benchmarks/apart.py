"""One runtime in a process of its own, asked for timings line by line; see `inference.py`."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from engines import LEAST, ROOT, runner, timed
from sizes import VOCABULARY

PAUSE = 0.02  # seconds, in which the threads of the runtime before stop spinning


class Apart:
    """A process that holds one runtime, and runs batches of it when asked."""

    def __init__(self, made: Path, runtime: str, threads: int) -> None:
        """Start it.

        Args:
            made: The bundle; torch runs the model folder beside it.
            runtime: One of `engines.RUNTIMES`.
            threads: Of the runtime.
        """
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(made), runtime, str(threads)], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._answer()

    def seconds(self, rows: int, length: int) -> float:
        """Seconds of one batch."""
        time.sleep(PAUSE)
        self._process.stdin.write(f"{rows} {length}\n")
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


def batch(rows: int, length: int) -> dict[str, Any]:
    """Random tokens, without padding."""
    ids = np.random.default_rng(0).integers(5, VOCABULARY, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def main() -> None:
    """Load, then answer each line with the seconds of one batch, over 0.1 s of them."""
    run = runner(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    print("seconds 0", flush=True)
    for line in sys.stdin:
        feed = batch(*map(int, line.split()))
        run(feed)
        once = timed(lambda feed=feed: run(feed), 1)
        again = math.ceil(LEAST / once) if once < LEAST else 0
        took = timed(lambda feed=feed: run(feed), again) if again else once
        print(f"seconds {took}", flush=True)


if __name__ == "__main__":
    main()
