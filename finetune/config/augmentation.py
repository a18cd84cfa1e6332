"""Copies of training rows whose query is written otherwise: what the settings may say."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

# The ways to write a query otherwise; each has a weight of its name.
KINDS = ("homophone", "shape", "deletion", "punctuation", "switched")


@dataclass(frozen=True)
class Augment:
    """The share of rows that get a copy, the kinds' weights, and the terms of ``switched``."""

    share: float
    homophone: float
    shape: float
    deletion: float
    punctuation: float
    switched: float
    terms: Optional[Path]  # noqa: UP045 (OmegaConf reads this form)

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the kinds that are on; ``switched`` is off without terms."""
        off = ("switched",) if self.terms is None else ()
        found = {kind: float(getattr(self, kind)) for kind in KINDS if kind not in off}
        return {kind: weight for kind, weight in found.items() if weight > 0}


def problems(augment: Augment, *, distilled: bool) -> Iterator[str]:
    """Say what is at odds with another setting."""
    if augment.terms is not None and not (augment.share > 0 and augment.switched > 0):
        yield (
            f"augment.terms={augment.terms}: no copy is made with them; add augment=all, or set "
            "augment.share and augment.switched above 0"
        )
    if not augment.share > 0:
        return
    if not augment.weights:
        more = ", or name augment.terms=<file>" if augment.switched > 0 else ""
        yield (
            f"augment.share={augment.share}: no kind of change has a weight; add augment=typos, or "
            f"give one a weight, as augment.deletion=1{more}"
        )
    if distilled:
        yield (
            f"augment.share={augment.share}: a student learns its teacher's vectors of the texts "
            "as they are; set augment=none"
        )
