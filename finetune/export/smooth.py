"""Moves outliers from activations into weights before both are rounded to 8 bits.

A tensor of activations has one scale in INT8, so a single channel that is many times as large as
the rest leaves the rest few of its 8 bits. Trained encoders have such channels, the starter too:
after Gelu, always at the same few tokens. Dividing the channel and multiplying its row of the
weight by the same number changes nothing in exact arithmetic, and lets both be rounded well::

    a @ w = (a / s) @ (diag(s) w)

The idea is SmoothQuant's (Xiao et al. 2023, arXiv:2211.10438). Unlike there only outliers are
moved, since weights have a scale a column here, not one a tensor, and suffer from large rows.
"""

import numpy as np
from numpy.typing import NDArray

# A channel above this quantile of all channels' maxima is an outlier. Both are choices, not
# optima: nearby values serve as well.
_QUANTILE = 0.95
_POWER = 0.7
# Tensors whose largest channel is less than this times the quantile stay as they are: what they
# gain is not worth a multiplication at run time.
_WORTH = 2.0


def smoothing(maxima: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return what to divide each channel by; None if there is no outlier worth it.

    Formula: ``s = max(1, maxima / q) ** 0.7``, q the 95 % quantile of the maxima.

    Args:
        maxima: ``[k]``, the largest absolute value each channel takes.
    """
    usual = np.quantile(maxima, _QUANTILE)
    if not maxima.max() >= _WORTH * usual > 0:
        return None
    return (np.maximum(1, maxima / usual) ** _POWER).astype(np.float32)
