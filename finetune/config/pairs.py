"""Training rows: where they come from, what is made or mixed in, and how they are checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional  # noqa: UP035 (OmegaConf reads these forms)

from finetune.config.choices import BadRows, Duplicates, Kind, Leak, Source, Use


@dataclass(frozen=True)
class Domain:
    """Training pairs and evaluation folders of one domain."""

    name: str
    source: Source
    kind: Kind
    train: Optional[str]  # noqa: UP045
    dev: Optional[Path]  # noqa: UP045
    test: Optional[Path]  # noqa: UP045
    documents: Optional[Path]  # noqa: UP045
    queries: Optional[Path]  # noqa: UP045
    columns: Dict[str, str]  # noqa: UP006
    sources: Optional[List[str]]  # noqa: UP006, UP045
    full: bool


@dataclass(frozen=True)
class Generate:
    """Pairs made from documents: what for, how many at most, each generator's share."""

    use: Use
    pairs: Optional[int]  # noqa: UP045
    title: float
    heading: float
    question: float
    phrases: float
    words: float
    cloze: float
    neighbours: float
    identity: float


@dataclass(frozen=True)
class Pseudo:
    """Queries that are given an answer (`finetune.steps.pseudo`): what for, how many at most."""

    use: Use
    pairs: int


@dataclass(frozen=True)
class Mixed:
    """A training set beside the domain's: its share of the batches, its loss and its prompts."""

    train: Optional[str]  # noqa: UP045
    columns: Dict[str, str]  # noqa: UP006
    kind: Kind
    weight: float
    loss: Optional[Dict[str, Any]]  # noqa: UP006, UP045
    prompts: Optional[Dict[str, str]]  # noqa: UP006, UP045


@dataclass(frozen=True)
class Check:
    """How strict the data checks are; ``foreign_share`` is of texts, ``near`` a Jaccard index."""

    bad_rows: BadRows
    leak: Leak
    duplicates: Duplicates
    near: float
    foreign_share: float
    boilerplate_queries: int
    tokens_per_character: float
