"""Makes activations easier to round to 8 bits: shifted and smoothed channels, a scale a token.

A tensor of activations has one scale in INT8, so channels that are much larger than the rest leave
the rest few of its 8 bits. Trained encoders have such channels, the starter too: after Gelu, always
at the same few tokens. Dividing a channel and multiplying its row of the weight by the same number
changes nothing in exact arithmetic, and lets both be rounded well::

    a @ w = (a / s) @ (diag(s) w)

The idea is SmoothQuant's (Xiao et al. 2023, arXiv:2211.10438). How much is moved is chosen for each
tensor by the error that rounding either side is expected to cause in the product.

Channels that lie on one side of zero waste the other; those behind a LayerNorm often do. They are
shifted to their middle z first, and the bias makes up for it (Outlier Suppression+, Wei et al.
2023, arXiv:2304.09145)::

    a @ w + b = (a - z) @ w + (b + z @ w)

Behind Gelu a few tokens of each text, always the same ones, have values several times those of any
other. Where INT8 is dynamic, each token has a scale of its own there, and nothing need be moved.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from finetune.export.adapt import Affine
from finetune.export.calibration import Observed

# Tried: channels above this quantile of all channels' maxima are divided by what they exceed it by,
# to this power.
_QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99)
_POWERS = (0.5, 0.7, 0.85, 1.0)
# What is left of the error of rounding weights once it is made up for (see `rounding`), about.
_LEFT = 0.4
# At most so much of the expected error is left where a multiplication, a subtraction or a scale a
# token is worth its time.
_WORTH, _WORTH_SHIFT, _WORTH_ROWS = 0.8, 0.9, 0.7
# Least values are bounded by the activation function; so much smaller than the largest ones, they
# can share one bound.
_ONE_SIDED = 0.25


def smoothing(seen: Observed, weight: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return what to divide each channel by; None if it is not worth it.

    Formula: ``s = max(1, maxima / q) ** p``, of the q and p with the least `expected_error`.

    Args:
        seen: The activations ``[n, k]``.
        weight: What multiplies them, ``[k, m]``; matrices that share them stand side by side.
    """
    maxima = np.maximum(np.abs(seen.least), np.abs(seen.most))
    best, least = None, _WORTH * expected_error(seen, weight, np.ones_like(maxima))
    for quantile, power in product(np.quantile(maxima, _QUANTILES), _POWERS):
        if quantile > 0:
            divisor = np.maximum(1, maxima / quantile) ** power
            error = expected_error(seen, weight, divisor)
            if error < least:
                best, least = divisor.astype(np.float32), error
    return best


def best_map(seen: Observed, weight: NDArray[np.float32], *, shiftable: bool) -> Affine:
    """Return the map after which an activation is best rounded.

    Args:
        seen: The activations ``[n, k]``.
        weight: What multiplies them, ``[k, m]``; matrices that share them stand side by side.
        shiftable: Whether there is a bias behind each product, which alone makes up for a shift.
    """
    plain = smoothing(seen, weight)
    shift = ((seen.least + seen.most) / 2).astype(np.float32)
    moved = seen.shifted(shift)
    divisor = smoothing(moved, weight)
    errors = _error(moved, weight, divisor), _error(seen, weight, plain)
    if shiftable and errors[0] < _WORTH_SHIFT * errors[1]:
        return Affine(shift, divisor)
    return Affine(None, plain)


@dataclass(frozen=True)
class RowScale:
    """How rows of an activation are rounded to uint8, each with a scale of its own.

    A row's step is ``max(most / (255 - zero), floor)``, with `most` its largest value.

    Attributes:
        zero: What stands for 0, the same for all rows.
        floor: The least step, with which every row's least value is reached.
    """

    zero: int
    floor: float


def row_scale(least: NDArray[np.float32], most: NDArray[np.float32]) -> RowScale | None:
    """Return how to round rows each by its own range; None if it is not worth it.

    Args:
        least: Least value of each row, ``[n]``.
        most: Largest value of each row, ``[n]``.
    """
    lowest, highest = -float(min(least.min(), 0)), float(max(most.max(), 0))
    if highest == 0 or lowest > _ONE_SIDED * highest:
        return None
    spans = np.maximum(most, 0) + lowest
    if np.square(spans).mean() > _WORTH_ROWS * (highest + lowest) ** 2:
        return None
    zero = min(round(255 * lowest / float(spans.mean())), 127)
    return RowScale(zero, lowest / zero if zero else highest * 1e-6)


def _error(
    seen: Observed, weight: NDArray[np.float32], divisor: NDArray[np.float32] | None
) -> float:
    return expected_error(seen, weight, np.ones_like(seen.least) if divisor is None else divisor)


def expected_error(
    seen: Observed, weight: NDArray[np.float32], divisor: NDArray[np.floating]
) -> float:
    """Return the squared error of ``a @ w`` that rounding to 8 bits adds, summed over the texts.

    Rounding to steps of size d adds noise of variance d²/12 to each number. An activation's step is
    the whole tensor's range / 255, a weight's its column's largest / 127.
    """
    rows = divisor[:, None] * weight
    span = max((seen.most / divisor).max(), 0) - min((seen.least / divisor).min(), 0)
    of_activations = seen.rows * (span / 255) ** 2 * np.square(rows).sum()
    steps = np.abs(rows).max(axis=0) / 127
    of_weights = np.square(steps).sum() * (np.diag(seen.gram) / divisor**2).sum()
    return float(of_activations + _LEFT * of_weights) / 12
