"""Negatives read together with their query by a cross-encoder, those of many pairs at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from finetune.records import Pair

# The scores of queries and texts read together, between 0 and 1.
Judge = Callable[[Sequence[tuple[str, str]]], Sequence[float]]


@dataclass(frozen=True)
class Filter:
    """A cross-encoder; a negative's score must stay by ``margin`` below the positive's."""

    judge: Judge
    margin: float


class Verdicts:
    """Which texts are too close to what answers a query; each is read once.

    Args:
        cross_encoder: Reads them; None: no text is too close.
    """

    def __init__(self, cross_encoder: Filter | None) -> None:
        self._filter = cross_encoder
        self._scores: dict[tuple[str, str], float] = {}

    def read(self, pairs: Sequence[Pair], texts: Iterable[Iterator[str]], negatives: int) -> None:
        """Read the positives, then of each pair texts in their order until enough may stay.

        Args:
            pairs: Of one block.
            texts: Of each pair, what could become a negative.
            negatives: How many are wanted.
        """
        if self._filter is None:
            return
        self._ask((pair.query, pair.positive) for pair in pairs)
        waiting = [(pair, rest, negatives) for pair, rest in zip(pairs, texts, strict=True)]
        while waiting:
            taken = [(pair, rest, wanted, list(islice(rest, wanted)))
                     for pair, rest, wanted in waiting]  # fmt: skip
            self._ask((pair.query, text) for pair, *_, found in taken for text in found)
            waiting = [
                (pair, rest, refused) for pair, rest, _, found in taken
                if (refused := sum(self.too_close(pair, text) for text in found))
            ]  # fmt: skip

    def too_close(self, pair: Pair, text: str) -> bool:
        """Say whether a text scores too near the pair's positive."""
        if self._filter is None:
            return False
        limit = self._scores[pair.query, pair.positive] - self._filter.margin
        return self._scores[pair.query, text] > limit

    def _ask(self, asked: Iterable[tuple[str, str]]) -> None:
        new = [each for each in dict.fromkeys(asked) if each not in self._scores]
        if new and self._filter is not None:
            scores = map(float, self._filter.judge(new))
            self._scores.update(zip(new, scores, strict=True))
