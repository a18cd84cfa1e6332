"""How sure a score and a difference are.

Intervals hold 95 %. A difference is noise where chance alone would show one as large more often
than ``alpha``; `smallest_difference` says what the set could have shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_BLOCK = 1_000_000  # numbers drawn at once: 8 MB
_FEWEST = 6  # of 5 queries that all gain, sign flips still give p = 1/16
_Z = NormalDist().inv_cdf(0.975)  # of a two-sided 5 % test
_Z_POWER = NormalDist().inv_cdf(0.8)


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences, its 95 % interval and its two-sided p-value."""

    delta: float
    ci_low: float
    ci_high: float
    p_value: float


def interval(values: Values, samples: int, seed: int = 0) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the mean over queries.

    Args:
        values: ``[n]``, one value a query.
        samples: Resamples.
        seed: Of the resampling.
    """
    if len(values) == 0:
        raise ValueError("no values to resample; expected at least one query")
    return _ends(_resampled(values, samples, np.random.default_rng(seed)))


def compare(base: Values, other: Values, samples: int, seed: int = 0) -> Difference:
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
    low, high = interval(differences, samples, seed)
    p_value = _sign_flips(differences, samples, np.random.default_rng(seed))
    return Difference(float(differences.mean()), low, high, p_value)


def interval_of_seeds(runs: Values, samples: int, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean over queries and over trainings that differ in their seed.

    Args:
        runs: ``[s, n]``, a row a training, a column a query.
        samples: Resamples.
        seed: Of the resampling.
    """
    rng = np.random.default_rng(seed)
    return _ends(_resampled(runs.mean(axis=0), samples, rng) + _seed_noise(runs, samples, rng))


def compare_seeds(base: Values, other: Values, samples: int, seed: int = 0) -> Difference:
    """Compare two ways of training, each trained with one or more seeds, on the same queries.

    With one seed each this is `compare`. With more, queries are resampled and the seeds' own noise
    is added to each resample: a t-distributed draw, scaled by the standard error of the mean over
    seeds. The p-value is twice the share of resamples beyond 0, themselves counted in.

    Args:
        base: ``[s, n]``, a row a seed, a column a query.
        other: ``[t, n]``, the same queries in the same order.
        samples: Resamples.
        seed: Of the resampling.
    """
    if len(base) == len(other) == 1:
        return compare(base[0], other[0], samples, seed)
    if base.shape[1:] != other.shape[1:]:
        raise ValueError(f"{base.shape} and {other.shape} values; expected the same queries")
    rng = np.random.default_rng(seed)
    differences = other.mean(axis=0) - base.mean(axis=0)
    drawn = _resampled(differences, samples, rng)
    drawn += _seed_noise(other, samples, rng) - _seed_noise(base, samples, rng)
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p_value = min(1.0, 2 * (beyond + 1) / (samples + 1))
    return Difference(float(differences.mean()), *_ends(drawn), p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number, so that a false alarm among all is as rare as one says.

    Holm 1979: ``adjusted of the i-th smallest of m = max over j <= i of (m - j + 1) x p_j``, at
    most 1.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    ascending = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1.0)
    adjusted = np.empty(len(order))
    adjusted[order] = ascending
    return [float(value) for value in adjusted]


def power(difference: float, spread: float, queries: int) -> float:
    """How often a two-sided 5 % test finds a true difference, in its own direction.

    ``Phi(difference x sqrt(n) / spread - z(.975))``, normal approximation.

    Args:
        difference: The true one, positive.
        spread: Standard deviation of the paired differences.
        queries: Their number n.
    """
    if spread == 0:
        return 1.0 if difference > 0 else 0.0
    return NormalDist().cdf(difference * np.sqrt(queries) / spread - _Z)


def smallest_difference(differences: Values) -> float:
    """The true difference that a two-sided 5 % test on so many queries finds 4 times in 5.

    ``(z(.975) + z(.8)) x standard error``, normal approximation; infinite for fewer than 6 queries.
    """
    if len(differences) < _FEWEST:
        return float("inf")
    return float((_Z + _Z_POWER) * differences.std(ddof=1) / np.sqrt(len(differences)))


def visible(found: Difference, base: Values, other: Values) -> float:
    """The true difference that `compare_seeds` finds 4 times in 5, were its interval so wide again.

    With one seed each `smallest_difference`; with more, half the interval, which few seeds make
    wide, and z(.8) standard errors.

    Args:
        found: What it showed.
        base: ``[s, n]``, a row a seed, a column a query.
        other: ``[t, n]``.
    """
    differences = other.mean(axis=0) - base.mean(axis=0)
    smallest = smallest_difference(differences)
    if len(base) == len(other) == 1 or smallest == float("inf"):
        return smallest
    error = np.hypot(smallest / (_Z + _Z_POWER), np.hypot(_seed_error(base), _seed_error(other)))
    return float((found.ci_high - found.ci_low) / 2 + _Z_POWER * error)


def _resampled(values: Values, samples: int, rng: np.random.Generator) -> Values:
    """Means of ``samples`` resamples."""
    return np.concatenate([
        values[rng.integers(0, len(values), (size, len(values)))].mean(axis=1)
        for size in _blocks(samples, len(values))
    ])  # fmt: skip


def _seed_noise(runs: Values, samples: int, rng: np.random.Generator) -> Values:
    """What other seeds would have changed in the mean over these; nothing is known of one."""
    if len(runs) == 1:
        return np.zeros(samples)
    return rng.standard_t(len(runs) - 1, samples) * _seed_error(runs)


def _seed_error(runs: Values) -> float:
    """Standard error of the mean over seeds, as far as it is known."""
    return float(runs.mean(axis=1).std(ddof=1) / np.sqrt(len(runs))) if len(runs) > 1 else 0.0


def _sign_flips(differences: Values, samples: int, rng: np.random.Generator) -> float:
    """Share of random labellings that differ as much as the observed one, which is among them."""
    total = abs(differences.sum())
    changed = differences[differences != 0]  # the others have no sign to flip
    extreme = 1
    for size in _blocks(samples, max(1, len(changed))):
        signs = rng.integers(0, 2, (size, len(changed)), dtype=np.int8) * 2 - 1
        # Rounding must not make the observed labelling look more extreme than itself.
        extreme += int((np.abs(signs @ changed) >= total - 1e-12 * len(differences)).sum())
    return extreme / (samples + 1)


def _ends(means: Values) -> tuple[float, float]:
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _blocks(samples: int, width: int) -> list[int]:
    full, rest = divmod(samples, max(1, _BLOCK // width))
    return [max(1, _BLOCK // width)] * full + ([rest] if rest else [])
