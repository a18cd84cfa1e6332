"""Rows of a data set on the Hugging Face hub (parquet-backed: no loading script is ever run)."""

import logging
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from finetune.data import catalogue
from finetune.data.lines import ending, names, reason
from finetune.data.problems import meant
from finetune.data.tables import READABLE, Row, Table
from finetune.errors import UserError

log = logging.getLogger(__name__)

_ID = re.compile(
    r"(?P<id>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?(?::(?P<split>[\w.-]+))?", re.ASCII
)
_COMMIT = re.compile("[0-9a-f]{40}")
# Files of these endings are not read here, and named by mistake often enough.
_OTHER_FILES = (".xls", ".txt", ".md", ".arrow", ".zip", ".gz")


def is_hub_id(source: str) -> bool:
    """True for ``owner/name[@revision][:split]``, but not for what names a file.

    A file is named by what is there, by an ending that files have, and, unless a revision says
    otherwise, by a first part that is a folder here.
    """
    match = _ID.fullmatch(source)
    if match is None or {ending(Path(source)), Path(source).suffix} & {*READABLE, *_OTHER_FILES}:
        return False
    try:
        inside = match["revision"] is None and Path(match["id"]).parent.is_dir()
        return not inside and not Path(source).exists()
    except OSError:  # too long for a name
        return False


def way_out(source: str) -> str:
    """What a message about a missing file says to those who meant a data set of the hub."""
    match = _ID.fullmatch(source)
    if match is None or match["revision"]:
        return ""
    name, colon, rows = source.partition(":")
    return f" (of a data set of the hub name the revision: {name}@<revision>{colon}{rows})"


def open_hub(source: str) -> Table:
    """Download a split (``train`` unless named), or find it in the local cache.

    Raises:
        UserError: When ``datasets`` is not installed, or the split cannot be had.
    """
    match = _ID.fullmatch(source)
    if match is None:
        raise UserError(f"{source}: expected owner/name[@revision][:split]")
    _tell_known(source, match["id"], match["revision"])
    content = _load(source, match["id"], match["revision"], match["split"] or "train")

    def rows(wanted: Collection[str]) -> Iterator[Row]:
        yield from enumerate(content.select_columns(list(wanted)), 1)

    return Table(source, match["id"].split("/")[1], tuple(content.column_names), rows)


def _tell_known(source: str, name: str, revision: str | None) -> None:
    """Ask for a revision where none is named, and say what a catalogue knows of the set."""
    path, known = catalogue.find(name) or (None, None)
    if revision is None:
        commit = known.revision if known and _COMMIT.fullmatch(known.revision) else "<commit>"
        log.warning("%s: no revision named; pin one: %s@%s", source, name, commit)
    if known:
        log.info("%s: licence: %s; flaws: %s (%s)", source, known.licence, known.flaws, path)


def _load(source: str, name: str, revision: str | None, split: str) -> Any:
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise UserError(
            f"{source}: data sets of the hub need datasets: pip install 'finetune[train]'"
        ) from error
    try:
        return load_dataset(name, revision=revision, split=split)
    # Unreachable and unknown names are OSErrors, unknown splits ValueErrors, scripts RuntimeErrors.
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        folders = (each for each in names(Path()) if Path(each).is_dir())
        near = meant(name.split("/")[0], folders, "")
        raise UserError(
            f"{source}: no such file here{near and f' ({near})'}, and split {split!r} of the data "
            f"set {name} (revision "
            f"{revision or 'newest'}) is neither in the local cache nor to be had from the hub: "
            f"{reason(error)}. Ways out: correct the path or the id; connect to the network; set "
            "HF_ENDPOINT to a mirror; or download the Parquet file elsewhere and name it: "
            "domain.train=<file.parquet>"
        ) from error
