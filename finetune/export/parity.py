"""Whether an exported model still gives the vectors of the model it was made from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.inference import top_k

_NEIGHBOURS = 10


@dataclass(frozen=True)
class Parity:
    """How close a candidate's vectors are to the reference's on the same texts.

    Attributes:
        texts: How many texts were compared.
        min_cosine: Of the text that came out worst.
        mean_cosine: Over all texts.
        centred_cosine: Mean cosine after the reference's mean vector is taken off both sides.
            Vectors of one model all lie in a narrow cone, so plain cosine is near 1 even for
            another text; this one is near 0 there.
        top10_overlap: Share of each text's 10 nearest other texts that both sides agree on.
    """

    texts: int
    min_cosine: float
    mean_cosine: float
    centred_cosine: float
    top10_overlap: float


@dataclass(frozen=True)
class Floor:
    """The least a precision must reach to be published."""

    min_cosine: float
    centred_cosine: float


# fp32 differs by rounding only. INT8 done well has a centred cosine of .99 and more on real
# models and a graph that is broken is far below .9 (a naive static graph: .915); whether a working
# one is good enough is decided later, by NDCG@10.
FLOORS = {
    "fp32": Floor(min_cosine=0.9999, centred_cosine=0.999),
    "int8-dynamic": Floor(min_cosine=0.95, centred_cosine=0.95),
}


def compare(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> Parity:
    """Compare vectors of the same texts, row by row.

    Args:
        reference: ``[n, d]``, n at least 2, unit length.
        candidate: ``[n, d]``, unit length.

    Raises:
        ValueError: The shapes differ, or there are fewer than 2 texts.
    """
    if reference.shape != candidate.shape or len(reference) < 2:
        raise ValueError(
            f"reference is {reference.shape} and candidate {candidate.shape}; expected the same "
            "[n, d] with n of at least 2"
        )
    exact, other = reference.astype(np.float64), candidate.astype(np.float64)
    cosine = _cosine(exact, other)
    mean = exact.mean(axis=0)
    return Parity(
        texts=len(exact),
        min_cosine=float(cosine.min()),
        mean_cosine=float(cosine.mean()),
        centred_cosine=float(_cosine(exact - mean, other - mean).mean()),
        top10_overlap=_overlap(_neighbours(reference), _neighbours(candidate)),
    )


def check_parity(parity: Parity, precision: str) -> None:
    """Raise where an artifact is too far from its reference to be published.

    Raises:
        ValueError: No floor is set for the precision.
        RuntimeError: A value is under its floor (or is no number); all such values are named.
    """
    if precision not in FLOORS:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(FLOORS)}")
    floor = FLOORS[precision]
    misses = [
        f"{name} is {value:.5f}, expected at least {least}"
        for name, value, least in (
            ("min cosine", parity.min_cosine, floor.min_cosine),
            ("mean-centred cosine", parity.centred_cosine, floor.centred_cosine),
        )
        if not value >= least  # NaN is under every floor
    ]
    if misses:
        raise RuntimeError(
            f"{precision} is not published: compared with torch on {parity.texts} texts, "
            f"{'; '.join(misses)} (mean cosine {parity.mean_cosine:.5f}, top-10 overlap "
            f"{parity.top10_overlap:.3f})"
        )


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # Two rows that both vanish (a text that equals the mean) agree.
    return np.divide((a * b).sum(axis=1), lengths, out=np.ones(len(a)), where=lengths > 0)


def _neighbours(vectors: NDArray[np.float32]) -> list[set[int]]:
    """For each row, its nearest other rows: 10, or all if there are fewer."""
    found = top_k(vectors, vectors, _NEIGHBOURS + 1)[1]
    return [
        set([other for other in row if other != index][:_NEIGHBOURS])
        for index, row in enumerate(found.tolist())
    ]


def _overlap(a: list[set[int]], b: list[set[int]]) -> float:
    return float(np.mean([len(x & y) / len(x) for x, y in zip(a, b, strict=True)]))
