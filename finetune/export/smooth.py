"""Moves outliers from activations into weights before both are rounded to 8 bits.

A tensor of activations has one scale in INT8, so a single channel that is 20 times as large as the
rest leaves the rest 3 of its 8 bits. Trained encoders have such channels: in the starter one of
1,536 after Gelu reaches 63 where the second reaches 5, always at the same few tokens. Dividing the
channel and multiplying its row of the weight by the same number changes nothing in exact
arithmetic, and lets both be rounded well::

    a @ w = (a / s) @ (diag(s) w)

Measured on the starter (150 legal texts): mean-centred cosine to fp32 .977 -> .996, NDCG@10 of 700
queries -1.2 % -> +0.2 %, for 5 % of the time.

The idea is SmoothQuant's (Xiao et al. 2023, arXiv:2211.10438). Unlike there only outliers are
moved, since weights have a scale a column here, not one a tensor, and suffer from large rows.
"""

import numpy as np
from numpy.typing import NDArray

# A channel above this quantile of all channels' maxima is an outlier. From .90 to .98, and with
# powers from .6 to 1, results differ by less than they do from one set of texts to another.
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
