"""The negatives that training takes of its rows: of all equally many, and no known answers."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np

from finetune.disk import Lookup, number
from finetune.machine import processes
from finetune.mining import usual
from finetune.records import AnyRow, Mined, Pair, Scored, normalised, passage

log = logging.getLogger(__name__)

_DRAWS = 1_000  # of other rows, at most, to fill one up


def without_known(rows: Sequence[AnyRow], answers: Lookup, seed: int) -> Iterator[AnyRow]:
    """Take known answers out of the rows' negatives; give all rows as many as half of them have.

    Training takes a column for each negative, so that rows must have equally many. Those that have
    fewer get negatives of other rows, drawn by seed; one for which none are found is left out.
    Scored pairs have none.

    Args:
        rows: Of one kind, one at least; gone through twice.
        answers: As `finetune.mining.known_answers` gives them.
        seed: Of the draws.
    """
    if isinstance(rows[0], Scored):
        yield from rows
        return
    pairs = cast(Sequence[Pair | Mined], rows)
    counts = [len(_unknown(row, row.negatives, answers)) for row in pairs]
    size = usual(counts)
    _warn(counts, size)
    random = np.random.default_rng(seed)
    for row in pairs:
        kept = _unknown(row, row.negatives, answers)[:size]
        for _ in range(_DRAWS):
            if len(kept) == size:
                yield dataclasses.replace(row, negatives=kept)
                break
            other = pairs[int(random.integers(len(pairs)))]
            drawn = _unknown(row, other.negatives[:1], answers)
            kept += tuple(text for text in drawn if text not in kept)


def _warn(counts: Sequence[int], size: int) -> None:
    if not processes.first():
        return
    if short := sum(count < size for count in counts):
        log.warning("%d of %d rows have fewer than %d negatives that are no known answers; filled "
                    "up with negatives of other rows", short, len(counts), size)  # fmt: skip
    if not size and (having := sum(count > 0 for count in counts)):
        log.warning("only %d of %d rows have negatives: training uses none", having, len(counts))


def _unknown(row: Pair | Mined, texts: Sequence[str], answers: Lookup) -> tuple[str, ...]:
    """Those of the texts that are not known to answer the query of a row."""
    known = set(answers[number(normalised(row.query))].tolist()) if texts else set()
    return tuple(each for each in texts if number(passage(each)) not in known)
