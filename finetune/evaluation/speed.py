"""How fast an encoder is on this machine."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.inference import Encoder

_SINGLES = 30
PASSES = 3  # over the passages: one may fall into a busy moment
_RESAMPLES = 1_000


@dataclass(frozen=True)
class Speed:
    """How fast an encoder is.

    Attributes:
        latency_ms: Median latency of one query in milliseconds.
        latency_low: Lower end of the median's 95 % interval.
        latency_high: Its upper end.
        timed: Queries that were timed.
        texts_per_second: Passages a second in bulk, the median of some passes.
    """

    latency_ms: float
    latency_low: float
    latency_high: float
    timed: int
    texts_per_second: float

    @property
    def told(self) -> dict[str, float]:
        """The fields, rounded to what a clock can tell."""
        return {key: round(value, 2) for key, value in asdict(self).items()}


def measure(encoder: Encoder, queries: Sequence[str], passages: Sequence[str]) -> Speed:
    """Time single queries and passes over a bulk of passages, after a warm-up."""
    encoder.encode(list(queries[:1]), "query")
    latencies = []
    for query in queries[:_SINGLES]:
        start = time.perf_counter()
        encoder.encode([query], "query")
        latencies.append(time.perf_counter() - start)
    passes = []
    for _ in range(PASSES):
        start = time.perf_counter()
        encoder.encode(list(passages))
        passes.append(time.perf_counter() - start)
    rate = len(passages) / statistics.median(passes)
    return Speed(*_median(1000 * np.array(latencies)), len(latencies), rate)


def _median(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """The median and the ends of its 95 % bootstrap interval."""
    rows = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[rows], axis=1), [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)
