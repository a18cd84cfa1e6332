"""Read the user's text files line by line: UTF-8, ``.gz`` unpacked, JSON objects.

Every line comes with its number (an element of a JSON array with its position). Lines that hold
nothing but white space are no rows.
"""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from finetune.data.problems import (
    Problems,
    excerpt,
    listed,
    meant,
    printable,
    shown,
    type_name,
)
from finetune.errors import UserError
from finetune.records import Dropped, tally

# Of a crowded folder not every name is looked at for the nearest.
_MOST_NAMES = 1000
NOT_UTF8 = "not UTF-8"  # why a row is dropped
_BOM = b"\xef\xbb\xbf"
_MAGIC = {b"PAR1": "Parquet", b"PK\x03\x04": "a ZIP or Excel file", b"\x1f\x8b": "gzip",
          b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}  # fmt: skip


def existing(path: Path) -> Path:
    """Return the path of a file that is there, by itself or packed as ``.gz``.

    Raises:
        UserError: When it is not, with the files that are.
    """
    try:
        path = path.expanduser()
        packed = path.with_name(f"{path.name}.gz") if path.name else path
        found = next((each for each in (path, packed) if each.is_file()), None)
        if found is not None:
            return found
        inside = names(path) if path.is_dir() else None
        there = names(path.parent) if path.parent.is_dir() else None
    except (OSError, ValueError, RuntimeError) as error:  # too long, NUL inside, no such home
        raise UserError(f"{shown(str(path))}: no such file ({reason(error)})") from error
    name = printable(str(path))
    if inside == []:
        raise UserError(f"{name}: is an empty folder; name a file")
    if inside:
        alone = len(inside) == 1 and (path / inside[0]).is_file()
        which = f": {printable(str(path / inside[0]))}" if alone else ""
        raise UserError(f"{name}: is a folder; name the file in it{which}")
    if there is None:
        raise UserError(
            f"{name}: no such file, and no folder {printable(str(path.parent))}; "
            + meant(path.parent.name, beside(path.parent), "correct the path")
        )
    fix = meant(path.name, there, "correct the path")
    raise UserError(f"{name}: no such file; the folder holds {listed(there)}; {fix}")


def ending(path: Path) -> str:
    """The ending that names the format, without ``.gz``, in lower case."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def names(folder: Path) -> list[str]:
    """Return the names in a folder, sorted; of a crowded one, not all."""
    return sorted(path.name for path in islice(folder.iterdir(), _MOST_NAMES))


def beside(folder: Path) -> list[str]:
    """The names beside a folder that is not there."""
    return names(folder.parent) if folder.parent.is_dir() else []


def objects(path: Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbered objects of a JSON Lines file (or of the array in a ``.json`` file)."""
    name = printable(str(path))
    rows = _array(path, problems) if _is_array(path) else _json_lines(path, problems)
    for number, content in rows:
        if isinstance(content, _Doubled):
            problems.refuse(
                Dropped("key twice", name, number, shown(dict(content))),
                f"the key {shown(content.key)} is there twice; expected each once: rename one of "
                "them, or delete the line",
            )
        elif isinstance(content, dict):
            yield number, content
        else:
            problems.refuse(
                Dropped("not an object", name, number, shown(content)),
                f"found {type_name(content)} ({shown(content)}); expected an object, "
                '{"name": "value", …}: correct the line, or delete it',
            )


def text_lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a UTF-8 file, line ends kept; ``.gz`` is unpacked."""
    name = printable(str(path))
    for number, line, problem in decoded(path):
        if problem:
            problems.refuse(Dropped(NOT_UTF8, name, number, excerpt(line.strip())), problem)
        else:
            yield number, line


def decoded(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield number, text and what is wrong of each line: bytes that are not UTF-8 become �."""
    for number, raw in enumerate(_raw_lines(path), 1):
        if number == 1:
            _check_magic(printable(str(path)), raw)
            raw = raw.removeprefix(_BOM)
        try:
            yield number, raw.decode("utf-8"), ""
        except UnicodeDecodeError as error:
            problem = (
                f"byte 0x{raw[error.start]:02x} at {error.start + 1} is not UTF-8; expected a "
                "UTF-8 file: for a Chinese Windows file convert it with iconv -f GB18030 -t UTF-8"
            )
            yield number, raw.decode("utf-8", "replace"), problem


