"""Read the value of each field of a row."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from finetune.data import clean
from finetune.data.clean import BadRow
from finetune.data.problems import shown, type_name

LEFT_OUT = "empty negatives left out"  # a change, as it is counted

# What exports write where there is nothing, compared in lower case.
_NOTHING = {"null", "nan", "none", "n/a", "#n/a", "<na>", "\\n", "-", "--"}
_LABELS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


def is_nothing(value: Any) -> bool:
    """Whether a cell is empty: null, not a number, white space, or what stands for that."""
    if isinstance(value, str):
        return not value.strip() or value.strip().lower() in _NOTHING
    return value is None or value != value


def some_text(column: str, value: Any, changed: Counter[str]) -> str:
    """Return the cleaned text, which must be more than a word for nothing.

    Raises:
        BadRow: As of `clean.text`.
    """
    if value is not None and is_nothing(value) and str(value).strip():
        raise BadRow(
            "empty text",
            f"{column} is {shown(value)}, which stands for nothing; expected text: fill it in, or "
            "delete the row",
        )
    return clean.text(column, value, changed)


def _negatives(column: str, value: Any, changed: Counter[str]) -> tuple[str, ...]:
    """Return the cleaned negatives of a list, or of a JSON list in a CSV cell; a text is one.

    Empty ones are left out and counted.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else [value]
        except (ValueError, RecursionError):
            pass  # then it is no list, and said to be none below
    if not isinstance(value, list):
        raise BadRow(
            "not text",
            f"{column} is {shown(value)}, {type_name(value)}; expected a list of texts: "
            '["text", "text"]',
        )
    kept = [(n, each) for n, each in enumerate(value, 1) if not is_nothing(each)]
    if len(kept) < len(value):
        changed[LEFT_OUT] += len(value) - len(kept)
    return tuple(clean.text(f"{column} {n}", each, changed) for n, each in kept)


def _name(column: str, value: Any, changed: Counter[str]) -> str:
    """An id or a source: text, or a number (1.0 is 1); bytes that are no text in hexadecimal."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            return value.hex()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | float) else clean.text(column, value, changed)


def _label(column: str, value: Any, changed: Counter[str]) -> int:
    """1 for a pair, 0 for what is none; in a CSV file they are text."""
    if isinstance(value, str | int | float) and str(value).strip().lower() in _LABELS:
        return _LABELS[str(value).strip().lower()]
    try:
        clean.number(column, value)
        graded = "for graded scores set domain.kind=scored; "
    except BadRow:
        graded = ""
    raise BadRow(
        "bad label",
        f"{column} is {shown(value)}; expected 1 (answers) or 0 (does not); {graded}if the column "
        "says something else, domain.columns.label='' leaves it alone",
    )


def _score(column: str, value: Any, changed: Counter[str]) -> float:
    return clean.number(column, value)


# Fields that hold something else than a text.
CLEANERS: Mapping[str, Callable[[str, Any, Counter[str]], Any]] = {
    "negatives": _negatives, "source": _name, "id": _name, "score": _score, "label": _label,
}  # fmt: skip
