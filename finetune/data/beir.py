"""Read the user's evaluation folders, strictly: BEIR-shaped for retrieval, STS-shaped for pairs."""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.data import clean
from finetune.data.clean import BadRow
from finetune.data.lines import empty, ending, existing, names, objects, reason, text_lines
from finetune.data.problems import Problems, listed, meant, printable, shown, type_name
from finetune.errors import UserError
from finetune.records import Scored
from finetune.sets import EvaluationSet, ScoredSet

log = logging.getLogger(__name__)

_FILES = ("corpus.jsonl", "queries.jsonl", "qrels.tsv")
RERANKING = "reranking.jsonl"
_STS_SPLITS = ("test", "dev")
_STS_FILES = tuple(f"{split}.jsonl" for split in _STS_SPLITS)
_SHAPES = (
    "expected a retrieval set (corpus.jsonl and queries.jsonl with id and text, qrels.tsv with "
    "query id, passage id and score), a reranking set (reranking.jsonl with query, positive and "
    "negative, the two lists of texts), or a similarity set (test.jsonl or dev.jsonl with "
    "sentence1, sentence2 and label or score); each may be .gz"
)
_LINE_END = re.compile(r"[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")

Qrels = dict[str, dict[str, int]]


def kind(folder: Path) -> str:
    """Say which shape a folder has: ``beir``, ``reranking`` or ``sts`` (a file is ``sts``).

    Raises:
        UserError: When it has none.
    """
    if _is_file(folder):
        return "sts"
    there = _names(folder)
    for shape, files in (("beir", _FILES), ("reranking", (RERANKING,)), ("sts", _STS_FILES)):
        if any(name in there or f"{name}.gz" in there for name in files):
            return shape
    raise UserError(f"{printable(str(folder))}: holds {listed(there)}; {_SHAPES}")


def read_folder(folder: Path) -> EvaluationSet:
    """Read a BEIR-shaped folder.

    Ids may be called ``id`` or ``_id``; a ``title`` is put before the ``text``, with a space
    between. The header of ``qrels.tsv`` may be missing. Queries without a relevant passage cannot
    be scored and are left out, with a warning that counts them.

    Raises:
        UserError: With every problem in all three files.
    """
    if kind(folder) != "beir":
        raise UserError(
            f"{printable(str(folder))}: is a similarity set, on which domains of scored pairs "
            f"(domain.kind=scored) are evaluated; {_SHAPES}"
        )
    problems = Problems()
    changed: Counter[str] = Counter()
    corpus = texts(folder, "corpus.jsonl", problems, changed)
    queries = texts(folder, "queries.jsonl", problems, changed)
    qrels = _qrels(folder, queries, corpus, problems)
    problems.check()
    judged = {q: texts for q, texts in qrels.items() if any(score > 0 for score in texts.values())}
    name = folder.resolve().name or "set"
    if len(judged) < len(queries):
        log.warning("%s: %s queries have no relevant passage in qrels.tsv and are left out", name,
                    f"{len(queries) - len(judged):,}")  # fmt: skip
    for what, count in sorted(changed.items()):
        log.info("%s: %s in %s texts", name, what, f"{count:,}")
    return EvaluationSet(name, queries, corpus, qrels).only(judged)


def splits(path: Path) -> tuple[str, ...]:
    """Return which of ``test`` and ``dev`` an STS-shaped folder has; a file is ``test``.

    Raises:
        UserError: When it is no STS-shaped folder.
    """
    if kind(path) != "sts":
        raise UserError(
            f"{printable(str(path))}: is a retrieval set, on which domains of pairs "
            f"(domain.kind=pairs) are evaluated; {_SHAPES}"
        )
    there = () if _is_file(path) else _names(path)
    found = tuple(s for s in _STS_SPLITS if {f"{s}.jsonl", f"{s}.jsonl.gz"} & set(there))
    return found or _STS_SPLITS[:1]


def read_sts(path: Path, split: str | None = None) -> ScoredSet:
    """Read a split of an STS-shaped folder (else ``test``, else ``dev``), or such a file itself.

    Raises:
        UserError: With every problem found.
    """
    file, name = _sts_file(path, split)
    problems = Problems()
    changed: Counter[str] = Counter()
    rows: list[Scored] = []
    field = ""
    for line, row in objects(file, problems):
        field = field or ("score" if "score" in row and "label" not in row else "label")
        try:
            a, b = (_text(row, side, changed) for side in ("sentence1", "sentence2"))
            rows.append(Scored(f"{name}-{line}", a, b, _score(row, field), name))
        except BadRow as error:
            problems.add(f"{printable(str(file))}:{line}: {error}")
    problems.check()
    if not rows:
        raise empty(printable(str(file)))
    if len({row.score for row in rows}) == 1:
        raise UserError(
            f"{printable(str(file))}: every {field} is {rows[0].score:g}; expected pairs that are "
            "alike and pairs that are not: name another file"
        )
    return ScoredSet(name, tuple(rows))


def _is_file(path: Path) -> bool:
    try:
        return path.expanduser().is_file()
    except (OSError, RuntimeError):  # too long, no such home
        return False


def _names(folder: Path) -> list[str]:
    try:
        return names(folder.expanduser())
    except (OSError, ValueError, RuntimeError) as error:  # no folder, not allowed, NUL in the name
        raise UserError(
            f"{shown(str(folder))}: no such folder ({reason(error)}); {_SHAPES}"
        ) from error


