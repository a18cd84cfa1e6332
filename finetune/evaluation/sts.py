"""Similarity of text pairs: Spearman correlation with the scores, average precision for labels.

Neither is a mean over pairs as retrieval's metrics are means over queries. Each is therefore given
as one value a pair whose mean is the metric itself:

    value_k = metric + n x (derivative of the metric by the weight of pair k)

(the infinitesimal jackknife: Efron, "The Jackknife, the Bootstrap and Other Resampling Plans",
1982). The mean of these values varies as the metric does from sample to sample, so that intervals,
paired tests and gates that work on the values of queries work on them too.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.inference import Encoder
from finetune.records import Scored

METRICS = ("spearman", "ap", "f1")

Values = NDArray[np.float64]


def similarities(
    encoder: Encoder, rows: Sequence[Scored], progress: Callable[[int], None] | None = None
) -> NDArray[np.float32]:
    """Cosine of each pair, ``[n]``. Both sides are encoded with the query prompt."""
    left = encoder.encode([row.a for row in rows], "query", progress=progress)
    right = encoder.encode([row.b for row in rows], "query", progress=progress)
    return np.einsum("nd,nd->n", left, right)


def score(cosines: NDArray[np.floating], scores: NDArray[np.floating]) -> dict[str, Values]:
    """Score pairs: ``spearman``, and ``ap`` and ``f1`` where the scores are labels, 0 or 1.

    Args:
        cosines: ``[n]``, by a model.
        scores: ``[n]``, how alike the pairs are.

    Returns:
        For each metric ``[n]`` values, one a pair; their mean is the metric.
    """
    values = {"spearman": spearman(cosines, scores)}
    if set(np.unique(scores).tolist()) == {0.0, 1.0}:
        values["ap"] = average_precision(cosines, scores)
        values["f1"] = best_f1(cosines, scores)
    return values


def spearman(cosines: NDArray[np.floating], scores: NDArray[np.floating]) -> Values:
    """Spearman rank correlation, average ranks for ties; 0 where all cosines are the same.

    ``rho = C(u, v) / sqrt(C(u, u) x C(v, v))`` with ``C(u, v) = mean(u x v)`` over the ranks ``u``
    and ``v`` of both sides, divided by n and centred (Spearman 1904).

    Returns:
        ``[n]`` values whose mean is the correlation.
    """
    u, v = ranks(cosines) - 0.5, ranks(scores) - 0.5
    both, by_both = _covariance(cosines, scores, u, v)
    one, by_one = _covariance(cosines, cosines, u, u)
    other, by_other = _covariance(scores, scores, v, v)
    if one == 0 or other == 0:
        return np.zeros(len(u))
    rho = both / np.sqrt(one * other)
    slope = by_both / np.sqrt(one * other) - rho / 2 * (by_one / one + by_other / other)
    return np.asarray(rho + slope)


def average_precision(cosines: NDArray[np.floating], labels: NDArray[np.floating]) -> Values:
    """Average precision of 0/1 labels under the cosines as scores; ties share one threshold.

    ``AP = sum((R_i - R_{i-1}) x P_i)`` over the distinct thresholds i, highest first, which is the
    mean of ``P`` over the pairs that are alike.

    Returns:
        ``[n]`` values whose mean is the average precision.
    """
    hits: Values = (labels > 0).astype(np.float64)
    n, alike = len(hits), hits.sum()
    reached = n - _below(cosines, np.ones(n))  # pairs with this cosine or a higher one
    precision = (alike - _below(cosines, hits)) / reached
    average = (hits * precision).sum() / alike
    # Counting pair k more lifts the precision at every threshold that it reaches, or lowers it.
    gain = _up_to(cosines, hits / reached)
    loss = _up_to(cosines, hits * precision / reached)
    slope = (hits * (precision - average) + hits * gain - loss) / alike
    return np.asarray(average + n * slope)


def best_f1(cosines: NDArray[np.floating], labels: NDArray[np.floating]) -> Values:
    """F1 of 0/1 labels at the best threshold: pairs with this cosine or a higher one are alike.

    ``F1 = 2 x TP / (predicted + alike)``. A pair's weight moves the threshold too, but F1 does not
    change with the threshold at its best.

    Returns:
        ``[n]`` values whose mean is the F1.
    """
    hits: Values = (labels > 0).astype(np.float64)
    predicted: Values = (cosines >= threshold(cosines, labels)).astype(np.float64)
    both = predicted + hits
    f1 = 2 * (predicted * hits).mean() / both.mean()
    return np.asarray(f1 + (2 * predicted * hits - f1 * both) / both.mean())


def threshold(cosines: NDArray[np.floating], labels: NDArray[np.floating]) -> float:
    """The cosine from which on pairs are called alike, for the best F1: between two neighbours.

    Of several equally good ones, the highest. Where all are called alike, the lowest cosine.
    """
    found, f1 = f1_curve(cosines, labels)
    best = int(np.argmax(f1))
    return float(found[best : best + 2].mean())


def f1_curve(cosines: NDArray[np.floating], labels: NDArray[np.floating]) -> tuple[Values, Values]:
    """Return the distinct cosines, highest first, and F1 where each is the threshold."""
    order = np.argsort(-cosines, kind="stable")
    found = cosines[order].astype(np.float64)
    hits = np.cumsum(labels[order] > 0)
    ends = np.append(np.flatnonzero(np.diff(found)), len(found) - 1)  # ties are not parted
    return found[ends], 2 * hits[ends] / (ends + 1 + hits[-1])


def ranks(values: NDArray[np.floating]) -> Values:
    """Share of the values that lie below each, those equal to it counted half: in (0, 1)."""
    ones = np.ones(len(values))
    return (_below(values, ones) + _up_to(values, ones)) / (2 * len(values))


def _covariance(
    x: NDArray[np.floating], y: NDArray[np.floating], u: Values, v: Values
) -> tuple[float, Values]:
    """Mean product of the centred ranks u of x and v of y, and n times its slope by each weight.

    A pair's weight acts through its own product, and through the ranks of all pairs above it.
    """
    mean = float((u * v).mean())
    above = (_above(x, v) + _above(y, u)) / len(u)
    return mean, u * v - 3 * mean + above


def _above(keys: NDArray[np.floating], values: Values) -> Values:
    """For each key the sum of the values with a higher key, and of half of those with the same."""
    return values.sum() - (_below(keys, values) + _up_to(keys, values)) / 2


def _below(keys: NDArray[np.floating], values: Values) -> Values:
    """For each key the sum of the values with a lower key."""
    groups, totals = _grouped(keys, values)
    return np.asarray((np.cumsum(totals) - totals)[groups])


def _up_to(keys: NDArray[np.floating], values: Values) -> Values:
    """For each key the sum of the values with a lower or the same key."""
    groups, totals = _grouped(keys, values)
    return np.asarray(np.cumsum(totals)[groups])


def _grouped(keys: NDArray[np.floating], values: Values) -> tuple[NDArray[np.intp], Values]:
    groups = np.unique(keys, return_inverse=True)[1]
    return groups, np.bincount(groups, values).astype(np.float64, copy=False)
