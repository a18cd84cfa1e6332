"""Turn rows into pairs, and keep account of those that become none."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from finetune.config import BadRows
from finetune.data import clean
from finetune.data.clean import BadRow
from finetune.data.problems import Problems, listed, printable, shown, type_name
from finetune.data.tables import Table
from finetune.records import Dropped, Pair

REQUIRED = ("query", "positive")
FIELDS = (*REQUIRED, "negatives", "source", "id")
# Characters of a dropped row's query that are kept; file and line lead to the rest.
_DROPPED_TEXT = 200


class Collector:
    """The pairs of one source: rows given to `add` = pairs + dropped, unless `check` raises.

    Args:
        table: The source.
        columns: Its column for each of the `FIELDS` that it has.
        bad_rows: Whether rows that cannot be used end the run or are dropped.
        problems: Where problems of the file were and will be collected.
    """

    def __init__(
        self, table: Table, columns: Mapping[str, str], bad_rows: BadRows, problems: Problems
    ) -> None:
        self.table = table
        self.columns = columns
        self.bad_rows = bad_rows
        self.problems = problems
        self.read = 0
        self.pairs: list[Pair] = []
        self.dropped: list[Dropped] = []
        self.found = set() if table.ragged else set(columns)
        self.lines: dict[str, int] = {}
        self.changed: Counter[str] = Counter()
        self._seen: dict[bytes, int] = {}
        self._refused = False

    def add(self, line: int, row: Mapping[str, Any]) -> None:
        """Keep, drop or refuse one row."""
        self.read += 1
        missing = [self.columns[name] for name in REQUIRED if self.columns[name] not in row]
        for column in missing:
            self.problems.add(
                f"{self.table.name}:{line}: no {shown(column)}; found {listed(row)}; expected it "
                "in every row: add it, or delete the row"
            )
        if missing:
            return
        values, bad = self._values(row)
        sides = [clean.comparable(values[name]) for name in REQUIRED if not bad]
        if sides and sides[0] == sides[1]:  # teaches nothing; nobody's mistake
            self._drop("identical sides", line, row)
            return
        bad = bad or list(_contradictions(values, sides[1]))
        if bad:
            self._refuse(line, row, bad)
            return
        pair = self._pair(line, values)
        mark = clean.fingerprint(*sides)
        if mark in self._seen:
            self._drop("duplicate", line, row, f"{self.table.name}:{self._seen[mark]}")
        elif pair.id in self.lines:
            self._refuse(line, row, [self._same_id(pair.id)])
        else:
            self._seen[mark] = self.lines[pair.id] = line
            self.pairs.append(pair)

    def check(self) -> None:
        """Do nothing if every row was kept or may be dropped.

        Raises:
            UserError: With every problem found.
        """
        way_out = "or set check.bad_rows=drop to leave such rows out and count them"
        self.problems.check(*([way_out] if self._refused else []))

    def _values(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[BadRow]]:
        """Clean each field; say what is wrong with every one that is bad."""
        values: dict[str, Any] = {}
        bad = []
        for name, column in self.columns.items():
            value = row.get(column)
            if column in row:
                self.found.add(name)
            try:
                if name in REQUIRED:
                    values[name] = clean.text(column, value, self.changed)
                elif name == "negatives":
                    values[name] = tuple(_negatives(column, value, self.changed))
                elif value not in (None, ""):
                    values[name] = _name(column, value, self.changed)
            except BadRow as error:
                bad.append(error)
        return values, bad

    def _pair(self, line: int, values: Mapping[str, Any]) -> Pair:
        return Pair(
            values.get("id", f"{self.table.stem}-{line}"),
            values["query"],
            values["positive"],
            values.get("source", self.table.stem),
            values.get("negatives", ()),
        )

    def _same_id(self, pair_id: str) -> BadRow:
        return BadRow(
            "duplicate id",
            f"id {shown(pair_id)} is that of line {self.lines[pair_id]} too; expected ids that "
            "occur once: change one, or leave the ids out",
        )

    def _refuse(self, line: int, row: Mapping[str, Any], bad: list[BadRow]) -> None:
        if self.bad_rows is BadRows.drop:
            self._drop(bad[0].reason, line, row)
            return
        self._refused = True
        for error in bad:
            self.problems.add(f"{self.table.name}:{line}: {error}")

    def _drop(
        self, reason: str, line: int, row: Mapping[str, Any], collided_with: str = ""
    ) -> None:
        query = row[self.columns["query"]]
        text = printable(query[:_DROPPED_TEXT]) if isinstance(query, str) else shown(query)
        self.dropped.append(Dropped(reason, self.table.name, line, text, collided_with))


def _negatives(column: str, value: Any, changed: Counter[str]) -> Iterator[str]:
    """Yield the cleaned negatives of a list, or of a JSON list in a CSV cell."""
    if value in (None, ""):
        return
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            pass  # then it is no list, and said to be none below
    if not isinstance(value, list):
        raise BadRow(
            "not text",
            f"{column} is {shown(value)}, {type_name(value)}; expected a list of texts: "
            '["text", "text"]',
        )
    for position, text in enumerate(value, 1):
        yield clean.text(f"{column} {position}", text, changed)


def _name(column: str, value: Any, changed: Counter[str]) -> str:
    """An id or a source: text, or a whole number."""
    return str(value) if type(value) is int else clean.text(column, value, changed)


def _contradictions(values: Mapping[str, Any], positive: str) -> Iterator[BadRow]:
    for negative in values.get("negatives", ()):
        if clean.comparable(negative) == positive:
            yield BadRow(
                "negative equals positive",
                f"{shown(negative)} stands in negatives and is the positive; expected texts that "
                "do not answer the query: delete it from the list",
            )
