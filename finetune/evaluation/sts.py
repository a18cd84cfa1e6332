"""Similarity of text pairs: Spearman correlation for scores, average precision for labels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.errors import UserError
from finetune.inference import Encoder
from finetune.records import Scored


def similarities(encoder: Encoder, rows: Sequence[Scored]) -> NDArray[np.float32]:
    """Cosine of each pair, ``[n]``. Both sides are encoded with the query prompt."""
    left = encoder.encode([row.a for row in rows], "query")
    right = encoder.encode([row.b for row in rows], "query")
    return np.einsum("nd,nd->n", left, right)


def spearman(cosines: NDArray[np.floating], scores: NDArray[np.floating]) -> float:
    """Spearman rank correlation, average ranks for ties."""
    try:
        from scipy.stats import spearmanr
    except ImportError as error:
        raise UserError("similarity sets need scipy: pip install 'finetune[evaluate]'") from error
    return float(spearmanr(cosines, scores).statistic)


def average_precision(cosines: NDArray[np.floating], labels: NDArray[np.floating]) -> float:
    """Average precision of 0/1 labels under the cosines as scores; ties share one threshold.

    ``AP = sum((R_i - R_{i-1}) x P_i)`` over the distinct thresholds i, highest first.
    """
    order = np.argsort(-cosines, kind="stable")
    hits = np.cumsum(labels[order] > 0)
    ends = np.append(np.flatnonzero(np.diff(cosines[order])), len(order) - 1)
    recall = hits[ends] / hits[-1]
    precision = hits[ends] / (ends + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))
