"""Data cards: what a domain's data is, where it comes from and what its licences allow.

A card is a Markdown file with YAML front matter, ``data_cards/<name>.md``, of a domain or of a set
that ``configs/mix`` names (public sets: see `finetune.data.catalogue`). A fact that nobody
looked up is written ``unknown``; a key that is missing, unknown or of the wrong shape is an error.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from finetune.config.compose import ROOT
from finetune.data import frontmatter
from finetune.data.frontmatter import UNKNOWN, is_text
from finetune.errors import UserError, nearest


class Task(Enum):
    """What the evaluation sets of the domain ask for."""

    retrieval = "retrieval"
    similarity = "similarity"


class Script(Enum):
    """Characters that the texts are written in."""

    simplified = "simplified"
    traditional = "traditional"
    both = "both"


class Allows(Enum):
    """What all licences of a card together allow."""

    commercial = "commercial"
    research_only = "research-only"
    unknown = "unknown"


@dataclass(frozen=True)
class Origin:
    """One public source: its name, where it lies (package, repository, hub id) and which state."""

    name: str
    id: str
    revision: str


@dataclass(frozen=True)
class Card:
    """Front matter of a data card.

    Attributes:
        name: Of the domain or the mixed set; the file's stem.
        task: Of the evaluation sets.
        language: ISO 639-1 code.
        script: Of the texts as they lie on disk.
        source: Where the texts come from.
        licence: Of each source, by its name, as the source states it.
        allows: What all of them together allow.
        columns: Meaning of each column of the training rows.
        sizes: Rows by part; ``unknown`` where nobody counted.
        pairs: How the pairs of each part were made.
        known_flaws: What a reader of scores must know.
        contamination: What a model of ``configs/model`` saw of it in training, by the model's
            name. Models whose ``trained_on`` is unknown may have seen any public set.
        files: What is expected under ``paths.data``; empty for embedded data.
    """

    name: str
    task: Task
    language: str
    script: Script
    source: tuple[Origin, ...]
    licence: Mapping[str, str]
    allows: Allows
    columns: Mapping[str, str]
    sizes: Mapping[str, int | str]
    pairs: Mapping[str, str]
    known_flaws: tuple[str, ...]
    contamination: Mapping[str, str]
    files: tuple[str, ...]

    @property
    def licence_line(self) -> str:
        """What is allowed and why, on one line, for model cards and reports."""
        each = "; ".join(f"{name}: {licence}" for name, licence in self.licence.items())
        return f"{self.allows.value} ({each})"


def read_card(card: str | Path) -> Card:
    """Read and check a data card.

    Args:
        card: Name of a domain or a mixed set, or the path of a card.

    Raises:
        UserError: With every problem of the card, by file and line.
    """
    path = card if isinstance(card, Path) else ROOT / "data_cards" / f"{card}.md"
    front, text = frontmatter.read(path)
    problems = [
        f"{path}:{frontmatter.line(text, key)}: {problem}"
        for key, problem in _problems(front, path.stem)
    ]
    if problems:
        raise UserError(*problems)
    return Card(
        **{key: front[key] for key in ("name", "language", *_MAPPINGS)},
        task=Task(front["task"]),
        script=Script(front["script"]),
        allows=Allows(front["allows"]),
        source=tuple(Origin(**origin) for origin in front["source"]),
        known_flaws=tuple(front["known_flaws"]),
        files=tuple(front["files"]),
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(is_text(k) and is_text(v) for k, v in value.items())


def _are_sizes(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_text(part) and (size == UNKNOWN or (type(size) is int and size >= 0))
        for part, size in value.items()
    )


def _are_origins(value: Any) -> bool:
    keys = {field.name for field in fields(Origin)}
    return isinstance(value, list) and all(
        _is_mapping(origin) and set(origin) == keys for origin in value
    )


_MAPPINGS = ("licence", "columns", "sizes", "pairs", "contamination")
_MAY_BE_EMPTY = ("contamination", "files")
_TEXT = (is_text, "a text")
_TEXTS = (_are_texts, "a list of texts")
_MAPPING = (_is_mapping, "a mapping of texts to texts (quote numbers)")
# Shape of each key, checked and told; the Enum keys are checked apart.
_SHAPES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "name": _TEXT,
    "language": _TEXT,
    "source": (_are_origins, "a list of {name, id, revision}, each a text (quote numbers)"),
    "licence": _MAPPING,
    "columns": _MAPPING,
    "sizes": (_are_sizes, f"a mapping of parts to whole numbers or {UNKNOWN!r}"),
    "pairs": _MAPPING,
    "known_flaws": _TEXTS,
    "contamination": _MAPPING,
    "files": _TEXTS,
}
_ENUMS: Mapping[str, type[Enum]] = {"task": Task, "script": Script, "allows": Allows}


def _problems(front: Mapping[str, Any], stem: str) -> Iterator[tuple[str, str]]:
    """Yield every problem with the key that it stands at."""
    known = [*_SHAPES, *_ENUMS]
    for key in front:
        if key not in known:
            yield key, frontmatter.unknown_key(key, known)
    for key in known:
        if key not in front:
            yield key, frontmatter.missing_key(key)
        elif problem := _shape_problem(key, front[key]):
            yield key, problem
    if is_text(front.get("name")) and front["name"] != stem:
        yield "name", frontmatter.wrong_name(front["name"], stem)
    yield from _licence_problems(front)


def _shape_problem(key: str, value: Any) -> str | None:
    if key in _ENUMS:
        choices = [member.value for member in _ENUMS[key]]
        return None if value in choices else f"{key}={value}: expected one of {', '.join(choices)}"
    fits, expected = _SHAPES[key]
    if not fits(value):
        return f"{key}={value!r}: expected {expected}"
    return None if value or key in _MAY_BE_EMPTY else f"{key} is empty: expected {expected}"


def _licence_problems(front: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every source has a licence line, and every licence line a source."""
    source, licence = front.get("source"), front.get("licence")
    if not (_are_origins(source) and isinstance(licence, dict)):
        return
    names = [origin["name"] for origin in source or ()]
    for name in names:
        if name not in licence:
            yield "licence", f"source {name!r} has no licence line; write its licence or 'unknown'"
    for name in licence:
        if name not in names:
            yield "licence", f"licence of {name!r}: no such source; {nearest(str(name), names)}"
