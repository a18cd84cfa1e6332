"""A BEIR-shaped folder as training data: every judgement is a row."""

import logging
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from finetune.data.beir import texts
from finetune.data.problems import Problems, excerpt, listed, printable
from finetune.data.qrels import UNKNOWN_ID, judgements, unknown
from finetune.data.tables import Row, Table
from finetune.errors import UserError
from finetune.records import Dropped

log = logging.getLogger(__name__)

# In this order: BEIR keeps the judgements of its splits in a folder of their own.
_QRELS = ("qrels/train.tsv", "qrels.tsv")
_EVALUATED = ("qrels/test.tsv", "qrels/dev.tsv")


def is_judged(path: Path) -> bool:
    """True for a folder with a corpus, queries and judgements of training data.

    Raises:
        UserError: Its judgements are for evaluation only.
    """
    if not all(_there(path, name) for name in ("corpus.jsonl", "queries.jsonl")):
        return False
    evaluated = [name for name in _EVALUATED if _there(path, name)]
    if _qrels(path) is None and evaluated:
        folder = printable(str(path))
        raise UserError(
            f"{folder}: holds judgements for evaluation only ({listed(evaluated)}); expected "
            "qrels/train.tsv or qrels.tsv in a folder that is trained on: set "
            f"domain.dev={folder}, and name other training data"
        )
    return _qrels(path) is not None


def open_judged(folder: Path, problems: Problems) -> Table:
    """Open a folder; a row's line is that of its judgement, and judgements of 0 are no pairs.

    Raises:
        UserError: When a file cannot be read.
    """
    path = _qrels(folder) or folder / _QRELS[-1]
    changed: Counter[str] = Counter()
    wrong = Problems()  # of the texts; only judgements are rows that can be dropped
    empty_ones: dict[str, str] = {}
    queries = texts(folder, "queries.jsonl", wrong, changed, {})
    corpus = texts(folder, "corpus.jsonl", wrong, changed, empty_ones)
    problems.take(wrong)
    if empty_ones:
        log.warning("%s: %s passages have no text", printable(str(folder)), f"{len(empty_ones):,}")

    def rows(wanted: Collection[str]) -> Iterator[Row]:
        for line, query, document, score in judgements(path, problems):
            said = [unknown(key, kind) for key, known, kind in
                    ((query, queries, "queries"), (document, corpus, "corpus"))
                    if key not in known]  # fmt: skip
            if document in empty_ones and score <= 0:
                continue
            if said:
                told = excerpt(f"{query} {document}")
                row = Dropped(UNKNOWN_ID, printable(str(path)), line, told)
                problems.refuse(row, *said)
            else:
                yield line, {
                    "query": queries[query], "positive": corpus[document],
                    "id": f"{query} {document}", "label": int(score > 0),
                }  # fmt: skip

    name = printable(folder.resolve().name) or "folder"
    return Table(printable(str(path)), name, ("query", "positive", "id", "label"), rows)


def _qrels(folder: Path) -> Path | None:
    packed = (folder / f"{name}{end}" for name in _QRELS for end in ("", ".gz"))
    return next((path for path in packed if path.is_file()), None)


def _there(folder: Path, name: str) -> bool:
    return (folder / name).is_file() or (folder / f"{name}.gz").is_file()
