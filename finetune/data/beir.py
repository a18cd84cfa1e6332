"""Tell the shapes of the user's evaluation folders, and read the BEIR-shaped, strictly."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from finetune.data.clean import BadRow
from finetune.data.identified import id_of, titled
from finetune.data.lines import beside, empty, names, objects, reason
from finetune.data.problems import Problems, listed, meant, printable, shown
from finetune.data.qrels import judgements, unknown
from finetune.errors import UserError
from finetune.sets import EvaluationSet

log = logging.getLogger(__name__)

_FILES = ("corpus.jsonl", "queries.jsonl", "qrels.tsv")
_TRAIN = "qrels/train.tsv"
RERANKING = "reranking.jsonl"
SPLITS = ("test", "dev")
_STS_FILES = tuple(f"{split}.jsonl" for split in SPLITS)
SHAPES = (
    "expected a retrieval set (corpus.jsonl and queries.jsonl with id and text, qrels.tsv, or "
    "BEIR's qrels/test.tsv, with query id, passage id and score), a reranking set "
    "(reranking.jsonl with query, positive and negative, the two lists of texts), or a similarity "
    "set (test.jsonl or dev.jsonl with sentence1, sentence2 and label or score); each may be .gz"
)

Qrels = dict[str, dict[str, int]]


def kind(folder: Path, key: str = "") -> str:
    """Say which shape a folder has: ``beir``, ``reranking`` or ``sts`` (a file is ``sts``).

    Args:
        folder: What is looked at.
        key: Before its name in messages: ``domain.dev=``.

    Raises:
        UserError: When it has none.
    """
    if is_file(folder):
        return "sts"
    there = names_in(folder, key)
    for shape, files in (("beir", _FILES), ("reranking", (RERANKING,)), ("sts", _STS_FILES)):
        if any(name in there or f"{name}.gz" in there for name in files):
            return shape
    raise UserError(f"{key}{printable(str(folder))}: holds {listed(there)}; {SHAPES}")


def read_folder(folder: Path) -> EvaluationSet:
    """Read what a BEIR-shaped folder tests, or where it tests nothing, its ``dev`` split.

    Raises:
        UserError: With every problem in its files.
    """
    return next(iter(read_splits(folder).values()))


def read_splits(folder: Path, key: str = "") -> dict[str, EvaluationSet]:
    """Read the splits of a BEIR-shaped folder: ``test``, ``dev`` or both, in this order.

    ``qrels.tsv`` is ``test``. Where it is not there, ``qrels/test.tsv`` and ``qrels/dev.tsv`` are
    read, as BEIR has them, which share passages and queries. Ids may be called ``id`` or ``_id``; a
    ``title`` is put before the ``text``, with a space between. The header of the judgements may be
    missing. Queries without a relevant passage cannot be scored and are left out, with a warning
    that counts them, as are passages without text that answer nothing.

    Args:
        folder: What is read.
        key: As of `kind`.

    Raises:
        UserError: With every problem in all files.
    """
    if kind(folder, key) != "beir":
        around = [each for each in folder.parents[:2] if _packed(each, _FILES[0])]
        if is_file(folder) and around:
            raise UserError(
                f"{key}{printable(str(folder))}: is a file; name the folder: "
                f"{key}{printable(str(around[0]))}"
            )
        raise UserError(
            f"{key}{printable(str(folder))}: is a similarity set, on which domains of scored pairs "
            f"(domain.kind=scored) are evaluated; {SHAPES}"
        )
    problems = Problems()
    changed: Counter[str] = Counter()
    empty_ones: dict[str, str] = {}
    corpus = texts(folder, "corpus.jsonl", problems, changed, empty_ones)
    queries = texts(folder, "queries.jsonl", problems, changed)
    files = _judged(folder)
    qrels = {split: _qrels(folder, file, queries, corpus, problems)
             for split, file in files.items()}  # fmt: skip
    answers = {passage for split in qrels.values() for scores in split.values()
               for passage, score in scores.items() if score > 0}  # fmt: skip
    for passage in empty_ones.keys() & answers:
        problems.add(empty_ones[passage])
    problems.check()
    name = folder.resolve().name or "set"
    if empty_ones:
        log.warning("%s: %s passages have no text, answer nothing and are left out", name,
                    f"{len(empty_ones):,}")  # fmt: skip
        for passage in empty_ones:
            del corpus[passage]
            for scores in (scores for split in qrels.values() for scores in split.values()):
                scores.pop(passage, None)
    for what, count in sorted(changed.items()):
        log.info("%s: %s in %s texts", name, what, f"{count:,}")
    found = {}
    for split, each in qrels.items():
        answered = {query for query, scores in each.items() if max(scores.values(), default=0) > 0}
        # Where there are several splits, the queries of all of them stand in one file.
        unjudged = len(queries if files[split] == _FILES[2] else each) - len(answered)
        if unjudged:
            log.warning("%s: %s queries have no relevant passage in %s and are left out", name,
                        f"{unjudged:,}", files[split])  # fmt: skip
        found[split] = EvaluationSet(name, queries, corpus, each).only(answered)
    return found


def judged(folder: Path) -> dict[str, set[str]]:
    """The queries of each split that a passage answers, whatever else is wrong with the folder.

    Raises:
        UserError: Its judgements are not there.
    """
    found = {}
    for split, file in _judged(folder).items():
        rows = judgements(_find(folder, file), Problems())
        found[split] = {query for _, query, _, score in rows if score > 0}
    return found


def _judged(folder: Path) -> dict[str, str]:
    """The file of judgements of each split; ``qrels.tsv`` where none has one of its own."""
    splits = {split: f"qrels/{split}.tsv" for split in SPLITS}
    there = {split: file for split, file in splits.items() if _packed(folder, file)}
    return there if there and not _packed(folder, _FILES[2]) else {SPLITS[0]: _FILES[2]}


def _packed(folder: Path, name: str) -> list[Path]:
    """A file that is there, by itself, packed, or both."""
    folder = folder.expanduser()
    return [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]


def is_file(path: Path) -> bool:
    """Whether a path, whatever is in it, is that of a file."""
    try:
        return path.expanduser().is_file()
    except (OSError, RuntimeError):  # too long, no such home
        return False


def names_in(folder: Path, key: str = "") -> list[str]:
    """The names in a folder, called as `kind` does.

    Raises:
        UserError: When it is none.
    """
    where = f"{key}{printable(str(folder))}"
    try:
        return names(folder.expanduser())
    except (FileNotFoundError, NotADirectoryError) as error:
        near = meant(folder.name, beside(folder.expanduser()), "correct the path.")
        raise UserError(
            f"{where}: no such folder; {near} It holds corpus.jsonl, queries.jsonl and qrels.tsv "
            "(of scored pairs test.jsonl). None yet: finetune split <pairs> --out own"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:  # not allowed, NUL in the name, no home
        raise UserError(f"{where}: no such folder ({reason(error)})") from error


def _find(folder: Path, name: str) -> Path:
    """Return the path of a file, packed or not.

    Raises:
        UserError: When it is not there, or twice.
    """
    found = _packed(folder, name)
    where = printable(str(folder.expanduser()))
    if len(found) == 2:
        raise UserError(f"{where}: has {name} and {name}.gz; delete the one that is out of date")
    if not found and name == _FILES[2] and _packed(folder, _TRAIN):
        raise UserError(
            f"{where}: has only judgements that are trained on, {_TRAIN}; expected qrels.tsv, "
            "qrels/test.tsv or qrels/dev.tsv, of other queries: name another folder, or hold some "
            "queries out (finetune split)"
        )
    if not found:
        raise UserError(
            f"{where}/{name}: no such file; the folder holds {listed(names_in(folder))}; "
            f"expected {', '.join(_FILES)} (each may be .gz)"
        )
    return found[0]


def texts(
    folder: Path,
    name: str,
    problems: Problems,
    changed: Counter[str],
    empty_ones: dict[str, str] | None = None,
) -> dict[str, str]:
    """Read the texts of ``corpus.jsonl`` or ``queries.jsonl`` by id; nothing if it is not there.

    Args:
        folder: Where the file is, packed or not.
        name: Of the file.
        problems: Where what is wrong is collected.
        changed: Where changes are counted, by kind.
        empty_ones: Gets what is wrong with each empty text, by id, instead of ``problems``.
    """
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    before = problems.count
    try:
        path = _find(folder, name)
        for line, row in objects(path, problems):
            key = ""  # until the row is known to have one
            try:
                key = id_of(row, lines, changed)
                lines[key] = line
                texts[key] = ""  # known to qrels.tsv even when the text is bad
                texts[key] = titled(row, changed)
            except BadRow as error:
                told = f"{printable(str(path))}:{line}: {error}"
                if (
                    empty_ones is not None
                    and error.reason == "empty text"
                    and lines.get(key) == line
                ):
                    empty_ones[key] = told
                else:
                    problems.add(told)
        if not lines and problems.count == before:
            raise empty(printable(str(path)))
    except UserError as error:
        problems.include(error)
    return texts


def _qrels(
    folder: Path,
    file: str,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    problems: Problems,
) -> Qrels:
    """Read the relevance of passages by query; ids are checked where there are any to check."""
    qrels: Qrels = {}
    before = problems.count
    try:
        path = _find(folder, file)
        for number, query, document, score in judgements(path, problems):
            place = f"{printable(str(path))}:{number}"
            for text_id, known, kind in ((query, queries, "queries"), (document, corpus, "corpus")):
                if known and text_id not in known:
                    problems.add(f"{place}: {unknown(text_id, kind)}")
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
