"""What `domains.py` compares: the systems, in the order of what matters, and their time."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DOMAINS = ("legal", "medical", "ecommerce", "finance")
METHODS = ("full", "lora", "prefix", "contrastive")
OTHERS = ("plain", "flagembedding")  # trained by somebody else's code
PAIRS, FOLDS = 4000, 5
ROTATED = "ecommerce"
CONVERTED = "legal"  # asked in Traditional too
# Minutes, about, on 2 cores with bf16: the best recipe, a method on `PAIRS` pairs, and scoring one
# model, by domain; the training of the script and of FlagEmbedding; scoring one model on the other
# sets. `pace` corrects them by what runs took.
BEST = {"legal": 25, "medical": 25, "ecommerce": 4.5, "finance": 28}
METHOD = {"legal": 10, "medical": 10, "ecommerce": 3, "finance": 10}
SCORING = {"legal": 4, "medical": 3, "ecommerce": 1, "finance": 5}
SCRIPT, FLAG, ELSEWHERE = 7, 11, 6


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
        if self.name in ("bm25", "starter", *OTHERS):
            return None
        return self.name if self.name in METHODS else f"best_{self.domain}"

    @property
    def elsewhere(self) -> bool:
        """Whether it is scored on the other sets too; BM25 and the starter, of all domains, once.

        BM25 has no score of similarity sets.
        """
        if self.name in ("bm25", "starter"):
            return self.domain == DOMAINS[0]
        return self._compared and not self.fold

    @property
    def converted(self) -> bool:
        """Whether it is asked in Traditional too."""
        return self.domain == CONVERTED and (self.name == "starter" or self._compared)

    @property
    def rounded(self) -> bool:
        """Whether it is exported in INT8 too: the first seed is."""
        return self.name == "best" and self.seed == 1

    @property
    def minutes(self) -> float:
        """How long it takes, about."""
        if self.name == "bm25":
            return 0.5
        scoring = SCORING[self.domain]
        training = {"starter": 0, "plain": SCRIPT, "flagembedding": FLAG}
        if self.name in training:
            taken = training[self.name] + scoring
        else:
            taken = (METHOD if self.name in METHODS else BEST)[self.domain]
        return taken + self.elsewhere * ELSEWHERE + self.converted * scoring

    @property
    def _compared(self) -> bool:
        return self.name in ("plain", "best") and self.seed == 1


def systems(seeds: int, recipes: Collection[str]) -> Iterator[System]:
    """All systems of known recipes, so ordered that an early stop leaves the most useful part."""
    for each in _planned(seeds):
        if each.recipe is None or each.recipe in recipes:
            yield each


def _planned(seeds: int) -> Iterator[System]:
    """The first seed of what is compared, what is run once, then the other seeds."""
    for name in ("bm25", "starter", "plain"):
        yield from (System(domain, name, 1) for domain in DOMAINS)
    yield from (System(domain, "best", 1) for domain in DOMAINS if domain != ROTATED)
    yield System("legal", "strict", 1)
    yield from _folds(1)
    yield System("medical", "flagembedding", 1)
    yield from (System(domain, name, 1) for domain in DOMAINS for name in METHODS)
    for seed in range(2, seeds + 1):
        yield from (System(domain, "plain", seed) for domain in DOMAINS)
        yield from (System(domain, "best", seed) for domain in DOMAINS if domain != ROTATED)
        yield from _folds(seed)


def _folds(seed: int) -> Iterator[System]:
    return (System(ROTATED, "best", seed, fold) for fold in range(FOLDS))


def hours(planned: Collection[System], pace: float = 1.0) -> float:
    """Hours that systems take, about.

    Args:
        planned: The systems.
        pace: As `pace` gives it.
    """
    return pace * sum(each.minutes for each in planned) / 60


def pace(planned: Sequence[System], kept: Mapping[str, Mapping[str, Any]], machine: str) -> float:
    """How many times the table's minutes the systems took that are done on this machine.

    Args:
        planned: All systems.
        kept: Results by label.
        machine: As `finetune.machine.hardware.label` calls it.

    Returns:
        The ratio; 0 where none was done here.
    """
    here = [each for each in planned
            if kept.get(each.label, {}).get("versions", {}).get("machine") == machine]  # fmt: skip
    if not here:
        return 0.0
    taken = sum(kept[each.label]["seconds"] for each in here) / 60
    return taken / sum(each.minutes for each in here)
