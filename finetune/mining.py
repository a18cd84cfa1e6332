"""Hard negatives: passages near a query that are, by the evidence at hand, not its answer.

Positive-aware, after NV-Retriever (arXiv:2407.15831): a neighbour that scores nearly as high as the
positive is taken for an unlabelled positive and left out. Where the cosines of a model lie close
together (E5: nearly all between 0.8 and 0.9), a share of the cosine itself would leave out almost
everything, so scores are counted from the query's mean cosine with the pool, its level of chance:

    limit = chance + (1 - relative_margin) x (positive - chance)

Known positives of the query, and texts equal to one after normalisation, are never negatives. A
cross-encoder, where one is given, reads query and text together and leaves out what it finds nearly
as good as the positive.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.inference import searcher
from finetune.inference.search import QUERY_BLOCK, QUERY_BLOCKS
from finetune.records import AnyRow, Mined, Pair, Scored, normalised


@dataclass(frozen=True)
class Audit:
    """What mining did with one pair: the negatives kept, the first neighbours left out and why.

    ``reasons`` counts all neighbours left out.
    """

    id: str
    query: str
    positive: str
    positive_score: float
    kept: tuple[tuple[str, float], ...]
    dropped: tuple[tuple[str, float, str], ...]
    reasons: Mapping[str, int]


# Pairs whose neighbours are in memory at once; as many as `top_k` takes at once, so that its
# products are those of all pairs together.
_BLOCK = QUERY_BLOCKS * QUERY_BLOCK

# The score of a query and a text read together, between 0 and 1.
Judge = Callable[[str, str], float]


@dataclass(frozen=True)
class Filter:
    """A cross-encoder; a negative's score must stay by ``margin`` below the positive's."""

    judge: Judge
    margin: float


@dataclass(frozen=True)
class Pool:
    """Texts that negatives are drawn from, with unit vectors ``[m, dim]``, perhaps on disk."""

    texts: Sequence[str]
    vectors: NDArray[np.floating]


def mine(
    pairs: Sequence[Pair],
    queries: NDArray[np.float32],
    positives: NDArray[np.float32],
    pool: Pool,
    *,
    negatives: int,
    candidates: int,
    relative_margin: float,
    others: Sequence[Pair] = (),
    cross_encoder: Filter | None = None,
    search: str = "exact",
    folder: Path | None = None,
) -> Iterator[tuple[Mined | None, Audit]]:
    """Mine each pair.

    Args:
        pairs: ``n`` pairs.
        queries: Their query vectors, ``[n, dim]``, unit length.
        positives: Their positive vectors, ``[n, dim]``, unit length.
        pool: Where negatives come from.
        negatives: How many a pair gets.
        candidates: How many nearest neighbours are looked at.
        relative_margin: Share of the positive's height above chance by which a negative must stay
            below it.
        others: Pairs that are not mined, whose positives are known answers all the same.
        cross_encoder: Looks at each neighbour that would be a negative.
        search: How neighbours are found, see `finetune.inference.searcher`.
        folder: Where a search may put what memory need not hold.

    Yields:
        The mined pair (None where too few negatives were left) and its audit, in order.
    """
    answers = known_answers([*pairs, *others])
    keys = [normalised(text) for text in pool.texts]
    find = searcher(pool.vectors, search, len(queries), folder)
    positive_scores = np.einsum("nd,nd->n", queries, positives)
    chance = queries @ pool.vectors.mean(axis=0)
    limits = chance + (1 - relative_margin) * (positive_scores - chance)
    for row, pair in enumerate(pairs):
        if row % _BLOCK == 0:
            scores, indices = find(queries[row : row + _BLOCK], candidates)
        known = answers[normalised(pair.query)]
        kept: list[tuple[str, float]] = []
        dropped: list[tuple[str, float, str]] = []
        too_close = _too_close(pair, cross_encoder)
        for score, index in zip(
            *(found[row % _BLOCK].tolist() for found in (scores, indices)), strict=True
        ):
            text = pool.texts[index]
            reason = _reason(keys[index], known, score, float(limits[row]))
            if reason:
                dropped.append((text, score, reason))
            elif len(kept) == negatives:
                continue
            elif too_close(text):
                dropped.append((text, score, "too close by the cross-encoder"))
            else:
                kept.append((text, score))
        audit = Audit(
            pair.id, pair.query, pair.positive, float(positive_scores[row]), tuple(kept),
            tuple(dropped[:10]), dict(Counter(reason for *_, reason in dropped)),
        )  # fmt: skip
        yield (_mined(pair, audit) if len(kept) == negatives else None), audit


def known_answers(rows: Iterable[AnyRow]) -> dict[str, set[str]]:
    """What answers each text, all normalised: its positives, what it is a positive of, and itself.

    In pairs of paraphrases a text is the query of one and the positive of another; it answers its
    own query then, and the pair holds in both directions. Where passages never are queries, this
    comes to the positives alone. Of scored pairs no text answers another.
    """
    answers: dict[str, set[str]] = {}
    for pair in (row for row in rows if not isinstance(row, Scored)):
        query, positive = normalised(pair.query), normalised(pair.positive)
        answers.setdefault(query, {query}).add(positive)
        answers.setdefault(positive, {positive}).add(query)
    return answers


def without_known(rows: Sequence[AnyRow], answers: Mapping[str, set[str]]) -> list[AnyRow]:
    """Take known answers out of the rows' negatives; give all rows as many as the poorest has.

    Training takes a column for each negative, so that rows must have equally many. Scored pairs
    have none.
    """
    pairs = [row for row in rows if not isinstance(row, Scored)]
    if len(pairs) < len(rows):
        return list(rows)
    kept = [
        tuple(n for n in row.negatives if normalised(n) not in answers[normalised(row.query)])
        for row in pairs
    ]
    fewest = min(map(len, kept), default=0)
    return [
        dataclasses.replace(row, negatives=own[:fewest])
        for row, own in zip(pairs, kept, strict=True)
    ]


def summary(audits: Sequence[Audit], negatives: int) -> dict[str, int]:
    """Counts for the report: pairs kept and dropped, neighbours left out by reason."""
    short = sum(len(audit.kept) < negatives for audit in audits)
    reasons: Counter[str] = Counter()
    for audit in audits:
        reasons.update(audit.reasons)
    return {"pairs": len(audits) - short, "pairs without enough negatives": short, **reasons}


def _reason(key: str, known: set[str], score: float, limit: float) -> str:
    if key in known:
        return "known positive"
    if score > limit:
        return "too close to the positive"
    return ""


def _too_close(pair: Pair, cross_encoder: Filter | None) -> Callable[[str], bool]:
    """Say whether a text scores too near the positive; few texts of a pair are ever asked about."""
    if cross_encoder is None:
        return lambda text: False
    judge, margin = cross_encoder.judge, cross_encoder.margin
    limit = cache(lambda: judge(pair.query, pair.positive) - margin)
    return lambda text: judge(pair.query, text) > limit()


def _mined(pair: Pair, audit: Audit) -> Mined:
    texts = tuple(text for text, _ in audit.kept)
    scores = (audit.positive_score, *(score for _, score in audit.kept))
    return Mined(pair.id, pair.query, pair.positive, texts, scores, pair.source)
