"""Open a file of rows by its ending: JSON Lines, JSON, CSV, TSV, Parquet or Excel."""

import csv
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from finetune.data.lines import NOT_UTF8, decoded, empty, ending, existing, objects, reason
from finetune.data.problems import Problems, excerpt, listed, printable, shown
from finetune.errors import UserError
from finetune.records import Dropped

Row = tuple[int, Mapping[str, Any]]

# Characters of a cell: no text is as long, but what a quote that is not closed swallows is.
csv.field_size_limit(10_000_000)

READABLE = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".xlsx")


@dataclass(frozen=True)
class Table:
    """A source of rows.

    Attributes:
        name: The source as messages name it.
        stem: What ids and the default source are made from.
        columns: Its columns; for JSON those of the first row.
        rows: Yields the numbered rows; only the wanted columns are sure to be there.
        ragged: True where later rows may have other columns than the first.
    """

    name: str
    stem: str
    columns: tuple[str, ...]
    rows: Callable[[Collection[str]], Iterator[Row]]
    ragged: bool = False


def open_table(path: Path, problems: Problems) -> Table:
    """Open a file by its ending; what is wrong with single lines goes to ``problems``.

    Raises:
        UserError: When there is no such file, or it is not what its ending says.
    """
    path = existing(path)
    suffix = ending(path)
    packed = path.suffix == ".gz"
    if suffix == ".parquet" and not packed:
        return _parquet_table(path)
    if suffix == ".xlsx" and not packed:
        from finetune.data.excel import open_excel

        return open_excel(path)
    if suffix in (".csv", ".tsv"):
        return _csv_table(path, "," if suffix == ".csv" else "\t", problems)
    if suffix in (".jsonl", ".json"):
        return _json_table(path, problems)
    raise UserError(
        f"{printable(str(path))}: cannot tell what is in it from its ending; expected "
        f"{', '.join(READABLE)} (all but Parquet and Excel also with .gz)"
    )


def _json_table(path: Path, problems: Problems) -> Table:
    rows = objects(path, problems)
    first = next(rows, None)
    if first is None:
        problems.check()
        raise empty(printable(str(path)), problems.dropped or ())
    return Table(
        printable(str(path)),
        _stem(path),
        tuple(first[1]),
        lambda wanted: chain([first], rows),
        ragged=True,
    )


def _csv_table(path: Path, delimiter: str, problems: Problems) -> Table:
    name = printable(str(path))
    at_start = Problems()  # without its header no row can be read
    _, header = next(_records(path, delimiter, at_start), (0, []))
    at_start.check()
    if not header:
        raise empty(name)
    twice = [column for column, count in Counter(header).items() if count > 1]
    if twice:
        raise UserError(f"{name}:1: column {shown(twice[0])} is there twice; rename one of them")

    def rows(wanted: Collection[str]) -> Iterator[Row]:
        for number, cells in islice(_records(path, delimiter, problems), 1, None):
            if len(cells) == len(header):
                yield number, dict(zip(header, cells, strict=True))
            else:
                problems.refuse(
                    Dropped("another number of cells", name, number, excerpt(cells[0])),
                    f"has {len(cells)} cell(s), {shown(cells)}; expected {len(header)} "
                    f"({listed(header)}): quote cells that hold the separator",
                )

    return Table(name, _stem(path), tuple(header), rows)


def _records(path: Path, delimiter: str, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Yield each record with the line it starts on, but for those that are not UTF-8."""
    name, fed = printable(str(path)), 0
    broken: list[tuple[int, str]] = []  # lines of the record that are not UTF-8

    def feed() -> Iterator[str]:
        nonlocal fed
        for fed, line, problem in decoded(path):  # noqa: B007 (where the next record starts)
            if problem:
                broken.append((fed, problem))
            yield line

    reader = csv.reader(feed(), delimiter=delimiter, strict=True)
    while True:
        start = fed + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(
                f"{name}:{start}: not readable as {ending(path)[1:].upper()} "
                f"({error}); expected cells in double quotes where they hold quotes, separators or "
                'line ends, and a quote inside doubled (""): correct the row, the rest was not read'
            )
            return
        if broken:
            line, problem = broken[0]
            broken.clear()
            problems.refuse(Dropped(NOT_UTF8, name, line, excerpt("".join(cells))), problem)
        elif len(cells) > 1 or "".join(cells).strip():
            yield start, cells


def _parquet_table(path: Path) -> Table:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    name = printable(str(path))
    errors = (pyarrow.ArrowException, OSError, ValueError)

    def rows(wanted: Collection[str]) -> Iterator[Row]:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=1024, columns=list(wanted)):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except errors as error:
            raise _broken_parquet(name, error) from error

    try:
        file = ParquetFile(path)
        columns = tuple(file.schema_arrow.names)
    except errors as error:
        raise _broken_parquet(name, error) from error
    return Table(name, _stem(path), columns, rows)


def _broken_parquet(name: str, error: Exception) -> UserError:
    return UserError(
        f"{name}: not readable as Parquet ({reason(error)}); copy it again, or give it the ending "
        "of what it is"
    )


def _stem(path: Path) -> str:
    return printable(path.name.removesuffix(".gz").rsplit(".", 1)[0])
