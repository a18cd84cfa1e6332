"""Columns as other libraries lay them out, read as a query, a positive and its negatives.

==========================================  ======================================================
layout                                      becomes
==========================================  ======================================================
``query``, ``pos``, ``neg`` (lists)         a pair for each of ``pos`` (as of any positive that is
                                            a list); ``neg`` are its negatives
``anchor`` or ``query``, ``positive``,      a pair; the negatives may stand in several columns
``negative`` or ``negative_1``, …           and in lists
``sentence1``, ``sentence2`` (or            a pair where the label is 1; where it is 0, a pair that
``sentence_A``, ``sentence_B``),            is none; of scored pairs, their score
``label`` or ``score``
==========================================  ======================================================

The first is FlagEmbedding's, the others are those of sentence-transformers. Rows of JSON may hold
negatives that the first ones lack.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from finetune.config.choices import Kind
from finetune.data.tables import Row, Table

_NEGATIVE = re.compile(r"neg|negative(_\d+)?")
_SENTENCES = (("sentence1", "sentence2"), ("sentence_A", "sentence_B"))


def recognise(
    table: Table, columns: Mapping[str, str], kind: Kind
) -> tuple[Table, Mapping[str, str]]:
    """Return the table in a form that pairs can be read from, and its column for each field.

    Args:
        table: As the file has it.
        columns: What the user mapped, which is taken; the other fields are recognised.
        kind: What a row is read as; for scored pairs only the last layout is known.
    """
    there = set(table.columns)
    mapped = {field: column for field, column in columns.items() if field != column}
    found = _sentences(there, mapped, kind)
    if kind is Kind.pairs and not found:
        for field, other in (("query", "anchor"), ("positive", "pos")):
            if field not in mapped and field not in there and other in there - {*mapped.values()}:
                found[field] = other
    columns = {**columns, **found}
    if kind is Kind.scored:
        return table, columns
    if columns.get("positive") == "pos":
        table = _rows(table, lambda row: {**row, "pos": _list(row.get("pos"))}, {})
    if "negatives" not in columns and "negatives" not in there:
        taken = {*columns.values()}
        negatives = [name for name in table.columns if _is_negative(name, taken)]
        if negatives or table.ragged:
            made_from = {"negatives": negatives} if negatives else {}
            table = _rows(table, lambda row: _gathered(row, taken), made_from)
    return table, columns


def _sentences(there: Collection[str], mapped: Mapping[str, str], kind: Kind) -> dict[str, str]:
    """The columns of two sentences and their label that are not mapped; none in other layouts."""
    one, two, label = ("query", "positive", "label") if kind is Kind.pairs else ("a", "b", "score")
    pair = next((pair for pair in _SENTENCES if {*pair} <= {*there}), ())
    texts = {field: mapped[field] for field in (one, two) if field in mapped}
    others = {"query", "positive", "a", "b"} & {*there}
    if not pair or not {*texts.values()} <= {*pair} or (others and len(texts) < 2):
        return {}
    left = [column for column in pair if column not in texts.values()]
    found = dict(zip((field for field in (one, two) if field not in texts), left, strict=False))
    labels = [name for name in ("label", "score") if name in there and name not in mapped.values()]
    return found | ({label: labels[0]} if labels and label not in mapped else {})


def _rows(
    table: Table,
    change: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    made_from: Mapping[str, Collection[str]],
) -> Table:
    """A table whose rows are changed; a column may be made from several of the file's."""

    def rows(wanted: Collection[str]) -> Iterator[Row]:
        needed = {name for column in wanted for name in made_from.get(column, [column])}
        for number, row in table.rows([name for name in table.columns if name in needed]):
            yield number, change(row)

    columns = tuple(dict.fromkeys([*table.columns, *made_from]))
    return dataclasses.replace(table, columns=columns, rows=rows)


def _is_negative(name: str, taken: Collection[str]) -> bool:
    return _NEGATIVE.fullmatch(name) is not None and name not in taken


def _gathered(row: Mapping[str, Any], taken: Collection[str]) -> Mapping[str, Any]:
    """The row with its negatives in one list; empty cells and lists are none."""
    names = [name for name in row if _is_negative(name, taken)]
    if not names or "negatives" in row:
        return row
    cells = [row[name] for name in names if row[name] not in (None, "", [])]
    return {**row, "negatives": [text for cell in cells for text in _list(cell)]}


def _list(value: Any) -> list[Any]:
    """The texts of a list, or of a JSON list in a CSV cell; what is no list stands for itself."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return [value]
    return (value or [None]) if isinstance(value, list) else [value]
