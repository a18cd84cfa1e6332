"""Whether an exported model still gives the vectors of the model it was made from."""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.inference import Encoder, shortened, top_k

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


class Comparison:
    """Compares encoders with a reference on the same texts, every other as a query.

    Args:
        reference: Gives the vectors that the others must give.
        texts: At least 2 different ones; equal ones count once, for they would make nearest
            neighbours luck.
        dim: Length that vectors will be cut to where they are served: they must agree there too,
            and each value told is that of the length at which it is worse. None: whole alone.
    """

    def __init__(self, reference: Encoder, texts: Iterable[str], dim: int | None = None) -> None:
        self._texts = list(dict.fromkeys(texts))
        self._dim = dim
        self._exact = self._encode(reference, np.arange(len(self._texts)))

    def __call__(self, encoder: Encoder, count: int | None = None) -> Parity:
        """Compare an encoder, on all texts or on so many of them."""
        n = len(self._texts)
        rows = np.linspace(0, n - 1, min(count or n, n)).astype(int)
        exact, found = self._exact[rows], self._encode(encoder, rows)
        whole = compare(exact, found)
        if self._dim is None or self._dim >= encoder.dim:
            return whole
        return worse(whole, compare(shortened(exact, self._dim), shortened(found, self._dim)))

    def _encode(self, encoder: Encoder, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        vectors = np.empty((len(rows), encoder.dim), np.float32)
        for half, prompt in ((rows % 2 == 0, "query"), (rows % 2 == 1, "passage")):
            vectors[half] = encoder.encode([self._texts[row] for row in rows[half]], prompt)
        return vectors


def compare(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> Parity:
    """Compare vectors of the same texts, row by row.

    Args:
        reference: ``[n, d]``, n at least 2, unit length.
        candidate: ``[n, d]``, unit length; where one number is none, all values are NaN.

    Raises:
        ValueError: The shapes differ, or there are fewer than 2 texts.
    """
    if reference.shape != candidate.shape or len(reference) < 2:
        raise ValueError(
            f"reference is {reference.shape} and candidate {candidate.shape}; expected the same "
            "[n, d] with n of at least 2"
        )
    if not np.isfinite(candidate).all():
        return Parity(len(candidate), *[float("nan")] * 4)
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


def worse(one: Parity, other: Parity) -> Parity:
    """Return the lower of each value of two comparisons of the same texts."""
    lower = np.minimum(astuple(one)[1:], astuple(other)[1:])  # NaN, where one of them is
    return Parity(one.texts, *map(float, lower))


def misses(parity: Parity, floor: Mapping[str, float]) -> dict[str, float]:
    """Return the floors, by name of a field of `Parity`, that a value is under (or no number)."""
    # NaN is under every floor.
    return {name: least for name, least in floor.items() if not getattr(parity, name) >= least}


def told(parity: Parity, missed: Mapping[str, float]) -> str:
    """Say what is missed, by how much."""
    if np.isnan(parity.mean_cosine):
        return "it gives vectors that hold NaN or infinity"
    return "; ".join(
        f"{name.replace('_', ' ')} is {getattr(parity, name):.5f}, expected at least {least:g}"
        for name, least in missed.items()
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
