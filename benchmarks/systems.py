"""What `domains.py` compares: the systems, in the order of what matters, and their time."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

DOMAINS = ("legal", "medical", "ecommerce", "finance")
METHODS = ("full", "lora", "prefix", "contrastive")
PAIRS, FOLDS = 4000, 5
ROTATED = "ecommerce"
CONVERTED = "legal"  # asked in Traditional too
# Minutes on 2 cores, about: the best recipe (measured), a method on `PAIRS` pairs, and scoring one
# model, by domain; the script's training; scoring one model on the other sets.
BEST = {"legal": 25, "medical": 25, "ecommerce": 4.5, "finance": 28}
METHOD = {"legal": 10, "medical": 10, "ecommerce": 3, "finance": 10}
SCORING = {"legal": 4, "medical": 3, "ecommerce": 1, "finance": 5}
SCRIPT, ELSEWHERE = 7, 12


@dataclass(frozen=True)
class System:
    """One training, or none, on one domain.

    Attributes:
        domain: One of `DOMAINS`.
        name: Of the system.
        seed: Of its training.
        fold: Of the rotation; None where the halves are the usual ones.
    """

    domain: str
    name: str
    seed: int
    fold: int | None = None

    @property
    def label(self) -> str:
        """Name of its JSON."""
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return f"{self.domain}-{self.name}-{self.seed}{fold}"

    @property
    def recipe(self) -> str | None:
        """What trains it; None where that is no recipe."""
        if self.name in ("bm25", "starter", "plain"):
            return None
        return self.name if self.name in METHODS else f"best_{self.domain}"

    @property
    def elsewhere(self) -> bool:
        """Whether it is scored on the other sets too; the starter, which is one model, once."""
        if self.name == "starter":
            return self.domain == DOMAINS[0]
        return self._compared and not self.fold

    @property
    def converted(self) -> bool:
        """Whether it is asked in Traditional too."""
        return self.domain == CONVERTED and (self.name == "starter" or self._compared)

    @property
    def minutes(self) -> float:
        """How long it takes, about."""
        if self.name == "bm25":
            return 0.5
        scoring = SCORING[self.domain]
        taken = {"starter": scoring, "plain": SCRIPT + scoring}.get(self.name)
        if taken is None:
            taken = (METHOD if self.name in METHODS else BEST)[self.domain]
        return taken + self.elsewhere * ELSEWHERE + self.converted * scoring

    @property
    def _compared(self) -> bool:
        return self.name in ("plain", "best") and self.seed == 1


def systems(seeds: int, recipes: Collection[str]) -> Iterator[System]:
    """All systems of known recipes: what the comparison needs, the seeds behind, then the rest.

    Of the first seed every domain has one system before any has the next.
    """
    for each in _planned(seeds):
        if each.recipe is None or each.recipe in recipes:
            yield each


def _planned(seeds: int) -> Iterator[System]:
    for name in ("bm25", "starter"):
        yield from (System(domain, name, 1) for domain in DOMAINS)
    for seed in range(1, seeds + 1):
        yield from (System(domain, "plain", seed) for domain in DOMAINS)
        for domain in DOMAINS:
            folds = range(FOLDS) if domain == ROTATED else (None,)
            yield from (System(domain, "best", seed, fold) for fold in folds)
    yield System("legal", "strict", 1)
    yield from (System(domain, name, 1) for domain in DOMAINS for name in METHODS)


def hours(planned: Collection[System]) -> float:
    """Hours that systems take, about."""
    return sum(each.minutes for each in planned) / 60
