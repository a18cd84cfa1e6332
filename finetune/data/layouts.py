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

The first is FlagEmbedding's, the others are those of sentence-transformers.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from finetune.config.choices import Kind
from finetune.data.tables import Row, Table

_NEGATIVE = re.compile(r"negative(_\d+)?")
_SENTENCES = (("sentence1", "sentence2"), ("sentence_A", "sentence_B"))


def recognise(
    table: Table, columns: Mapping[str, str], kind: Kind
) -> tuple[Table, Mapping[str, str]]:
    """Return the table in a form that pairs can be read from, and its column for each field.

    Args:
        table: As the file has it.
        columns: What the user mapped; then nothing is guessed.
        kind: What a row is read as; for scored pairs only the last layout is known.
    """
    there = set(table.columns)
    if any(name != column for name, column in columns.items()):
        return table, columns
    sentences = next((pair for pair in _SENTENCES if there.issuperset(pair)), None)
    if sentences and not there & {"query", "positive", "a", "b"}:
        names = ("query", "positive", "label") if kind is Kind.pairs else ("a", "b", "score")
        label = next((name for name in ("label", "score") if name in there), names[2])
        found = dict(zip(names, (*sentences, label), strict=True))
        return table, {name: column for name, column in found.items() if column in there}
    if kind is Kind.scored:
        return table, columns
    if {"query", "pos"} <= there and "positive" not in there:
        found = {"query": "query", "positive": "pos"}
        may_have = "neg" in there or table.ragged
        table = _rows(table, lambda row: {**row, "pos": _list(row.get("pos"))}, {})
        return table, found | ({"negatives": "neg"} if may_have else {})
    query = "anchor" if "anchor" in there and "query" not in there else "query"
    negatives = [name for name in table.columns if _NEGATIVE.fullmatch(name)]
    if negatives and {query, "positive"} <= there and "negatives" not in there:
        table = _rows(table, lambda row: _gathered(row, negatives), {"negatives": negatives})
    return table, ({"query": query, "positive": "positive"} if query == "anchor" else columns)


def _rows(
    table: Table,
    change: Callable[[Mapping[str, Any]], dict[str, Any]],
    made_from: Mapping[str, Collection[str]],
) -> Table:
    """A table whose rows are changed; a column may be made from several of the file's."""

    def rows(wanted: Collection[str]) -> Iterator[Row]:
        needed = {name for column in wanted for name in made_from.get(column, [column])}
        for number, row in table.rows(sorted(needed & set(table.columns))):
            yield number, change(row)

    columns = tuple(dict.fromkeys([*table.columns, *made_from]))
    return dataclasses.replace(table, columns=columns, rows=rows)


def _gathered(row: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The row with its negatives in one list; empty cells and lists are none."""
    cells = [row[name] for name in names if row.get(name) not in (None, "", [])]
    return {**row, "negatives": [text for cell in cells for text in _list(cell)]}


def _list(value: Any) -> list[Any]:
    """The texts of a list, or of a JSON list in a CSV cell; what is no list stands for itself."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return [value]
    return (value or [None]) if isinstance(value, list) else [value]