def empty(name: str, problems: Problems | None = None) -> UserError:
    """The error of a source without rows, or of one that has none left and had unusable ones."""
    if problems is None or not problems.dropped:
        return UserError(f"{name}: is empty; expected at least one row: name another file")
    reasons = tally(row.reason for row in problems.dropped)
    counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    return UserError(
        f"{name}: none of {len(problems.dropped):,} rows can be used ({counts}); the first: "
        f"{problems.examples[0]}",
        *problems.examples[1:],
    )


def reason(error: BaseException, lines: int = 1) -> str:
    """The first line of an error's message, or the first few as one."""
    said = (str(error).strip() or type(error).__name__).splitlines()[:lines]
    return printable(" ".join(said)[: 200 * lines])


def _raw_lines(path: Path) -> Iterator[bytes]:
    try:
        with _open(path) as file:
            for line in file:
                yield from line.splitlines(keepends=True)  # a carriage return ends one too
    except (OSError, EOFError, zlib.error) as error:  # not there, not allowed, cut short, no gzip
        raise UserError(
            f"{printable(str(path))}: cannot be read ({reason(error)}); copy it again, or name "
            "another file"
        ) from error


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _check_magic(name: str, start: bytes) -> None:
    for magic, what in _MAGIC.items():
        if start.startswith(magic):
            raise UserError(
                f"{name}: looks like {what}, which its name does not say; expected UTF-8 text: "
                "give the file its right ending, or save it as UTF-8"
            )
    # Of UTF-16 every second byte is NUL in ASCII: the later one in UTF-16LE.
    zeros = [place % 2 for place, byte in enumerate(start) if byte == 0]
    if len(set(zeros)) == 1 and len(zeros) > max(1, len(start) // 10):
        encoding = ("UTF-16BE", "UTF-16LE")[zeros[0]]
        raise UserError(
            f"{name}: looks like UTF-16 without its mark; expected UTF-8 text: iconv -f "
            f"{encoding} -t UTF-8 old > new"
        )


def _json_lines(path: Path, problems: Problems) -> Iterator[tuple[int, Any]]:
    name, first = printable(str(path)), True
    no_lines = (
        f"{name}: not JSON Lines: an array begins in it; expected one object a line: give the file "
        "the ending .json, or write it so"
    )
    for number, line in text_lines(path, problems):
        if not line.strip():
            continue
        try:
            content = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            array = isinstance(error, json.JSONDecodeError) and line.lstrip().startswith("[")
            if first and array:
                problems.add(no_lines)
                return
            problems.refuse(
                Dropped("not JSON", name, number, excerpt(line.strip())),
                f"not JSON ({_why(error)}): {shown(line.strip())}; expected one object a line: "
                "correct the line, or delete it",
            )
            first = False
            continue
        if first and isinstance(content, list) and content and isinstance(content[0], dict):
            problems.add(no_lines)
            return
        first = False
        yield number, content


class _Doubled(dict[str, Any]):
    """An object in which ``key`` is there twice."""

    key = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, of its keys and values."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    doubled = _Doubled(found)
    doubled.key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return doubled


def _why(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return f"{error.msg} at {line}character {error.colno}"
    deep = isinstance(error, RecursionError)
    return "nested too deeply" if deep else "a number of thousands of digits"


def _is_array(path: Path) -> bool:
    if ending(path) != ".json":
        return False
    lines = (raw.removeprefix(_BOM).strip() for raw in _raw_lines(path))
    return next(filter(None, lines), b"").startswith(b"[")


def _array(path: Path, problems: Problems) -> Iterator[tuple[int, Any]]:
    broken = Problems()  # of a file that is one value no line can be dropped
    text = "".join(line for _, line in text_lines(path, broken))
    problems.take(broken)
    if broken.count:
        return
    try:
        content = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        problems.add(
            f"{printable(str(path))}: not JSON ({_why(error)}); expected an array of objects, or "
            "one object a line: correct it there"
        )
        return
    yield from enumerate(content, 1)
