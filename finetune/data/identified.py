"""A row of ``corpus.jsonl`` or ``queries.jsonl``: its id, its title and its text."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from finetune.data import clean
from finetune.data.clean import BadRow
from finetune.data.problems import listed, meant, shown

_LINE_END = re.compile(r"[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def id_of(row: Mapping[str, Any], lines: Mapping[str, int], changed: Counter[str]) -> str:
    """Return the id of a row, which must be new and fit into a line of ``qrels.tsv``.

    Raises:
        BadRow: It is not there, or does not.
    """
    value = row.get("id", row.get("_id"))
    if value is None:
        raise missing(row, "id")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    key = str(value) if type(value) is int else clean.text("id", value, changed)
    if key != str(value) or _LINE_END.search(key):
        raise BadRow(
            "bad id",
            f"id is {shown(value)}; expected one without tabs, line ends, control characters or "
            "white space around it: rename it here and in qrels.tsv",
        )
    if key in lines:
        raise BadRow(
            "duplicate id",
            f"id {shown(key)} is that of line {lines[key]} too; expected ids that occur once: "
            "rename one, or delete one of the lines",
        )
    return key


def titled(row: Mapping[str, Any], changed: Counter[str]) -> str:
    """Return the text of a row with its title before it; either may be empty.

    Raises:
        BadRow: Both are, or one is no text.
    """
    if _is_empty(row.get("title")):
        return text(row, "text", changed)
    title = clean.text("title", row["title"], changed)
    if "text" in row and _is_empty(row["text"]):
        return title
    return f"{title} {text(row, 'text', changed)}"


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def text(row: Mapping[str, Any], field: str, changed: Counter[str]) -> str:
    """Return the cleaned text of a field.

    Raises:
        BadRow: When it is not there, or no text.
    """
    if field not in row:
        raise missing(row, field)
    return clean.text(field, row[field], changed)


def missing(row: Mapping[str, Any], field: str) -> BadRow:
    """The error of a row without a field."""
    fix = meant(field, row, "add it, or delete the line")
    return BadRow(
        "no column", f"no {field!r}; found {listed(row)}; expected it in every row: {fix}"
    )
