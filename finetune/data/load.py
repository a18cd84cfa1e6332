"""Read training pairs; every row becomes a pair, a dropped row with its reason, or a problem."""

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from finetune.config.choices import BadRows, Duplicates, Kind
from finetune.data import layouts
from finetune.data.columns import guess, mapping
from finetune.data.documents import READABLE
from finetune.data.hub import is_hub_id, open_hub, way_out
from finetune.data.judged import is_judged, open_judged
from finetune.data.lines import empty, ending, existing
from finetune.data.loaded import Loaded
from finetune.data.problems import Problems, listed, meant, printable, shown
from finetune.data.rows import FORMS, Collector, Form
from finetune.data.tables import READABLE as TABLES
from finetune.data.tables import Table, open_table
from finetune.disk import Spilled
from finetune.errors import UserError, nearest
from finetune.progress import bar
from finetune.records import Dropped

log = logging.getLogger(__name__)

_CHUNK = 10_000  # rows between two reports of progress
_MOST_FILES = 1_000  # of a folder, that are looked at to tell what it holds


def load_pairs(
    source: str,
    columns: Mapping[str, str],
    bad_rows: BadRows,
    kind: Kind = Kind.pairs,
    duplicates: Duplicates = Duplicates.script,
    *,
    setting: str = "domain",
) -> Loaded:
    """Read the pairs of a source; rows read = pairs + dropped rows.

    Args:
        source: A JSON Lines, JSON, CSV, TSV, Parquet or Excel file, a BEIR-shaped folder, or
            ``owner/name[@revision][:[subset/]split]`` on the Hugging Face hub.
        columns: The source's column for each field that it calls by another name; an optional field
            without one is not read.
        bad_rows: Whether rows that cannot be used end the run or are dropped.
        kind: Whether a row holds a query and a text that answers it, or two texts and a score.
        duplicates: How alike pairs are dropped as one.
        setting: The part of the configuration whose ``columns`` these are, in messages.

    Raises:
        UserError: With every problem found.
    """
    form = FORMS[kind]
    dropped = Spilled(Dropped)
    problems = Problems(dropped if bad_rows is BadRows.drop else None)
    table, laid_out = layouts.recognise(_open(source, problems), columns, kind)
    found = _resolve(form, laid_out, table, problems, f"{setting}.columns")
    collector = Collector(form, table, found, duplicates, problems, dropped)
    collector.found |= {name for name, column in columns.items() if not column}
    there = dict.fromkeys(table.columns)
    with bar(f"read {table.name}", None) as progress:
        for count, (line, row) in enumerate(table.rows(sorted(set(found.values()))), 1):
            collector.add(line, row)
            there.update(dict.fromkeys(row))
            if count % _CHUNK == 0:
                progress(_CHUNK)
    for name in sorted(columns.keys() - collector.found):
        problems.add(_no_column(table, f"{setting}.columns", name, columns[name], mapped=True))
    collector.check()
    table = replace(table, columns=tuple(there))  # those of all rows
    _warn_of_misspelt(table, f"{setting}.columns", form, found, collector.found)
    if not collector.read:
        raise empty(table.name, problems)
    pairs = collector.pairs
    log.info("%s: %s rows, %s pairs, %s dropped", table.name, f"{len(pairs) + len(dropped):,}",
             f"{len(pairs):,}", f"{len(dropped):,}")  # fmt: skip
    return Loaded(
        pairs,
        dropped,
        origin=table.name,
        lines=collector.lines,
        changed=collector.changed,
    )


def file_or_folder(source: str) -> Path:
    """Return where training data lies that is no hub id.

    Raises:
        UserError: When there is neither such a file nor a BEIR-shaped folder.
    """
    folder = _judged_folder(source)
    if folder is not None:
        return folder
    try:
        return existing(Path(source))
    except UserError as error:
        raise UserError(f"{error}{_as_documents(source) or way_out(source)}") from error


def holds_documents(source: str) -> bool:
    """Say whether a folder holds files that documents are read from, and no tables."""
    try:
        files = islice(Path(source).expanduser().rglob("*"), _MOST_FILES)
        found = {ending(each) for each in files if each.is_file()}
        return bool(found & {*READABLE}) and not found & {*TABLES}
    except (OSError, ValueError, RuntimeError):  # too long, NUL inside, no such home
        return False


def _as_documents(source: str) -> str:
    """What a message says to those who named a folder of documents."""
    if not holds_documents(source):
        return ""
    folder = printable(str(Path(source)))
    return (
        "; to make pairs of the documents in it, train with recipes=documents domain=custom "
        f"domain.documents={folder} domain.dev=<folder>, without domain.train"
    )


def _judged_folder(source: str) -> Path | None:
    try:
        path = Path(source).expanduser()
        return path if source and is_judged(path) else None
    except (OSError, ValueError, RuntimeError):  # too long, NUL inside, no such home
        return None


def _open(source: str, problems: Problems) -> Table:
    if is_hub_id(source):
        return open_hub(source, problems)
    path = file_or_folder(source)
    return open_judged(path, problems) if path.is_dir() else open_table(path, problems)


def _resolve(
    form: Form, columns: Mapping[str, str], table: Table, problems: Problems, key: str
) -> dict[str, str]:
    """Say which of the table's columns holds which field.

    Raises:
        UserError: When a field is unknown or a column is not there.
    """
    before = problems.count
    for name in sorted(columns.keys() - set(form.fields)):
        problems.add(f"{key}.{printable(name)}: no such field; {nearest(name, form.fields)}")
    found: dict[str, str] = {}
    guessed: dict[str, str | None] = {}
    for name in form.fields:
        column = columns.get(name, name)
        if not column and name in form.optional:
            continue
        if column in table.columns or (table.ragged and name in form.optional):
            found[name] = guessed[name] = column
        elif name in columns or name in form.required:
            problems.add(_no_column(table, key, name, column, mapped=name in columns))
            guessed[name] = guess(name, column, table.columns)
    if problems.count > before:
        problems.check(*_as_guessed(guessed, key))
    return found


def _as_guessed(columns: Mapping[str, str | None], key: str) -> Iterator[str]:
    """Say what to type where every column that is not there could be guessed."""
    mapped = {name: column for name, column in columns.items() if column and column != name}
    if mapped and None not in columns.values() and len(set(columns.values())) == len(columns):
        yield f"if these are the columns, set {mapping(key, mapped)}"


def _warn_of_misspelt(
    table: Table, key: str, form: Form, columns: Mapping[str, str], found: Collection[str]
) -> None:
    """Warn where a column that is not read resembles an optional field that no row has.

    Not of ``id``, which qid, pid and idx resemble; rows without ids do as well.
    """
    known = {*columns.values(), *(name for each in FORMS.values() for name in each.fields)}
    unread = [column for column in table.columns if column not in known]
    for name in form.optional:
        near = "" if name == "id" or name in found else meant(name, unread, "")
        if near:
            log.warning("%s: no row has %s, which it may have: %s (set %s.%s=<column>)",
                        table.name, name, near, key, name)  # fmt: skip


def _no_column(table: Table, key: str, name: str, column: str, *, mapped: bool) -> str:
    place = f"{key}.{name}={printable(column)}: " if mapped else ""
    near = guess(name, column, table.columns)
    fix = "choose one of them" if near is None else f"did you mean {printable(near)!r}?"
    return (
        f"{place}{table.name}: no column {shown(column)}; found {listed(table.columns)}; expected "
        f"the column that holds the {name}: {fix} (set {key}.{name}=<column>)"
    )
