"""Copies of training rows with the query as somebody else might have typed it.

A copy is added, and its original stays: what is known of clean queries is not given up for typos,
and the share says what it costs. Copies are made last, of rows that are cleaned, mined and counted
for ``limit``, so that none is mined, ranked or drawn for itself: a copy has the positive and the
negatives of its original. Which rows have one, and of which kind, follows from seed and row id.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from random import Random
from typing import Any

from finetune.config.augmentation import Augment
from finetune.config.choices import Leak
from finetune.data import leaks
from finetune.data.folding import folded
from finetune.data.typos import Change
from finetune.disk import Spilled
from finetune.progress import bar
from finetune.records import COPY, AnyRow, Dropped, Mined, Pair, Scored, normalised, tally
from finetune.sets import AnySet

log = logging.getLogger(__name__)

COLLISION = "copy asks what another row asks"
UNCHANGED = "nothing to change"
_CHUNK = 1_000  # rows between two reports of progress


@dataclass(frozen=True)
class Copy:
    """A row, and the same with another query (of scored pairs another first text)."""

    of: AnyRow
    row: AnyRow
    kind: str


@dataclass(frozen=True)
class Augmented:
    """What training rows became.

    Attributes:
        rows: To train on: each row, and its copy after it.
        known: Pairs that are not trained on, which tell what answers a copy.
        dropped: Copies that were left out.
        counts: ``rows`` read, ``copies`` added, those ``by kind``, rows in which there was
            `UNCHANGED`, and copies ``dropped`` by reason.
    """

    rows: Sequence[AnyRow]
    known: Sequence[Pair]
    dropped: Sequence[Dropped]
    counts: Mapping[str, Any]


def augment(
    rows: Sequence[AnyRow],
    known: Sequence[Pair],
    settings: Augment,
    changes: Mapping[str, Change],
    sets: Iterable[AnySet],
    seed: int,
    *,
    leak: Leak,
    near: float,
) -> Augmented:
    """Add copies to training rows.

    Args:
        rows: Pairs, mined pairs or scored pairs.
        known: Pairs that are not trained on.
        settings: The share of rows, and the kinds' weights.
        changes: How each kind that has a weight changes a text.
        sets: Evaluation sets; a copy that asks what they ask is left out.
        seed: Of every choice.
        leak: What counts as a leak, as of the rows themselves.
        near: Of near-equal queries, as for `finetune.data.near.alike`.
    """
    weights = {kind: weight for kind, weight in settings.weights.items() if kind in changes}
    if settings.switched > 0 and settings.terms is None:
        log.info("switched: no such copies, for which augment.terms=<file> names the terms")
    with bar("augment", len(rows)) as progress:
        tried = [_tried(row, settings.share, weights, changes, seed)
                 for row in _counting(rows, progress)]  # fmt: skip
    copies = [each for each in tried if isinstance(each, Copy)]
    wrong = {**_collisions(copies, rows), **_leaks(copies, sets, leak, near)}
    kept = {copy.of.id: copy for copy in copies if copy.row.id not in wrong}
    dropped = [_dropped(copy.row, *wrong[copy.row.id]) for copy in copies if copy.row.id in wrong]
    both = (each for row in rows
            for each in ((row, kept[row.id].row) if row.id in kept else (row,)))  # fmt: skip
    made = Spilled(type(rows[0]), both) if rows else ()
    counts = {
        "rows": len(rows),
        "copies": len(kept),
        "by kind": tally(copy.kind for copy in kept.values()),
        UNCHANGED: tried.count(UNCHANGED),
        "dropped": tally(each.reason for each in dropped),
    }
    log.info("%s copies of %s rows: %s", f"{len(kept):,}", f"{len(rows):,}", counts["by kind"])
    return Augmented(made, [*known, *_answers(list(kept.values()), chain(rows, known))], dropped,
                     counts)  # fmt: skip


def _tried(
    row: AnyRow,
    share: float,
    weights: Mapping[str, float],
    changes: Mapping[str, Change],
    seed: int,
) -> Copy | str | None:
    """Make the copy of a row: of the kind that is drawn, or the next that finds a place.

    `UNCHANGED` where none does, and None of a row that is not chosen.
    """
    rng, text = Random(f"{seed}:{row.id}"), _first(row)
    if rng.random() >= share:
        return None
    for kind in _drawn(weights, rng):
        changed = changes[kind](text, rng)
        if changed != text:
            return Copy(row, _with_first(row, changed, kind), kind)
    return UNCHANGED


def _counting(rows: Sequence[AnyRow], progress: Callable[[int], None]) -> Iterator[AnyRow]:
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        yield from chunk
        progress(len(chunk))


def _drawn(weights: Mapping[str, float], rng: Random) -> list[str]:
    """The kinds in an order drawn by weight (Efraimidis and Spirakis, 2006)."""
    keys = {kind: rng.random() ** (1 / weight) for kind, weight in weights.items()}
    return sorted(keys, key=lambda kind: -keys[kind])


def _with_first(row: AnyRow, text: str, kind: str) -> AnyRow:
    key, source = f"{row.id}{COPY}", f"{row.source}+{kind}"
    if isinstance(row, Scored):
        return replace(row, id=key, a=text, source=source)
    return replace(row, id=key, query=text, source=source)


def _collisions(copies: Sequence[Copy], rows: Sequence[AnyRow]) -> dict[str, tuple[str, str]]:
    """Copies whose query is that of other rows too, in any script and punctuation."""
    asked = {folded(_first(row)): row.id for row in rows} if copies else {}
    found = {}
    for copy in copies:
        query = folded(_first(copy.row))
        if query in asked and query != folded(_first(copy.of)):
            found[copy.row.id] = COLLISION, asked[query]
    return found


def _leaks(
    copies: Sequence[Copy], sets: Iterable[AnySet], leak: Leak, near: float
) -> dict[str, tuple[str, str]]:
    """Copies that evaluation sets ask, as the data step would drop them."""
    suspects = leaks.find([_plain(copy.row) for copy in copies], sets, near)
    return {key: why for key, why in suspects.items() if why[0] in leaks.DROPPED[leak]}


def _dropped(row: AnyRow, reason: str, collided_with: str) -> Dropped:
    return Dropped(reason, row.source, 0, _first(row), collided_with)


def _plain(row: AnyRow) -> Pair | Scored:
    return Pair(row.id, row.query, row.positive, row.source) if isinstance(row, Mined) else row


def _answers(copies: Sequence[Copy], rows: Iterable[AnyRow]) -> Iterator[Pair]:
    """Yield what answers a copy beside its positive: what answers its original, and that itself.

    Without it, another positive of the same question would be a negative of its copy.
    """
    answers: dict[str, dict[str, str]] = {
        normalised(copy.of.query): {} for copy in copies if not isinstance(copy.of, Scored)
    }
    for row in rows:
        if isinstance(row, Scored):
            continue
        query, positive = normalised(row.query), normalised(row.positive)
        for text, key, other in ((query, positive, row.positive), (positive, query, row.query)):
            if text in answers:
                answers[text].setdefault(key, other)
    for copy in copies:
        if isinstance(copy.of, Scored) or isinstance(copy.row, Scored):
            continue
        own = copy.row
        for text in [copy.of.query, *answers[normalised(copy.of.query)].values()]:
            if text != own.positive:
                yield Pair(own.id, own.query, text, own.source)


def _first(row: AnyRow) -> str:
    """The text that a copy has otherwise."""
    return row.prompted[0][1]
