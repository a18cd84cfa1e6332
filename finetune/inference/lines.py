"""A file of texts, one a line, read as a stream: plain lines, or a column of JSON Lines."""

import codecs
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, cast

from finetune.errors import AS_UTF8, UserError

_TOLD = 10  # problems told; a file in another encoding has one a line


@dataclass(frozen=True)
class TextFile:
    """A file whose every text was looked at.

    Attributes:
        path: UTF-8, perhaps packed as ``.gz``.
        column: Of JSON Lines, where the text stands; None where each line is a text. Lines of
            nothing but white space are no rows of JSON Lines; of plain texts they are.
        rows: How many texts it holds.
        sha256: Of its (unpacked) content.
    """

    path: Path
    column: str | None
    rows: int
    sha256: str

    @classmethod
    def read(cls, path: Path, column: str | None = None) -> "TextFile":
        """Read a file once: count its texts, and find what is wrong with it before work begins.

        Raises:
            UserError: There is no such file, or lines hold no text; up to 10 are told.
        """
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected a file of texts, one a line")
        if column is None and ".jsonl" in path.suffixes:
            raise UserError(f"{path}: holds JSON Lines; name the text's column (--column text)")
        digest, rows = hashlib.sha256(), 0
        problems: list[str] = []
        for number, raw in _lines(path):
            digest.update(raw)
            if column is not None and not raw.strip():
                continue
            rows += 1
            try:
                _text(raw, column)
            except ValueError as error:
                problems.append(f"{path}:{number}: {error}")
            if len(problems) == _TOLD:
                break
        if problems:
            raise UserError(*problems)
        return cls(path, column, rows, digest.hexdigest())

    def texts(self, skip: int = 0) -> Iterator[str]:
        """Yield the texts in order, without the first ``skip`` and what the file got since."""
        raws = (raw for _, raw in _lines(self.path) if self.column is None or raw.strip())
        for raw in islice(raws, skip, self.rows):
            yield _text(raw, self.column)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the numbered lines. A form feed or U+2028 within a text ends no line of a file."""
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, 1):
                yield number, raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}): copy it again") from error
    except OSError as error:  # not allowed, gone meanwhile, a broken disk
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); copy it again, or name another "
            "file"
        ) from error


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _text(raw: bytes, column: str | None) -> str:
    """The text of a line.

    Raises:
        ValueError: It holds none; says what it holds instead.
    """
    try:
        line = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}; {AS_UTF8}") from error
    if column is None:
        return line
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"no JSON ({error}): correct the line, or delete it") from error
    if not isinstance(row, dict) or column not in row:
        there = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"no column {column!r}; found {there}: name the text's column")
    text = row[column]
    if not isinstance(text, str):
        raise ValueError(f"{column} is {type(text).__name__}; expected a text")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{column} holds a lone surrogate, which is no character: remove it")
    return text
