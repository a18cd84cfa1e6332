"""How fast an encoder is on this machine."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.inference import Encoder

_SINGLES = 30


@dataclass(frozen=True)
class Speed:
    """Latency of one query in milliseconds (median), and passages a second in bulk."""

    latency_ms: float
    texts_per_second: float


def measure(encoder: Encoder, queries: Sequence[str], passages: Sequence[str]) -> Speed:
    """Time single queries and one bulk of passages, after a warm-up."""
    encoder.encode(list(queries[:1]), "query")
    latencies = []
    for query in queries[:_SINGLES]:
        start = time.perf_counter()
        encoder.encode([query], "query")
        latencies.append(time.perf_counter() - start)
    start = time.perf_counter()
    encoder.encode(list(passages))
    seconds = time.perf_counter() - start
    return Speed(1000 * float(np.median(latencies)), len(passages) / seconds)
