"""Follow the curves of a training that is under way."""

import json
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

_PAUSE = 5.0  # seconds between two looks at the file
_LONG_PAUSE = 60.0  # after a failure: a server that is away is not asked all the time
# The trainer's own pace of evaluations knows nothing of what the guard reads: always 0.
_NOT_METRICS = ("step", "time", "epoch", "eval_runtime", "eval_samples_per_second",
                "eval_steps_per_second")  # fmt: skip
CURVES = ("train/", "select/")  # what names of metrics from curves begin with


class Follower:
    """Reads the rows that came new to a JSON Lines file.

    The file is at one of ``places``: where training writes it, and where it lies once training is
    done, which may be before the first look. It is read from the start each time, because a resumed
    training rewrites it. ``before`` counts the steps of earlier rounds, by which this file's steps
    are behind.
    """

    def __init__(self, places: Sequence[Path], before: int = 0) -> None:
        self.before = before
        self.places = places
        self._file: TextIO | None = None
        self._sent: set[str] = set()

    def new(self) -> list[str]:
        """Return whole lines that `sent` has not been told about."""
        return [line for line in self.lines() if line not in self._sent]

    def lines(self) -> list[str]:
        """Return all whole lines, each once."""
        if self._file is None:
            self._file = _open_first(self.places)
        if self._file is None:
            return []
        self._file.seek(0)
        return list(dict.fromkeys(line for line in self._file if line.endswith("\n")))

    def sent(self, lines: list[str]) -> None:
        """Note lines that have arrived."""
        self._sent.update(lines)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class Repeat(threading.Thread):
    """Calls a function again and again until stopped; rests longer after it returns False."""

    def __init__(self, work: Callable[[], bool]) -> None:
        super().__init__(name="tracking", daemon=True)
        self._work = work
        self._stopped = threading.Event()

    def run(self) -> None:
        """Work, rest, repeat."""
        pause = 0.0
        while not self._stopped.wait(pause):
            pause = _PAUSE if self._work() else _LONG_PAUSE

    def stop(self) -> None:
        """Stop, after the call that is under way."""
        self._stopped.set()
        self.join()


def _open_first(places: Sequence[Path]) -> TextIO | None:
    for place in places:
        try:
            return place.open(encoding="utf-8")
        except FileNotFoundError:
            continue
    return None


def metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of a row: ``train/loss``, and ``select/ndcg_at_10`` for ``eval_ndcg@10``."""
    named = {
        f"select/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}": value
        for key, value in row.items()
        if key not in _NOT_METRICS
    }
    return {metric_name(key): float(v) for key, v in named.items() if _is_number(v)}


def metric_name(name: str) -> str:
    """Turn any text into a name that MLflow takes: ``ndcg@10`` becomes ``ndcg_at_10``."""
    name = re.sub(r"[^\w./ -]", "_", name.replace("@", "_at_"))
    parts = [part.strip(". ") for part in name.split("/")]
    return "/".join(part for part in parts if part) or "_"


def parse(line: str) -> dict[str, Any]:
    """Read one row; a line that a crash cut short holds nothing."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
