"""Cut Chinese text into terms without a dictionary.

Characters of one word stand beside each other more often than chance would have them, those on both
sides of a border less. A piece of a sentence is cut where two neighbours' mutual information is
lower than that of the pairs before and behind them, after Sun, Shen and Tsou (COLING-ACL 1998,
P98-2206): no threshold, and the texts at hand are all that is counted.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

_RUN = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9]+")
_LONGEST = 6  # characters of a Chinese term


def cutter(pieces: Iterable[str]) -> Callable[[str], list[str]]:
    """Learn from pieces of text without punctuation; return what cuts one of them into terms.

    A term has two characters at least and six at most; what is shorter or longer, and numbers, are
    no terms. A Latin word is one, however long.
    """
    single: Counter[str] = Counter()
    double: Counter[tuple[str, str]] = Counter()
    for run in _runs(pieces):
        single.update(run)
        double.update(pairwise(run))

    def bond(pair: tuple[str, str]) -> float:
        """In the order of mutual information, which is the logarithm of this and a constant."""
        first, second = pair
        return double[pair] / (single[first] * single[second])

    def words(run: str) -> list[str]:
        if run.isascii():
            return [run]
        bonds = [bond(pair) for pair in pairwise(run)]
        inner = enumerate(zip(bonds, bonds[1:], bonds[2:], strict=False), start=2)
        borders = [place for place, (before, here, after) in inner if here < min(before, after)]
        found = (run[start:end] for start, end in pairwise([0, *borders, len(run)]))
        return [word for word in found if len(word) <= _LONGEST]

    def cut(piece: str) -> list[str]:
        found = (word for run in _runs([piece]) for word in words(run))
        return [word for word in found if len(word) > 1 and word.isalnum() and not word.isnumeric()]

    return cut


def _runs(pieces: Iterable[str]) -> Iterator[str]:
    """What is Latin and what is not, each for itself."""
    return (run for piece in pieces for run in _RUN.findall(piece))
