"""Moves large channels from activations into weights before both are rounded to 8 bits.

A tensor of activations has one scale in INT8, so channels that are much larger than the rest leave
the rest few of its 8 bits. Trained encoders have such channels, the starter too: after Gelu, always
at the same few tokens. Dividing a channel and multiplying its row of the weight by the same number
changes nothing in exact arithmetic, and lets both be rounded well::

    a @ w = (a / s) @ (diag(s) w)

The idea is SmoothQuant's (Xiao et al. 2023, arXiv:2211.10438). How much is moved is chosen for each
tensor by the error that rounding either side is expected to cause in the product.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from finetune.export.calibration import Observed

# Tried: channels above this quantile of all channels' maxima are divided by what they exceed it by,
# to this power.
_QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99)
_POWERS = (0.5, 0.7, 0.85, 1.0)
# What is left of the error of rounding weights once it is made up for (see `rounding`), about.
_LEFT = 0.4
# A gain of less is not worth a multiplication at run time.
_WORTH = 0.8


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