def _find(folder: Path, name: str) -> Path:
    """Return the path of a file, packed or not.

    Raises:
        UserError: When it is not there, or twice.
    """
    folder = folder.expanduser()
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    where = printable(str(folder))
    if len(found) == 2:
        raise UserError(f"{where}: has {name} and {name}.gz; delete the one that is out of date")
    if not found:
        raise UserError(f"{where}/{name}: no such file; the folder holds {listed(_names(folder))}; "
                        f"expected {', '.join(_FILES)} (each may be .gz)")  # fmt: skip
    return found[0]


def _sts_file(path: Path, split: str | None) -> tuple[Path, str]:
    """Return the file to read and the name of the set."""
    if _is_file(path) or ending(path) == ".jsonl":
        return existing(path), printable(path.name.split(".")[0])
    folder = path.expanduser()
    return existing(folder / f"{split or splits(path)[0]}.jsonl"), printable(folder.resolve().name)


def texts(folder: Path, name: str, problems: Problems, changed: Counter[str]) -> dict[str, str]:
    """Read the texts of ``corpus.jsonl`` or ``queries.jsonl`` by id; nothing if it is not there."""
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    before = problems.count
    try:
        path = _find(folder, name)
        for line, row in objects(path, problems):
            try:
                key = _id(row, lines, changed)
                lines[key] = line
                texts[key] = ""  # known to qrels.tsv even when the text is bad
                texts[key] = _titled(row, changed)
            except BadRow as error:
                problems.add(f"{printable(str(path))}:{line}: {error}")
        if not lines and problems.count == before:
            raise empty(printable(str(path)))
    except UserError as error:
        problems.include(error)
    return texts


def _qrels(
    folder: Path, queries: Mapping[str, str], corpus: Mapping[str, str], problems: Problems
) -> Qrels:
    """Read the relevance of passages by query; ids are checked where there are any to check."""
    qrels: Qrels = {}
    before = problems.count
    try:
        path = _find(folder, "qrels.tsv")
        for place, query, document, score in judgements(path, problems):
            for text_id, known, file in ((query, queries, "queries"), (document, corpus, "corpus")):
                if known and text_id not in known:
                    problems.add(
                        f"{place}: id {shown(text_id)} is not in {file}.jsonl; expected an id that "
                        "is: correct it, or delete the line"
                    )
            if qrels.setdefault(query, {}).setdefault(document, score) != score:
                problems.add(
                    f"{place}: {shown(query)} and {shown(document)} have score {score} here and "
                    f"{qrels[query][document]} before; expected one score: delete one line"
                )
        if problems.count == before and not any(
            s > 0 for row in qrels.values() for s in row.values()
        ):
            raise UserError(
                f"{printable(str(path))}: no score above 0; expected at least one line that names "
                "a passage which answers a query: query id, tab, passage id, tab, 1"
            )
    except UserError as error:
        problems.include(error)
    return qrels


def judgements(path: Path, problems: Problems) -> Iterator[tuple[str, str, str, int]]:
    """Yield place, query id, passage id and score of each line after the header, if it has one."""
    first = True
    for number, line in text_lines(path, problems):
        cells = line.rstrip("\r\n").split("\t")
        if not line.strip():
            continue
        header = first and len(cells) == 3 and cells[2].strip().lower() in ("score", "relevance")
        first = False
        if header:
            continue
        place = f"{printable(str(path))}:{number}"
        if len(cells) != 3:
            problems.add(
                f"{place}: has {len(cells)} cell(s), {shown(line.rstrip())}; expected 3 with tabs "
                "between: query id, passage id, score"
            )
        elif not _INTEGER.fullmatch(cells[2].strip()):
            problems.add(
                f"{place}: score is {shown(cells[2])}; expected a whole number: 1 if the passage "
                "answers the query, 0 if not"
            )
        else:
            yield place, cells[0], cells[1], int(cells[2])


def _id(row: Mapping[str, Any], lines: Mapping[str, int], changed: Counter[str]) -> str:
    """Return the id of a row, which must be new and fit into a line of ``qrels.tsv``."""
    value = row.get("id", row.get("_id"))
    if value is None:
        raise _missing(row, "id")
    key = str(value) if type(value) is int else clean.text("id", value, changed)
    if key != str(value) or _LINE_END.search(key):
        raise BadRow(
            "bad id",
            f"id is {shown(value)}; expected one without tabs, line ends, control characters or "
            "white space around it: rename it here and in qrels.tsv",
        )
    if key in lines:
        raise BadRow(
            "duplicate id",
            f"id {shown(key)} is that of line {lines[key]} too; expected ids that occur once: "
            "rename one, or delete one of the lines",
        )
    return key


def _titled(row: Mapping[str, Any], changed: Counter[str]) -> str:
    text = _text(row, "text", changed)
    if row.get("title") in (None, ""):
        return text
    return f"{clean.text('title', row['title'], changed)} {text}"


def _text(row: Mapping[str, Any], field: str, changed: Counter[str]) -> str:
    if field not in row:
        raise _missing(row, field)
    return clean.text(field, row[field], changed)


def _missing(row: Mapping[str, Any], field: str) -> BadRow:
    fix = meant(field, row, "add it, or delete the line")
    return BadRow(
        "no column", f"no {field!r}; found {listed(row)}; expected it in every row: {fix}"
    )


def _score(row: Mapping[str, Any], field: str) -> float:
    if field not in row:
        raise _missing(row, field)
    value = row[field]
    number = type(value) in (int, float) and abs(value) < 1e9  # excludes NaN and infinities too
    if not number or (field == "label" and value not in (0, 1)):
        raise BadRow(
            "bad score",
            f"{field} is {shown(value)} ({type_name(value)}); expected "
            + ("0 (unlike) or 1 (alike)" if field == "label" else "a number")
            + ", without quotes: correct it",
        )
    return float(value)
