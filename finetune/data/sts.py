"""Read the user's STS-shaped folders, strictly: pairs of sentences with a label or a score."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.data.beir import SHAPES, SPLITS, is_file, kind, names_in
from finetune.data.clean import BadRow
from finetune.data.identified import missing, text
from finetune.data.lines import empty, ending, existing, objects
from finetune.data.problems import Problems, printable, shown, type_name
from finetune.errors import UserError
from finetune.records import Scored
from finetune.sets import ScoredSet


def splits(path: Path) -> tuple[str, ...]:
    """Return which of ``test`` and ``dev`` an STS-shaped folder has; a file is ``test``.

    Raises:
        UserError: When it is no STS-shaped folder.
    """
    if kind(path) != "sts":
        raise UserError(
            f"{printable(str(path))}: is a retrieval set, on which domains of pairs "
            f"(domain.kind=pairs) are evaluated; {SHAPES}"
        )
    there = () if is_file(path) else names_in(path)
    found = tuple(s for s in SPLITS if {f"{s}.jsonl", f"{s}.jsonl.gz"} & set(there))
    return found or SPLITS[:1]


def read(path: Path, split: str | None = None) -> ScoredSet:
    """Read a split of an STS-shaped folder (else ``test``, else ``dev``), or such a file itself.

    Raises:
        UserError: With every problem found.
    """
    file, name = _file(path, split)
    problems = Problems()
    changed: Counter[str] = Counter()
    rows: list[Scored] = []
    field = ""
    for line, row in objects(file, problems):
        field = field or ("score" if "score" in row and "label" not in row else "label")
        try:
            a, b = (text(row, side, changed) for side in ("sentence1", "sentence2"))
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


def _file(path: Path, split: str | None) -> tuple[Path, str]:
    """Return the file to read and the name of the set."""
    if is_file(path) or ending(path) == ".jsonl":
        return existing(path), printable(path.name.split(".")[0])
    folder = path.expanduser()
    return existing(folder / f"{split or splits(path)[0]}.jsonl"), printable(folder.resolve().name)


def _score(row: Mapping[str, Any], field: str) -> float:
    if field not in row:
        raise missing(row, field)
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
