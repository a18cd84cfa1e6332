"""Rounds weights to 8 bits so that the errors cancel on real activations.

Rounding each weight to the nearest step is best for the weight, not for ``a @ w``: activations are
correlated, so what one row loses the rows after it can make up. GPTQ (Frantar et al. 2023,
arXiv:2210.17323) rounds row after row and spreads each row's error over the rows still to come, by
the inverse of ``H = aᵀa``, gathered on some texts. Rows of large activations come first, while
there are many left to make up for them. Nothing changes at run time.
"""

import numpy as np
from numpy.typing import NDArray

_BLOCK = 128  # rows rounded before the rest of the matrix is brought up to date
# Share of H's mean diagonal added to it, so that channels which the texts never used count little
# and the inverse exists.
_DAMPING = 0.01


def round_columns(
    weight: NDArray[np.float32], gram: NDArray[np.float64]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise ``[k, n]`` symmetrically with one scale a column -> int8 ``[k, n]``, ``[n]``.

    Args:
        weight: ``[k, n]``.
        gram: ``aᵀa`` of the activations that the weight is multiplied with, ``[k, k]``.
    """
    largest = np.abs(weight).max(axis=0)
    scale = np.where(largest > 0, largest / 127, 1)
    order = np.argsort(-np.diag(gram), kind="stable")
    spread = _spread(gram[np.ix_(order, order)])
    rest = weight[order].astype(np.float64)
    rounded = np.empty(weight.shape, np.int8)
    for start in range(0, len(rest), _BLOCK):
        end = min(start + _BLOCK, len(rest))
        errors = np.empty((end - start, rest.shape[1]))
        for row in range(start, end):
            rounded[row] = np.clip(np.round(rest[row] / scale), -127, 127)
            errors[row - start] = (rest[row] - rounded[row] * scale) / spread[row, row]
            rest[row + 1 : end] -= np.outer(spread[row, row + 1 : end], errors[row - start])
        rest[end:] -= spread[start:end, end:].T @ errors
    return rounded[np.argsort(order)], scale.astype(np.float32)


def _spread(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper Cholesky factor of the damped inverse: row i says where the error of row i goes."""
    size = len(gram)
    damping = _DAMPING * (np.trace(gram) / size or 1.0)
    inverse = np.linalg.inv(gram + damping * np.eye(size))
    return np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float64)
