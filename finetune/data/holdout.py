"""Hold questions out of training, where no evaluation set was made by hand.

A query that is held out leaves training with all of its answers, in whichever script and
punctuation it is asked; one that is asked in other words is a leak, which training leaves out. The
corpus is every answer there is. No more than the pairs is known: a passage that answers a query and
stands beside another one only counts as wrong, for the base and the tuned model alike.
"""

import random
from collections.abc import Sequence

from finetune.data.folding import folded
from finetune.data.loaded import sides
from finetune.disk import Chosen
from finetune.errors import UserError
from finetune.records import Pair, Scored
from finetune.sets import AnySet, EvaluationSet, ScoredSet

SHARE, MOST = 5, 1_000  # of the queries every fifth, and no more than so many
FEWEST = 20  # fewer show nothing


def hold_out(
    rows: Sequence[Pair | Scored],
    queries: int | None,
    seed: int,
    name: str = "dev",
    origin: str = "the data",
) -> tuple[Sequence[Pair | Scored], AnySet]:
    """Split rows into those to train on, and a set of some of their queries.

    Args:
        rows: All of one kind.
        queries: How many to hold out; None takes every fifth, at most a thousand.
        seed: Of the draw.
        name: Of the set.
        origin: Where the rows stood, as a message names it.

    Raises:
        UserError: There are too few queries for that.
    """
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(folded(sides(row)[0]), []).append(place)
    wanted = min(len(places) // SHARE, MOST) if queries is None else queries
    if not FEWEST <= wanted < len(places):
        what = f"a fifth, {wanted}," if queries is None else f"--queries {wanted}"
        why = "is too few to measure with" if wanted < FEWEST else "leaves none to train on"
        fix = f"hold out at least {FEWEST} (--queries {FEWEST}), or " * (len(places) > FEWEST)
        raise UserError(
            f"{origin}: asks {len(places):,} different queries; {what} {why}; {fix}write an "
            "evaluation set by hand"
        )
    drawn = set(random.Random(seed).sample(sorted(places), wanted))
    held = sorted(place for key in drawn for place in places[key])
    out = set(held)
    kept = Chosen(rows, [place for place in range(len(rows)) if place not in out])
    scored = tuple(row for row in map(rows.__getitem__, held) if isinstance(row, Scored))
    if scored:
        return kept, ScoredSet(name, scored)
    return kept, _retrieval([row for row in rows if isinstance(row, Pair)], held, name)


def _retrieval(pairs: Sequence[Pair], held: Sequence[int], name: str) -> EvaluationSet:
    passages: dict[str, str] = {}  # id by text
    for pair in pairs:
        passages.setdefault(pair.positive, f"p{len(passages) + 1}")
    asked: dict[str, tuple[str, str]] = {}  # id and text by what all its forms share
    qrels: dict[str, dict[str, int]] = {}
    for pair in (pairs[place] for place in held):
        key, _ = asked.setdefault(folded(pair.query), (f"q{len(asked) + 1}", pair.query))
        qrels.setdefault(key, {})[passages[pair.positive]] = 1
    corpus = {key: text for text, key in passages.items()}
    return EvaluationSet(name, dict(asked.values()), corpus, qrels)
