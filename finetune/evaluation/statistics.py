"""How sure a score and a difference are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1_000  # resamples drawn at once: bounds memory at 8 MB for 1,000 queries


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences, its 95 % interval and its two-sided p-value."""

    delta: float
    ci_low: float
    ci_high: float
    p_value: float


def interval(values: NDArray[np.float64], samples: int, seed: int = 0) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the mean over queries.

    Args:
        values: ``[n]``, one value a query.
        samples: Resamples.
        seed: Of the resampling.
    """
    if len(values) == 0:
        raise ValueError("no values to resample; expected at least one query")
    rng = np.random.default_rng(seed)
    means = np.concatenate([
        values[rng.integers(0, len(values), (size, len(values)))].mean(axis=1)
        for size in _blocks(samples)
    ])  # fmt: skip
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def compare(
    base: NDArray[np.float64], other: NDArray[np.float64], samples: int, seed: int = 0
) -> Difference:
    """Compare two systems on the same queries.

    The interval is a paired bootstrap; the p-value a paired randomisation test (sign flips), with
    the observed labelling counted among the samples, so that it is never 0 (Smucker et al. 2007).

    Args:
        base: ``[n]``, one value a query.
        other: ``[n]``, the same queries in the same order.
        samples: Resamples, and sign flips.
        seed: Of both.
    """
    if base.shape != other.shape:
        raise ValueError(f"{base.shape} and {other.shape} values; expected the same queries")
    differences = other - base
    delta = float(differences.mean())
    rng = np.random.default_rng(seed)
    extreme = 1
    for size in _blocks(samples):
        signs = rng.integers(0, 2, (size, len(differences)), dtype=np.int8) * 2 - 1
        flipped = np.abs(signs @ differences) / len(differences)
        # Rounding must not make the observed labelling look more extreme than itself.
        extreme += int((flipped >= abs(delta) - 1e-12).sum())
    low, high = interval(differences, samples, seed)
    return Difference(delta, low, high, extreme / (samples + 1))


def smallest_difference(differences: NDArray[np.float64]) -> float:
    """The true difference that a two-sided 5 % test on so many queries finds 4 times in 5.

    ``(z(.975) + z(.8)) x standard error``, normal approximation.
    """
    if len(differences) < 2:
        return float("inf")
    return float(2.80 * differences.std(ddof=1) / np.sqrt(len(differences)))


def _blocks(samples: int) -> list[int]:
    full, rest = divmod(samples, _BLOCK)
    return [_BLOCK] * full + ([rest] if rest else [])
