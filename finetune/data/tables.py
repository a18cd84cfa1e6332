"""Open a file of rows by its ending: JSON Lines, JSON, CSV, TSV, Parquet or Excel."""

import csv
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from finetune.data.clean import named
from finetune.data.lines import NOT_UTF8, decoded, empty, ending, existing, objects
from finetune.data.problems import Problems, excerpt, listed, printable, shown
from finetune.errors import UserError
from finetune.records import Dropped

Row = tuple[int, Mapping[str, Any]]

# Characters of a cell: no text is as long, but what a quote that is not closed swallows is.
csv.field_size_limit(10_000_000)

# Lines of a record that each hold as many cells as the header, from which on it is no text of
# several lines; a verse with its title has five.
_ROWS = 6
_LOOKED_AT = 20  # rows of a JSON file whose columns are looked at

# What separates the cells of a header, where the ending says something else.
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars",
               "，": "full-width commas"}  # fmt: skip

READABLE = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".xlsx")


@dataclass(frozen=True)
class Table:
    """A source of rows.

    Attributes:
        name: The source as messages name it.
        stem: What ids and the default source are made from.
        columns: Its columns; for JSON those of the first rows.
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
        from finetune.data.parquet import open_parquet

        return open_parquet(path, problems)
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


def check_once(header: Collection[str], wanted: Collection[str], place: str) -> None:
    """Do nothing if each of the wanted columns is there once.

    Raises:
        UserError: When one is there twice; others may be.
    """
    twice = [column for column, count in Counter(header).items() if count > 1 and column in wanted]
    if twice:
        raise UserError(f"{place}: column {shown(twice[0])} is there twice; rename one of them")


def _json_table(path: Path, problems: Problems) -> Table:
    rows = objects(path, problems)
    first = list(islice(rows, _LOOKED_AT))
    if not first:
        problems.check()
        raise empty(printable(str(path)), problems)
    return Table(
        printable(str(path)),
        _stem(path),
        tuple(dict.fromkeys(column for _, row in first for column in row)),
        lambda wanted: chain(first, rows),
        ragged=True,
    )


def _csv_table(path: Path, delimiter: str, problems: Problems) -> Table:
    name = printable(str(path))
    at_start = Problems()  # without its header no row can be read
    first = next(_records(path, delimiter, at_start), None)
    if first is not None and first.problem:
        at_start.add(f"{name}:{first.line}: {first.problem}")
    at_start.check()
    if first is None:
        raise empty(name)
    header, place = [*map(named, first.cells)], f"{name}:{first.start}"
    _check_separator(header, delimiter, place)

    def rows(wanted: Collection[str]) -> Iterator[Row]:
        check_once(header, wanted, place)
        for each in islice(_records(path, delimiter, problems), 1, None):
            whole = len(each.cells) == len(header)
            if whole and not each.problem and not each.rows:
                yield each.start, dict(zip(header, each.cells, strict=True))
                continue
            what = f"has {len(each.cells)} cell(s), {shown(each.cells)}; expected {len(header)} "
            what += f"({listed(header)}): quote cells that hold the separator"
            told = excerpt("".join(each.cells))
            many = f"{name}:{each.start}: from here to line {each.start + each.lines - 1:,}"
            if each.rows:
                problems.add(
                    f"{many} a cell in quotes holds lines of {len(header)} cells each, as rows "
                    'are; expected one text: close the quote, double it ("") where it is text, or '
                    "save the file as JSON Lines"
                )
            elif whole:
                problems.refuse(Dropped(NOT_UTF8, name, each.line, told), each.problem)
            elif each.lines == 1:
                row = Dropped("another number of cells", name, each.start, told)
                problems.refuse(row, each.problem or what)
            else:  # many rows between a quote and the next are no row that may be dropped
                problems.add(f"{many} it {what}, or close the quote")

    return Table(name, _stem(path), tuple(dict.fromkeys(filter(None, header))), rows)


def _check_separator(header: list[str], delimiter: str, place: str) -> None:
    """Do nothing if the cells of a header are separated by the delimiter, as far as one can tell.

    Raises:
        UserError: When another separates them, or they are a line that only Excel understands.
    """
    if header[0].lower().startswith("sep="):
        raise UserError(f"{place}: {shown(header[0])} tells Excel the separator, and is no header; "
                        "delete the line")  # fmt: skip
    found = next((each for each in _SEPARATORS if each in header[0]), None)
    if len(header) == 1 and found:
        fix = {",": "give it the ending .csv", "\t": "give it the ending .tsv"}.get(
            found, "save it as CSV UTF-8, with commas"
        )
        raise UserError(
            f"{place}: the header is one cell, {shown(header[0])}, with {_SEPARATORS[found]} "
            f"instead of {_SEPARATORS[delimiter]}; expected a cell for each column: {fix}"
        )


@dataclass(frozen=True)
class _Record:
    """A record of a CSV file: the line it starts on, and how many it takes.

    ``problem`` is what is wrong with the encoding of one of them, ``line``. In ``rows`` each line
    holds as many cells as the record: between a stray quote and the next stand rows.
    """

    start: int
    lines: int
    cells: list[str]
    line: int
    problem: str
    rows: bool


def _records(path: Path, delimiter: str, problems: Problems) -> Iterator[_Record]:
    """Yield each record but the blank ones, and stop at what cannot be read on.

    A line of a TSV file whose quotes enclose no cell is read without quotes, as many programs
    write it, if it has as many cells as the header.
    """
    lines = decoded(path)
    again: deque[tuple[int, str, str]] = deque()  # lines that belong to no record yet
    header = 0  # number of cells

    def feed() -> Iterator[str]:
        while line := again.popleft() if again else next(lines, None):
            taken.append(line)
            yield line[1]

    while True:
        taken: list[tuple[int, str, str]] = []
        try:
            cells = next(csv.reader(feed(), delimiter=delimiter, strict=True))
        except StopIteration:
            return
        except csv.Error as error:
            start, text, _ = taken[0]
            cells = text.rstrip("\r\n").split(delimiter)
            if delimiter != "\t" or len(cells) != header:
                problems.add(
                    f"{printable(str(path))}:{start}: not readable as "
                    f"{ending(path)[1:].upper()} ({error}); expected cells in double quotes where "
                    "they hold quotes, separators or line ends, and a quote inside doubled "
                    '(""): correct the row, the rest was not read'
                )
                return
            again.extendleft(reversed(taken[1:]))
            del taken[1:]
        if len(cells) > 1 or "".join(cells).strip():
            header = header or len(cells)
            line, problem = next(((line, what) for line, _, what in taken if what), (0, ""))
            rows = len(taken) >= _ROWS and all(
                text.count(delimiter) == len(cells) - 1 > 0 for _, text, _ in taken
            )
            yield _Record(taken[0][0], len(taken), cells, line, problem, rows)


def _stem(path: Path) -> str:
    return printable(path.name.removesuffix(".gz").rsplit(".", 1)[0])
