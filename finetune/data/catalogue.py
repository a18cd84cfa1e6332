"""Catalogues of public data sets: what each is, what its licence says, how it is used from here.

A catalogue is a Markdown file with YAML front matter, ``data_cards/public/<name>.md``: ``cmteb``
has the tasks that ``configs/evaluate/cmteb.yaml`` names, the others have the sets of a domain. As
in a data card, a fact that nobody looked up is written ``unknown``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from finetune.config.compose import ROOT
from finetune.data import frontmatter
from finetune.data.card import Allows
from finetune.data.frontmatter import is_text
from finetune.errors import UserError

FOLDER = ROOT / "data_cards/public"


@dataclass(frozen=True)
class PublicSet:
    """One public set; every fact is a text.

    Attributes:
        name: As its source calls it; that of the task in C-MTEB.
        id: ``owner/name`` on the hub, or ``github.com/owner/name``.
        revision: Commit, whole where it was published whole.
        licence: As its source states it.
        allows: What the licence allows, as in a data card; ``unknown`` where no licence is stated.
        columns: Of its rows.
        size: Rows by part.
        pairs: How its pairs, or texts and labels, were made.
        use: Of a task, its kind, metric and splits; else the command line that trains on the set,
            or why there is none.
        flaws: What a reader of scores must know.
        contamination: Which models of ``configs/model`` saw it in training; those whose
            ``trained_on`` is unknown may have seen any public set.
        source: Where these facts were read.
    """

    name: str
    id: str
    revision: str
    licence: str
    allows: str
    columns: str
    size: str
    pairs: str
    use: str
    flaws: str
    contamination: str
    source: str

    @property
    def licence_line(self) -> str:
        """What is allowed and why, on one line, for model cards and reports."""
        return f"{self.allows} ({self.name}: {self.licence})"


@dataclass(frozen=True)
class Catalogue:
    """Public sets."""

    name: str
    sets: tuple[PublicSet, ...]


def read_catalogue(catalogue: str | Path) -> Catalogue:
    """Read and check a catalogue.

    Args:
        catalogue: Its name, or its path.

    Raises:
        UserError: With every problem of the catalogue, by file and line.
    """
    path = catalogue if isinstance(catalogue, Path) else FOLDER / f"{catalogue}.md"
    front, text = frontmatter.read(path)
    problems = [f"{path}:{line}: {problem}" for line, problem in _problems(front, text, path.stem)]
    if problems:
        raise UserError(*problems)
    return Catalogue(front["name"], tuple(PublicSet(**each) for each in front["sets"]))


def find(hub_id: str) -> tuple[Path, PublicSet] | None:
    """The first set with this id in a catalogue, and the catalogue's path."""
    for path in sorted(FOLDER.glob("*.md")):
        for each in read_catalogue(path).sets:
            if each.id == hub_id:
                return path, each
    return None


_KEYS = ("name", "sets")
_SET_KEYS = tuple(field.name for field in fields(PublicSet))
_ALLOWS = tuple(member.value for member in Allows)


def _problems(front: Mapping[str, Any], text: str, stem: str) -> Iterator[tuple[int, str]]:
    """Yield every problem with its line."""
    for key in front:
        if key not in _KEYS:
            yield frontmatter.line(text, key), frontmatter.unknown_key(key, _KEYS)
    for key in _KEYS:
        if key not in front:
            yield 1, frontmatter.missing_key(key)
    if "name" in front and front["name"] != stem:
        yield frontmatter.line(text, "name"), frontmatter.wrong_name(front["name"], stem)
    if "sets" in front:
        yield from _of_sets(front["sets"], text)


def _of_sets(sets: Any, text: str) -> Iterator[tuple[int, str]]:
    if not (isinstance(sets, list) and sets and all(isinstance(each, dict) for each in sets)):
        expected = f"a list of {{{', '.join(_SET_KEYS)}}}"
        yield frontmatter.line(text, "sets"), f"sets: expected {expected}, not {sets!r}"
        return
    seen: set[str] = set()
    for line, each in zip(_lines(text), sets, strict=True):
        name = str(each.get("name"))
        for problem in _of_set(each):
            yield line, f"{name}: {problem}"
        if name in seen:
            yield line, f"{name}: a set of this name stands above; expected each once"
        seen.add(name)


def _of_set(each: Mapping[str, Any]) -> Iterator[str]:
    for key in each:
        if key not in _SET_KEYS:
            yield frontmatter.unknown_key(str(key), _SET_KEYS)
    for key in _SET_KEYS:
        if key not in each:
            yield frontmatter.missing_key(key)
        elif not is_text(each[key]):
            yield f"{key}={each[key]!r}: expected a text (quote numbers)"
        elif key == "allows" and each[key] not in _ALLOWS:
            yield f"allows={each[key]}: expected one of {', '.join(_ALLOWS)}"


def _lines(text: str) -> list[int]:
    """Line of the file at which each set begins."""
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    (sets,) = (value for key, value in root.value if key.value == "sets")
    return [each.start_mark.line + 2 for each in sets.value]  # from 0, and below the fence
