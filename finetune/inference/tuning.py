"""Measure how many threads and how large batches are the fastest for a bundle on this machine."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from finetune import cpu
from finetune.errors import UserError
from finetune.inference.batches import GPU_TOKEN_BUDGET, TOKEN_BUDGET
from finetune.inference.bundle import BundleInfo
from finetune.inference.machine import Tuned, write
from finetune.inference.onnx import OnnxEncoder
from finetune.inference.sessions import on_gpu

BUDGETS = (256, 512, 1024, 2048, 4096)
# Seconds that one measurement takes with the defaults, and how often each is taken, in turn.
SECONDS, ROUNDS = 2.0, 3
# What less is gained by is not kept: two measurements of the same differ by as much.
GAIN = 1.05


def threads_tried() -> list[int]:
    """1, 2, 4, … up to the CPUs there are; half of them is often all real cores."""
    powers = [2**n for n in range(cpu.count().bit_length()) if 2**n < cpu.count()]
    return [*powers, cpu.count()]


def expected_seconds() -> float:
    """About how long `tune` takes."""
    return SECONDS * ROUNDS * (len(threads_tried()) + len(BUDGETS))


def tune(
    folder: Path, precision: str | None = None, texts: Sequence[str] = ()
) -> tuple[Tuned, bool]:
    """Measure threads with the default budget, then budgets with the best threads; keep the best.

    Args:
        folder: The bundle; ``tuned.json`` is written into it, or the entry of this machine and
            precision removed where the defaults are as good.
        precision: Which of its models; None as `OnnxEncoder.load`.
        texts: As they will be encoded; without any, random ones of mixed length.

    Returns:
        The best, and whether it was kept.

    Raises:
        UserError: The folder is no bundle, lacks the precision, or a GPU runs it here.
    """
    info = BundleInfo.read(folder)
    precision = info.chosen(folder, precision)
    if on_gpu(precision, "auto"):
        raise UserError(
            f"precision {precision}: a GPU runs it here, with batches of {GPU_TOKEN_BUDGET:,} "
            "tokens whatever is tuned; name a precision that runs on the CPU: "
            f"{', '.join(sorted(set(info.precisions) - {precision})) or 'this bundle has none'}"
        )
    sample = list(texts) or random_texts(info.max_length)
    default = cpu.count(), TOKEN_BUDGET
    load = partial(OnnxEncoder.load, folder, precision)
    encoders = {count: load(threads=count) for count in threads_tried()}
    sample = _so_many(sample, encoders[cpu.count()])
    rates = fastest({
        (count, TOKEN_BUDGET): partial(encoder.encode, sample)
        for count, encoder in encoders.items()
    }, len(sample))  # fmt: skip
    threads = max(rates, key=rates.__getitem__)[0]
    runs = {(threads, budget): encoders[threads].batching(budget) for budget in BUDGETS}
    runs[default] = encoders[cpu.count()]
    encoders.clear()  # each holds the model
    # The default once more: what is compared was measured in turn.
    rates = fastest(
        {key: partial(encoder.encode, sample) for key, encoder in runs.items()}, len(sample)
    )
    best = max(rates, key=rates.__getitem__)
    model = info.precisions[precision].sha256
    found = Tuned(model, *best, round(rates[best], 1), round(rates[default], 1))
    kept = best != default and rates[best] >= GAIN * rates[default]
    write(folder, precision, found if kept else None)
    return found, kept


def fastest(
    runs: Mapping[tuple[int, int], Callable[[], object]], texts: int
) -> dict[tuple[int, int], float]:
    """Texts a second of each, the median of some rounds in which all have their turn."""
    took: dict[tuple[int, int], list[float]] = {key: [] for key in runs}
    for _ in range(ROUNDS):
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            took[key].append(time.perf_counter() - start)
    return {key: texts / statistics.median(values) for key, values in took.items()}


def random_texts(max_length: int) -> list[str]:
    """Characters by chance; half of the texts under 30, one in forty over 200, as passages are."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(30), 1, 4096), 2, max_length).astype(int)
    return ["".join(map(chr, rng.integers(0x4E00, 0x9FA5, length))) for length in lengths]


def _so_many(texts: list[str], encoder: OnnxEncoder) -> list[str]:
    """As many of the texts as take about `SECONDS`."""
    first = texts[:64]
    encoder.encode(first)
    start = time.perf_counter()
    encoder.encode(first)
    rate = len(first) / (time.perf_counter() - start)
    return texts[: max(64, int(rate * SECONDS))]
