"""Hard negatives: passages near a query that are, by the evidence at hand, not its answer.

Positive-aware, after NV-Retriever (arXiv:2407.15831): a neighbour that scores nearly as high as the
positive is taken for an unlabelled positive and left out. Where the cosines of a model lie close
together (E5: nearly all between 0.8 and 0.9), a share of the cosine itself would leave out almost
everything, so scores are counted from the query's mean cosine with the pool, its level of chance:

    limit = chance + (1 - relative_margin) x (positive - chance)

Known positives of the query, and texts equal to one after normalisation (of articles, whatever the
law is called), are never negatives. A
cross-encoder, where one is given, reads query and text together and leaves out what it finds nearly
as good as the positive.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.disk import Lookup, number, numbers
from finetune.inference import searcher
from finetune.inference.search import QUERY_BLOCK, QUERY_BLOCKS
from finetune.judging import Filter, Verdicts
from finetune.records import AnyRow, Mined, Pair, Scored, normalised, passage, to_line, untitled


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


# Pairs whose vectors and neighbours are in memory at once; as many as `top_k` takes at once, so
# that its products are those of all pairs together.
_BLOCK = QUERY_BLOCKS * QUERY_BLOCK


@dataclass(frozen=True)
class Pool:
    """Texts that negatives are drawn from, with unit vectors ``[m, dim]``, perhaps on disk."""

    texts: Sequence[str]
    vectors: NDArray[np.floating]

    def of(self, texts: Iterable[str]) -> "Picked":
        """The vectors of some of its texts, in their order."""
        return Picked(self.vectors, Lookup(numbers(self.texts)).first(numbers(texts)))


@dataclass(frozen=True)
class Picked:
    """Vectors in another order than they lie on disk; a slice of them is read when it is taken."""

    vectors: NDArray[np.floating]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> NDArray[np.floating]:
        return self.vectors[self.rows[part]]


Vectors = NDArray[np.floating] | Picked


def mine(
    pairs: Sequence[Pair],
    queries: Vectors,
    positives: Vectors,
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
    answers = known_answers(chain(pairs, others))
    keys = numbers(map(passage, pool.texts))
    find = searcher(pool.vectors, search, len(queries), folder)
    centre = pool.vectors.mean(axis=0)
    rows = iter(pairs)
    for start in range(0, len(queries), _BLOCK):
        asked, own = queries[start : start + _BLOCK], positives[start : start + _BLOCK]
        scores, indices = find(asked, candidates)
        positive_scores = np.einsum("nd,nd->n", asked, own)
        chance = asked @ centre
        limits = chance + (1 - relative_margin) * (positive_scores - chance)
        block = [
            _Near(
                pair, float(positive_scores[row]), float(limits[row]),
                scores[row], indices[row], keys[indices[row]],
                set(answers[number(normalised(pair.query))].tolist()),
            )
            for row, pair in enumerate(islice(rows, len(asked)))
        ]  # fmt: skip
        verdicts = Verdicts(cross_encoder)
        verdicts.read(
            [each.pair for each in block], (each.fitting(pool) for each in block), negatives
        )
        for each in block:
            yield _mine_one(each, pool, negatives, verdicts)


@dataclass(frozen=True)
class _Near:
    """A pair with its nearest neighbours: scores, places in the pool and numbers, ``[k]`` each."""

    pair: Pair
    positive_score: float
    limit: float
    scores: NDArray[np.floating]
    places: NDArray[np.int64]
    numbers: NDArray[np.int64]
    known: set[int]

    def judged(self) -> Iterator[tuple[float, int, str]]:
        """Score, place and why it can be no negative ("" where it can) of each neighbour."""
        for score, place, key in zip(self.scores.tolist(), self.places.tolist(),
                                     self.numbers.tolist(), strict=True):  # fmt: skip
            yield score, place, _reason(key, self.known, score, self.limit)

    def fitting(self, pool: Pool) -> Iterator[str]:
        """The texts that can be negatives, as far as vectors tell."""
        return (pool.texts[place] for _, place, reason in self.judged() if not reason)


def _mine_one(
    near: _Near, pool: Pool, negatives: int, verdicts: Verdicts
) -> tuple[Mined | None, Audit]:
    pair = near.pair
    kept: list[tuple[str, float]] = []
    dropped: list[tuple[int, float, str]] = []
    for score, index, reason in near.judged():
        if reason:
            dropped.append((index, score, reason))
        elif len(kept) == negatives:
            continue
        elif verdicts.too_close(pair, text := pool.texts[index]):
            dropped.append((index, score, "too close by the cross-encoder"))
        else:
            kept.append((text, score))
    shown = tuple((pool.texts[index], score, reason) for index, score, reason in dropped[:10])
    audit = Audit(
        pair.id, pair.query, pair.positive, near.positive_score, tuple(kept), shown,
        dict(Counter(reason for *_, reason in dropped)),
    )  # fmt: skip
    return (_mined(pair, audit) if len(kept) == negatives else None), audit


def write(
    pairs: Iterable[Pair],
    mined: Iterable[tuple[Mined | None, Audit]],
    others: Iterable[Pair],
    out: Path,
) -> Iterator[Audit]:
    """Write pairs as they come; those without enough negatives are still known.

    Args:
        pairs: All of them.
        mined: What `mine` yields of them.
        others: Pairs that were known before.
        out: Gets ``train.jsonl``, ``known.jsonl`` and ``audit.jsonl``.

    Yields:
        Each pair's audit, once it is written.
    """
    files = (out / f"{name}.jsonl" for name in ("train", "known", "audit"))
    with ExitStack() as stack:
        train, known, audits = (stack.enter_context(file.open("w", encoding="utf-8"))
                                for file in files)  # fmt: skip
        known.writelines(map(to_line, others))
        for pair, (row, audit) in zip(pairs, mined, strict=True):
            (known if row is None else train).write(to_line(row or pair))
            audits.write(to_line(audit))
            yield audit


def known_answers(rows: Iterable[AnyRow]) -> Lookup:
    """What answers each text, by number: its positives, what it is a positive of, and itself.

    In pairs of paraphrases a text is the query of one and the positive of another; it answers its
    own query then, and the pair holds in both directions. Where passages never are queries, this
    comes to the positives alone. Of scored pairs no text answers another. Numbers are those of
    normalised texts, of answers those of `finetune.records.passage`; one that a text has several
    times says no more than one.
    """
    texts, answers = array("q"), array("q")
    for pair in (row for row in rows if not isinstance(row, Scored)):
        (query, own), (positive, answer) = _both(pair.query), _both(pair.positive)
        texts.extend((query, query, positive, positive))
        answers.extend((own, answer, answer, own))
    return Lookup(np.array(texts, np.int64), np.array(answers, np.int64))


def _both(text: str) -> tuple[int, int]:
    """The numbers of a text as it is asked and as it answers; nearly always they are one."""
    asked, bare = number(normalised(text)), untitled(text)
    return asked, asked if bare is text else number(normalised(bare))


def usual(counts: Sequence[int]) -> int:
    """How many negatives training takes of every row: as many as half of them have, or more."""
    return sorted(counts, reverse=True)[(len(counts) - 1) // 2] if counts else 0


def summary(audits: Iterable[Audit], negatives: int) -> dict[str, int]:
    """Counts for the report: pairs kept and dropped, neighbours left out by reason."""
    pairs = short = 0
    reasons: Counter[str] = Counter()
    for audit in audits:
        pairs += 1
        short += len(audit.kept) < negatives
        reasons.update(audit.reasons)
    return {"pairs": pairs - short, "pairs without enough negatives": short, **reasons}


def _reason(key: int, known: set[int], score: float, limit: float) -> str:
    if key in known:
        return "known positive"
    if score > limit:
        return "too close to the positive"
    return ""


def _mined(pair: Pair, audit: Audit) -> Mined:
    texts = tuple(text for text, _ in audit.kept)
    scores = (audit.positive_score, *(score for _, score in audit.kept))
    return Mined(pair.id, pair.query, pair.positive, texts, scores, pair.source)
