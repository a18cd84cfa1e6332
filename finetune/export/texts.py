"""Which texts of the domain INT8 is fitted to."""

from collections.abc import Collection, Iterable

import numpy as np

_STRATA = 10


def draw(texts: Iterable[str], count: int, seed: int, avoid: Collection[str] = ()) -> list[str]:
    """Draw texts of every length: as many of the shortest tenth as of the longest.

    Args:
        texts: Of the domain; equal ones count once.
        count: How many; fewer are returned where there are fewer.
        seed: Of the draw.
        avoid: Texts on which the result will be judged: not drawn where there are enough others.

    Returns:
        Texts in an order that has nothing to do with their length, so that any first part of them
        is a fair draw too.
    """
    rng = np.random.default_rng(seed)
    everything = set(texts)
    others = everything.difference(avoid)
    pool = others if len(others) >= count else everything
    ordered = sorted(pool, key=lambda text: (len(text), text))
    strata = [rng.permutation(part) for part in np.array_split(np.arange(len(ordered)), _STRATA)]
    # The strata in turn, a text each, until there are enough.
    turns = [int(part[turn]) for turn in range(max(map(len, strata))) for part in strata
             if turn < len(part)][:count]  # fmt: skip
    return [ordered[index] for index in rng.permutation(turns)] if turns else []
