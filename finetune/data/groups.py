"""Pairs that share a query or a positive, in comparable form, and what that tells."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from finetune.data import near
from finetune.data.clean import fingerprint
from finetune.data.folding import folded
from finetune.data.loaded import sides
from finetune.records import Pair, Scored

_CHUNK = 50_000  # pairs between two reports of progress
_MOST = 8  # pairs of one query that are compared with those of another
_SAMPLE = 30  # queries of a positive that are compared with each other
# Queries are unlike when no bigram of their content words is in more than this share of them. An
# article of a statute is asked for in many words, but 离婚 is in most of them.
_UNLIKE = 1 / 3

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Grouped:
    """Which query and which positive each pair has.

    Attributes:
        queries: The different queries, folded.
        query: For each pair, its query's place in ``queries``.
        positive: For each pair, a number that those with the same positive share.
        marks: Fingerprints of the folded positives, by that number.
    """

    queries: Sequence[str]
    query: Rows
    positive: Rows
    marks: Sequence[bytes]

    @cached_property
    def by_query(self) -> list[Rows]:
        """The pairs of each query, in order."""
        return _members(self.query)


def group(pairs: Sequence[Pair | Scored], progress: Callable[[int], None]) -> Grouped:
    """Fold every text, and number the different ones."""
    queries: dict[str, int] = {}
    marks: dict[bytes, int] = {}
    query = np.empty(len(pairs), dtype=np.int64)
    positive = np.empty(len(pairs), dtype=np.int64)
    for row, pair in enumerate(pairs):
        first, second = map(folded, sides(pair))
        query[row] = queries.setdefault(first, len(queries))
        positive[row] = marks.setdefault(fingerprint(second), len(marks))
        if (row + 1) % _CHUNK == 0:
            progress(_CHUNK)
    progress(len(pairs) % _CHUNK)
    return Grouped(list(queries), query, positive, list(marks))


def near_pairs(
    pairs: Sequence[Pair | Scored],
    grouped: Grouped,
    least: float,
    progress: Callable[[int], None],
) -> Iterator[tuple[int, int]]:
    """Yield pairs, the earlier first, both sides of which are near duplicates or equal."""
    members = grouped.by_query
    for rows in members:
        for at, i in enumerate(rows):
            yield from _alike(pairs, grouped, i, rows[at + 1 : at + 1 + _MOST], least)
    for u, v in near.within(grouped.queries, least, progress):
        for i in members[u][:_MOST]:
            yield from _alike(pairs, grouped, i, members[v][:_MOST], least)


def conflicts(pairs: Sequence[Pair | Scored], grouped: Grouped) -> Iterator[tuple[int, int]]:
    """Yield pairs whose positive is a negative of another pair with the same query, and those."""
    negatives: dict[tuple[int, bytes], int] = {}
    for row, pair in enumerate(pairs):
        for text in pair.negatives if isinstance(pair, Pair) else ():
            negatives.setdefault((int(grouped.query[row]), fingerprint(folded(text))), row)
    if negatives:
        for row, (query, positive) in enumerate(zip(grouped.query, grouped.positive, strict=True)):
            other = negatives.get((int(query), grouped.marks[positive]))
            if other is not None:
                yield row, other


def boilerplate(
    pairs: Sequence[Pair | Scored], grouped: Grouped, most: int, least: float
) -> list[list[int]]:
    """Return the pairs of each positive that answers unlike queries, the most frequent first.

    Args:
        pairs: All of them.
        grouped: The same.
        most: Queries of one positive, or of positives that are near duplicates, from which on they
            are looked at.
        least: As for `near.alike`.
    """
    members = _members(grouped.positive)
    # A greeting that was said once only, in its very words, is not told from an answer.
    repeated = [rows for rows in members if len(np.unique(grouped.query[rows])) > 1]
    found = []
    for same in _joined([folded(sides(pairs[rows[0]])[1]) for rows in repeated], least):
        own = np.sort(np.concatenate([repeated[place] for place in same]))
        queries = np.unique(grouped.query[own])
        chosen = queries[np.linspace(0, len(queries) - 1, min(_SAMPLE, len(queries))).astype(int)]
        if len(queries) >= most and _unlike([grouped.queries[index] for index in chosen]):
            found.append(own.tolist())
    return sorted(found, key=lambda own: (-len(own), own[0]))


def _joined(texts: Sequence[str], least: float) -> list[list[int]]:
    """The places of texts, those of near duplicates, and of theirs, in one list."""
    lists = [[place] for place in range(len(texts))]
    for i, j in near.within(texts, least) if texts else ():
        if lists[i] is not lists[j]:
            short, long = sorted((lists[i], lists[j]), key=len)
            long += short
            for place in short:
                lists[place] = long
    return [each for place, each in enumerate(lists) if each[0] == place]


def _alike(
    pairs: Sequence[Pair | Scored], grouped: Grouped, i: int, others: Rows, least: float
) -> Iterator[tuple[int, int]]:
    for j in others:
        same = grouped.positive[i] == grouped.positive[j]
        if same or near.alike(folded(sides(pairs[i])[1]), folded(sides(pairs[j])[1]), least):
            yield min(int(i), int(j)), max(int(i), int(j))


def _unlike(queries: Sequence[str]) -> bool:
    words = (near.content(query) for query in queries)
    shared = Counter(each for text in words for each in {*map("".join, pairwise(text))})
    return max(shared.values(), default=0) <= _UNLIKE * len(queries)


def _members(numbers: Rows) -> list[Rows]:
    """The places of each number, by number, those that are not there left out."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []
