"""YAML front matter of data cards and catalogues: cut out, parsed, with the lines of its keys."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import UserError, nearest

UNKNOWN = "unknown"
_FENCE = "---"


def read(path: Path) -> tuple[dict[str, Any], str]:
    """Return the front matter, parsed and as it stands in the file.

    Raises:
        UserError: When there is no such file, or no front matter in it.
    """
    text = _cut_out(path)
    return _parse(path, text), text


def line(text: str, key: str) -> int:
    """Line of a key in the file; the opening fence where the key is missing."""
    lines = text.splitlines()
    return next((n for n, each in enumerate(lines, 2) if each.startswith(f"{key}:")), 1)


def is_text(value: Any) -> bool:
    """True for a text that says something."""
    return isinstance(value, str) and bool(value.strip())


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Say that a key is none of the schema's."""
    return f"unknown key {key!r}; {nearest(key, known)}"


def missing_key(key: str) -> str:
    """Say that a key of the schema is not there."""
    return f"{key} is missing; write {UNKNOWN!r} where a fact is not known"


def wrong_name(name: str, stem: str) -> str:
    """Say that a card does not bear the name of its file."""
    return f"name={name}: expected {stem}, as the file is called"


def _cut_out(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such data card; every set that a file in configs names has one"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    fences = [number for number, each in enumerate(lines) if each.rstrip() == _FENCE]
    if len(fences) < 2 or fences[0] != 0:
        raise UserError(f"{path}:1: expected YAML front matter between two lines of '{_FENCE}'")
    return "".join(lines[1 : fences[1]])


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        front = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        # Lines count from 0 here, and the fence stands above the first.
        number = error.problem_mark.line + 2 if error.problem_mark else 1
        raise UserError(f"{path}:{number}: front matter is not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: front matter is not YAML: {error}") from error
    if not isinstance(front, dict):
        raise UserError(f"{path}:2: front matter must be 'key: value' lines, not {front!r}")
    return {str(key): value for key, value in front.items()}
