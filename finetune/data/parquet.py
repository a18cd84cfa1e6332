"""Rows of a Parquet file."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from finetune.data.lines import NOT_UTF8, reason
from finetune.data.problems import Problems, excerpt, printable, shown
from finetune.data.tables import Row, Table, check_once
from finetune.errors import UserError
from finetune.records import Dropped


def open_parquet(path: Path, problems: Problems) -> Table:
    """Open a Parquet file; rows whose values cannot be read go to ``problems``.

    Raises:
        UserError: When it is no such file, or damaged.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    name = printable(str(path))
    errors = (pyarrow.ArrowException, OSError, ValueError)

    def rows(wanted: Collection[str]) -> Iterator[Row]:
        check_once(header, wanted, name)
        before = 0  # rows of earlier batches
        try:
            for batch in file.iter_batches(batch_size=1024, columns=list(wanted)):
                try:
                    yield from enumerate(batch.to_pylist(), before + 1)
                except (ValueError, OverflowError):
                    yield from _one_by_one(batch, name, before + 1, problems)
                before += batch.num_rows
        except errors as error:
            raise _broken(name, error) from error

    try:
        file = ParquetFile(path)
        header = file.schema_arrow.names
    except errors as error:
        raise _broken(name, error) from error
    return Table(name, printable(path.name.rsplit(".", 1)[0]), tuple(dict.fromkeys(header)), rows)


def _one_by_one(batch: Any, name: str, first: int, problems: Problems) -> Iterator[Row]:
    """The rows of a batch that holds what Python has no value for, but those that hold it."""
    for number in range(first, first + batch.num_rows):
        row: dict[str, Any] = {}
        for column, values in zip(batch.schema.names, batch.columns, strict=True):
            try:
                row[column] = values[number - first].as_py()
            except UnicodeDecodeError as error:
                text = error.object.decode("utf-8", "replace")
                problems.refuse(
                    Dropped(NOT_UTF8, name, number, excerpt(text)),
                    f"{printable(column)} holds byte 0x{error.object[error.start]:02x} at "
                    f"{error.start + 1}, which is not UTF-8 ({shown(text)}); expected UTF-8 text: "
                    "correct it where the file is made, or delete the row",
                )
                break
            except (ValueError, OverflowError) as error:
                problems.refuse(
                    Dropped("not text", name, number, ""),
                    f"{printable(column)} holds a value that cannot be read ({reason(error)}); "
                    "expected text: write it as text, or delete the row",
                )
                break
        else:
            yield number, row


def _broken(name: str, error: Exception) -> UserError:
    return UserError(
        f"{name}: not readable as Parquet ({reason(error)}); copy it again, or give it the ending "
        "of what it is"
    )
