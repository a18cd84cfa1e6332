"""Rows of a data set on the Hugging Face hub (parquet-backed: no loading script is ever run)."""

import logging
import re
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finetune import hub
from finetune.data import catalogue
from finetune.data.lines import ending, names, reason
from finetune.data.problems import Problems, excerpt, listed, meant
from finetune.data.qrels import UNKNOWN_ID, unknown
from finetune.data.tables import READABLE, Row, Table
from finetune.errors import UserError
from finetune.hub import is_commit
from finetune.records import Dropped

log = logging.getLogger(__name__)

_JUDGED = ("query-id", "corpus-id", "score")  # columns of judgements
_TEXTS = {"query", "positive", "anchor", "sentence1", "a"}  # columns of rows that bring their texts
FORM = "owner/name[@revision][:[subset/]split]"
_ID = re.compile(
    r"(?P<id>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?"
    r"(?::(?:(?P<subset>[\w.-]+)/)?(?P<split>[\w.-]+))?",
    re.ASCII,
)
# Files of these endings are not read here, and named by mistake often enough.
_OTHER_FILES = (".xls", ".txt", ".md", ".arrow", ".zip", ".gz")


def is_hub_id(source: str) -> bool:
    """True for ``owner/name[@revision][:[subset/]split]``, but not for what names a file.

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


def pinned(source: str) -> str:
    """The source with the commit that its revision (the newest where it names none) stands for.

    Raises:
        UserError: When ``datasets`` is not installed, or there is no such data set or revision.
    """
    match = _matched(source)
    if is_commit(match["revision"]):
        return source
    try:
        commit = hub.commit(match["id"], match["revision"], "dataset")
    except OSError as error:
        raise _unreachable(source, error, match["subset"], match["split"] or "train") from error
    _, colon, rows = source.partition(":")
    found = f"{match['id']}@{commit}{colon}{rows}"
    if match["revision"] is None:
        _, known = catalogue.find(match["id"]) or (None, None)
        if known and is_commit(known.revision) and known.revision != commit:
            log.warning("%s: what is known of it is of %s", source, known.revision)
    return found


def open_hub(source: str, problems: Problems) -> Table:
    """Download a split (``train`` unless named), or find it in the local cache.

    Rows of ``query-id``, ``corpus-id`` and ``score`` are judgements, as mteb keeps sets: each
    becomes a row with the texts, which stand in the subsets ``queries`` and ``corpus``. What is
    wrong with single ones goes to ``problems``.

    Raises:
        UserError: When ``datasets`` is not installed, or the split cannot be had.
    """
    source = pinned(source)
    match = _matched(source)
    path, known = catalogue.find(match["id"]) or (None, None)
    if known:
        log.info(
            "%s: licence: %s; pairs: %s; flaws: %s; contamination: %s (%s)",
            source, known.licence_line, known.pairs, known.flaws, known.contamination, path,
        )  # fmt: skip
    content = _load(source, match, match["subset"], match["split"] or "train")
    if set(_JUDGED) <= set(content.column_names) and not _TEXTS & set(content.column_names):
        return _judgements(source, match, content, problems)

    def rows(wanted: Collection[str]) -> Iterator[Row]:
        yield from enumerate(content.select_columns(list(wanted)), 1)

    return Table(source, match["id"].split("/")[1], tuple(content.column_names), rows)


def _judgements(source: str, match: re.Match[str], content: Any, problems: Problems) -> Table:
    """Judgements with the texts that they are of; judgements of 0 are no pairs."""
    split = match["split"] or "train"
    queries, corpus = (
        _Known(f"{source}, subset {name}", _load(source, match, name, split, or_only=True))
        for name in ("queries", "corpus")
    )

    def rows(wanted: Collection[str]) -> Iterator[Row]:
        for number, row in enumerate(content.select_columns(list(_JUDGED)), 1):
            query, document = (str(row[name]) for name in _JUDGED[:2])
            said = [unknown(key, kind) for key, known, kind in
                    ((query, queries, "queries"), (document, corpus, "corpus"))
                    if key not in known]  # fmt: skip
            if said:
                told = excerpt(f"{query} {document}")
                problems.refuse(Dropped(UNKNOWN_ID, source, number, told), *said)
                continue
            score = row[_JUDGED[2]]
            yield number, {
                "query": queries[query], "positive": corpus[document], "id": f"{query} {document}",
                "label": int(score > 0) if isinstance(score, int | float) else str(score),
            }  # fmt: skip

    name = match["id"].split("/")[1]
    return Table(source, name, ("query", "positive", "id", "label"), rows)


class _Known:
    """The texts of a subset by id, in its file until they are asked for.

    Raises:
        UserError: It has no ids, or no texts.
    """

    def __init__(self, name: str, content: Any) -> None:
        key = next((each for each in ("_id", "id") if each in content.column_names), None)
        if key is None or "text" not in content.column_names:
            raise UserError(
                f"{name}: no column 'text' or 'id'; found {listed(content.column_names)}; expected "
                "the texts of the judgements: name another data set, or download it and write "
                "pairs of it"
            )
        self._content = content
        self._places = {str(each): place for place, each in enumerate(content[key])}

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Any:
        row = self._content[self._places[key]]
        if not row.get("title"):
            return row["text"]
        return f"{row['title']} {row['text']}" if row["text"] else row["title"]


def _matched(source: str) -> re.Match[str]:
    match = _ID.fullmatch(source)
    if match is None:
        raise UserError(f"{source}: expected {FORM}")
    if find_spec("datasets") is None:
        raise UserError(
            f"{source}: data sets of the hub need datasets: pip install 'finetune[train]'"
        )
    return match


def _load(
    source: str, match: re.Match[str], subset: str | None, split: str, *, or_only: bool = False
) -> Any:
    """Load a split of a subset; ``or_only``: where it has only one, that."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError
    from datasets.packaged_modules.cache.cache import Cache
    from huggingface_hub.errors import HTTPError

    name, commit = match["id"], match["revision"]
    try:
        builder = load_dataset_builder(name, subset, revision=commit)
        if isinstance(builder, Cache) and builder.hash != commit:
            # Without the hub, the library takes what came last, whichever commit was asked for.
            builder = Cache(repo_id=name, dataset_name=builder.dataset_name, hash=commit,
                            config_name=builder.config.name)  # fmt: skip
        if isinstance(builder, Cache) and not subset:
            # Which one the data set means where none is named, the cache does not know.
            log.warning("%s: taken from the cache is its subset %s", source, builder.config.name)
        builder.download_and_prepare()
        splits = list(builder.info.splits or ())
        return builder.as_dataset(split=splits[0] if or_only and len(splits) == 1 else split)
    # Unreachable and unknown names are OSErrors, unknown splits and subsets ValueErrors, scripts
    # RuntimeErrors.
    except (OSError, ValueError, RuntimeError, DatasetsError, HTTPError) as error:
        raise _unreachable(source, error, subset, split) from error


def _unreachable(
    source: str, error: Exception, named: str | None = None, split: str = "train"
) -> UserError:
    match = _matched(source)
    subset = f"subset {named!r}, " if named else ""
    owner = match["id"].split("/")[0]
    said = reason(error, lines=2).rstrip(".")  # the second has the choices
    near = meant(owner, (name for name in names(Path()) if Path(name).is_dir()), "")
    return UserError(
        f"{source}: no such file here{near and f' ({near})'}, and {subset}split "
        f"{split!r} of the data set {match['id']} (revision "
        f"{match['revision'] or 'newest'}) is neither in the local cache nor to be had from the "
        f"hub: {said}. Ways out: correct the path or the id ({FORM}); connect to the "
        "network; set HF_ENDPOINT to a mirror; or download the Parquet file elsewhere and name it: "
        "domain.train=<file.parquet>"
    )
