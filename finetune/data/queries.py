"""Queries without an answer, as a search log holds them: read, cleaned, and free of leaks."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.config.choices import BadRows
from finetune.config.pairs import Check
from finetune.data import clean, leaks
from finetune.data.clean import BadRow, fingerprint
from finetune.data.folding import folded
from finetune.data.lines import empty, ending, existing, text_lines
from finetune.data.problems import Problems, excerpt, listed, printable, shown
from finetune.data.tables import READABLE, Row, Table, open_table
from finetune.errors import UserError
from finetune.records import Dropped, Pair
from finetune.sets import AnySet

log = logging.getLogger(__name__)

COLUMNS = ("text", "query")
DUPLICATE = "duplicate"
ANSWERED = "asked by a training pair"


@dataclass(frozen=True)
class Query:
    """What is asked, and where: the file and the line."""

    text: str
    source: str
    line: int


def read_queries(
    path: Path, check: Check, pairs: Sequence[Pair], sets: Sequence[AnySet]
) -> tuple[list[Query], list[Dropped]]:
    """Read what may be given an answer; rows read = queries + dropped rows.

    Args:
        path: A ``.txt`` file with a query a line, or one of rows with a ``text`` or a ``query``.
        check: What becomes of rows that cannot be used, and of leaks.
        pairs: Those trained on anyway: what they ask has an answer.
        sets: Evaluation sets: what these ask, also in other words, is left out.

    Raises:
        UserError: With every problem found; when no query is left.
    """
    dropped: list[Dropped] = []
    problems = Problems(dropped if check.bad_rows is BadRows.drop else None)
    table, column = _open(path, problems)
    seen = {fingerprint(folded(pair.query)): (ANSWERED, pair.id) for pair in pairs}
    kept: list[Pair] = []
    for line, row in table.rows([column]):
        given = row.get(column)
        try:
            text = clean.text(column, given, Counter())
        except BadRow as error:
            told = excerpt(given) if isinstance(given, str) else shown(given)
            problems.refuse(Dropped(error.reason, table.name, line, told), str(error))
            continue
        mark = fingerprint(folded(text))
        if mark in seen:
            reason, place = seen[mark]
            dropped.append(Dropped(reason, table.name, line, excerpt(text), place))
            continue
        seen[mark] = DUPLICATE, f"{table.name}:{line}"
        kept.append(Pair(str(line), text, "", table.stem))
    problems.check_rows()
    if not kept and len(dropped) == sum(row.reason not in (DUPLICATE, ANSWERED) for row in dropped):
        raise empty(table.name, problems)
    suspects = leaks.find(kept, sets, check.near)
    queries = []
    for each in kept:
        reason, place = suspects.get(each.id, ("", ""))
        if reason in leaks.DROPPED[check.leak]:
            told = excerpt(each.query)
            dropped.append(Dropped(reason, table.name, int(each.id), told, place))
        else:
            queries.append(Query(each.query, table.name, int(each.id)))
    if not queries:
        raise UserError(
            f"domain.queries={path}: no query is left of {len(dropped):,} rows; expected at least "
            "one that neither the training pairs nor the evaluation sets ask: name another file"
        )
    log.info("%s: %s queries, %s dropped", table.name, f"{len(queries):,}", f"{len(dropped):,}")
    return queries, dropped


def _open(path: Path, problems: Problems) -> tuple[Table, str]:
    """The source, and its column that holds the queries."""
    path = existing(path)
    if ending(path) == ".txt":
        return _lines(path, problems), COLUMNS[0]
    try:
        table = open_table(path, problems)
    except UserError as error:
        raise UserError(*(each.replace(READABLE[0], f".txt, {READABLE[0]}", 1)
                          for each in error.problems)) from error  # fmt: skip
    for column in COLUMNS:
        if column in table.columns:
            return table, column
    raise UserError(
        f"{table.name}: no column {' or '.join(map(shown, COLUMNS))}; found "
        f"{listed(table.columns)}; expected the queries in one of them: rename it"
    )


def _lines(path: Path, problems: Problems) -> Table:
    def rows(_: object) -> Iterator[Row]:
        for number, line in text_lines(path, problems):
            if line.strip():
                yield number, {COLUMNS[0]: line}

    return Table(printable(str(path)), path.name.split(".")[0], COLUMNS[:1], rows)
