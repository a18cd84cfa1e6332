"""Rows of an Excel workbook: its first sheet, whose first row with a value names the columns."""

import datetime
import logging
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from finetune.data.clean import named
from finetune.data.lines import empty, reason
from finetune.data.problems import NoValue, listed, printable, shown
from finetune.data.tables import Row, Table, check_once
from finetune.errors import UserError

log = logging.getLogger(__name__)

# What openpyxl lets through of a damaged file: bad XML is a SyntaxError, an element that does not
# belong a TypeError, a text that is not there a LookupError, encryption a RuntimeError, a sheet for
# a chart without one an AttributeError.
_BROKEN = (zipfile.BadZipFile, zlib.error, LookupError, TypeError, ValueError, RuntimeError,
           OSError, EOFError, SyntaxError, AttributeError)  # fmt: skip
_PERCENT = re.compile(r"(?:0\.(0+)|0)%")  # a format, and its decimals
_RETURN = re.compile("(?:_x000D_|\r)\n?")  # the end of a line that was pasted from Windows
_NOT_COMPUTED = "a formula without a result, which Excel adds when it saves the file"


def open_excel(path: Path) -> Table:
    """Open the first sheet of a workbook; numbers and dates become text, as CSV has them.

    A row with no value in any cell is none, and of merged cells only the first has one. Cells that
    show an error, and formulas whose result the file lacks, are values that are no text. Cells
    under no name are not read; the first is told.

    Raises:
        UserError: When openpyxl is not installed, or the file is no workbook.
    """
    name = printable(str(path))
    book = _workbook(path, name, results=True)
    rows = _rows(book, name)
    header, line = next(((values, number) for number, cells in rows
                         if any(values := [_value(cell) for cell in cells])), ([], 0))  # fmt: skip
    header = [named(each) if isinstance(each, str) else each for each in header]
    columns = [column for column in header if column and isinstance(column, str)]
    title = book.worksheets[0].title
    if not columns:
        raise empty(f"{name}, sheet {shown(title)}")
    if len(book.worksheets) > 1:
        log.warning("%s: only the first sheet, %s, is read; there are %s", name,
                    shown(title), listed(book.sheetnames))  # fmt: skip

    def read(wanted: Collection[str]) -> Iterator[Row]:
        check_once(columns, wanted, f"{name}:{line}")
        formulas = _formulas(path, name)
        told = False
        for number, cells in rows:
            if any(map(_lacks_value, cells)):
                written = next((each for at, each in formulas if at == number), cells)
                cells = [formula if _lacks_value(cell) else cell
                         for cell, formula in zip(cells, written, strict=False)]  # fmt: skip
            values = [_value(cell) for cell in cells]
            if not any(values):
                continue
            unnamed = (value for value, column in zip_longest(values, header)
                       if value and column not in columns)  # fmt: skip
            if not told and (value := next(unnamed, None)):
                told = True
                log.warning("%s:%d: %s stands under no name, and such cells are not read; if it "
                            "is of use, name its column in row %d", name, number,
                            shown(value), line)  # fmt: skip
            named = dict(zip(header, values, strict=False))
            yield number, {column: named.get(column) for column in columns}

    return Table(name, printable(path.stem), tuple(dict.fromkeys(columns)), read)


def _workbook(path: Path, name: str, *, results: bool) -> Any:
    """Open a workbook whose formulas are their last results, or as they are written."""
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise UserError(
            f"{name}: Excel files need openpyxl: pip install 'finetune[data]', or save the sheet "
            "as CSV UTF-8"
        ) from error
    try:
        book = load_workbook(path, read_only=True, data_only=results)
        book.worksheets[0].reset_dimensions()  # which some programs write wrongly
    except _BROKEN as error:
        raise _broken(name, error) from error
    return book


def _rows(book: Any, name: str) -> Iterator[tuple[int, Sequence[Any]]]:
    try:
        yield from enumerate(book.worksheets[0].iter_rows(), 1)
    except _BROKEN as error:
        raise _broken(name, error) from error


def _formulas(path: Path, name: str) -> Iterator[tuple[int, Sequence[Any]]]:
    """The rows with their formulas; the file is opened again when the first is asked for."""
    book = _workbook(path, name, results=False)
    from openpyxl.formula.tokenizer import TokenizerError

    try:
        yield from _rows(book, name)
    except TokenizerError as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> UserError:
    return UserError(
        f"{name}: not readable as Excel ({reason(error)}); expected an .xlsx file: save it again "
        "from Excel, without sheets for charts, or as CSV UTF-8"
    )


def _lacks_value(cell: Any) -> bool:
    """Whether a cell is there without a value: empty but formatted, or a formula not computed."""
    return cell.value is None and cell.data_type == "n" and hasattr(cell, "row")


def _value(cell: Any) -> str | NoValue | None:
    """A cell as Excel would write it to CSV, but for what is no value."""
    value = cell.value
    if cell.data_type == "e":
        return NoValue(str(value), "an error of its formula")
    if cell.data_type == "f":
        # An array's formula is an object.
        return NoValue(value if isinstance(value, str) else "=…", _NOT_COMPUTED)
    if value is None:
        return None
    if isinstance(value, str):
        return _RETURN.sub("\n", value)
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ").removesuffix(" 00:00:00")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if percent := _PERCENT.search(cell.number_format):
        return f"{value:.{len(percent[1] or '')}%}"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
