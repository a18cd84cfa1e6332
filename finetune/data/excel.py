"""Rows of an Excel workbook: its first sheet, whose first row names the columns."""

import datetime
import logging
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from finetune.data.lines import empty, reason
from finetune.data.problems import listed, printable, shown
from finetune.data.tables import Row, Table
from finetune.errors import UserError

log = logging.getLogger(__name__)

_BROKEN = (zipfile.BadZipFile, KeyError, ValueError, OSError, ParseError, EOFError)


def open_excel(path: Path) -> Table:
    """Open the first sheet of a workbook; numbers and dates become text, as CSV has them.

    Raises:
        UserError: When openpyxl is not installed, or the file is no workbook.
    """
    name = printable(str(path))
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise UserError(
            f"{name}: Excel files need openpyxl: pip install 'finetune[data]', or save the sheet "
            "as CSV UTF-8"
        ) from error
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # which some programs write wrongly
        rows = enumerate(sheet.iter_rows(values_only=True), 1)
        header = [_text(cell) or "" for cell in next(rows, (0, ()))[1]]
    except _BROKEN as error:
        raise UserError(
            f"{name}: not readable as Excel ({reason(error)}); expected an .xlsx file: save it "
            "again from Excel, or as CSV UTF-8"
        ) from error
    columns = [column for column in header if column]
    if not columns:
        raise empty(f"{name}, sheet {shown(sheet.title)}")
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise UserError(f"{name}:1: column {shown(twice[0])} is there twice; rename one of them")
    if len(book.worksheets) > 1:
        log.warning("%s: only the first sheet, %s, is read; there are %s", name,
                    shown(sheet.title), listed(book.sheetnames))  # fmt: skip

    def read(wanted: Collection[str]) -> Iterator[Row]:
        for number, cells in rows:
            values = {column: _text(cell) for column, cell in zip(header, cells, strict=False)}
            if any(value for value in values.values()):
                yield number, {column: values.get(column) for column in columns}

    return Table(name, printable(path.stem), tuple(columns), read)


def _text(cell: Any) -> str | None:
    """A cell as Excel would write it to CSV; formulas have their last result."""
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, datetime.datetime | datetime.date | datetime.time):
        return cell.isoformat()
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
