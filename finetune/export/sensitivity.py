"""Keeps the parts of a model in fp32 that INT8 hurts most, where INT8 as a whole hurts too much."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.export.parity import Parity, misses, told

log = logging.getLogger(__name__)

# Each part's damage is measured on so few texts: parts differ tenfold, and there are many of them.
_TEXTS = 100

# From the groups that stay fp32, and the number of texts (None: all), to how close INT8 comes.
Measure = Callable[[Collection[str], int | None], Parity]


@dataclass(frozen=True)
class Kept:
    """What stays fp32, and what that is worth.

    Attributes:
        groups: Those that stay, worst first.
        of: How many groups there are.
        before: How close all of INT8 comes to the reference.
        after: How close it comes with these in fp32.
        missed: The values of the budget that are missed even so, by name.
    """

    groups: tuple[str, ...]
    of: int
    before: Parity
    after: Parity
    missed: Mapping[str, float]

    def told(self, budget: Mapping[str, float]) -> dict[str, Any]:
        """The entry of a plan in ``bundle.json``."""
        before, after = (
            {name: getattr(each, name) for name in budget} for each in (self.before, self.after)
        )
        return {"kept": len(self.groups), "of": self.of, "budget": dict(budget),
                "before": before, "after": after, "missed": sorted(self.missed)}  # fmt: skip


def keep_worst(
    groups: Sequence[str], measure: Measure, budget: Mapping[str, float], most: float
) -> Kept:
    """Find the groups that must stay fp32, none where all of INT8 keeps to the budget.

    Each group in turn is left in fp32, all others in INT8: the error that is gone then was the
    group's own. Groups are kept in that order, worst first, until the budget holds.

    Args:
        groups: See `finetune.export.graph.groups`.
        measure: Quantises all but some groups, and compares.
        budget: The least by name of a field of `Parity`.
        most: Share of the groups that may be kept. Where even that breaks the budget, so many are
            kept: whether it is good enough is for the parity check and the INT8 gate to say.
    """
    whole = measure((), None)
    missed = misses(whole, budget)
    allowed = round(most * len(groups))
    if not missed or not allowed:
        return Kept((), len(groups), whole, whole, missed)
    log.info("INT8 breaks its budget (%s): looking for the worst of %d parts",
             told(whole, missed), len(groups))  # fmt: skip
    without = {group: measure((group,), _TEXTS).centred_cosine for group in groups}
    # Where it is NaN still, the fault lies elsewhere: those come last.
    worst = sorted(groups, key=lambda group: -np.nan_to_num(without[group], nan=-1.0))[:allowed]
    for count in range(1, allowed + 1):
        found = measure(worst[:count], None)
        missed = misses(found, budget)
        if not missed:
            break
    log.info("%d of %d parts stay fp32%s", count, len(groups),
             f"; still {told(found, missed)}" if missed else "")  # fmt: skip
    return Kept(tuple(worst[:count]), len(groups), whole, found, missed)
