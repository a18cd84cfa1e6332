"""Judgements of passages: lines of a query's id, a passage's id and a score, with tabs between."""

import re
from collections.abc import Iterator
from pathlib import Path

from finetune.data.lines import text_lines
from finetune.data.problems import Problems, excerpt, printable, shown
from finetune.records import Dropped

UNKNOWN_ID = "unknown id"  # why a judgement is dropped
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}(\.0*)?")
_NAME = re.compile(r"[^0-9]+")  # what a header calls the score


def unknown(key: str, kind: str) -> str:
    """Say that an id stands in no row of ``queries.jsonl`` or ``corpus.jsonl``."""
    return (
        f"id {shown(key)} is not in {kind}.jsonl; expected an id that is: correct it, or delete "
        "the line"
    )


def judgements(path: Path, problems: Problems) -> Iterator[tuple[int, str, str, int]]:
    """Yield line, query id, passage id and score of each line after the header, if it has one."""
    name = printable(str(path))
    first = True
    for number, line in text_lines(path, problems):
        cells = line.rstrip("\r\n").split("\t")
        if not line.strip():
            continue
        header = first and len(cells) == 3 and _NAME.fullmatch(cells[2].strip())
        first = False
        if header:
            continue
        if len(cells) != 3:
            problems.refuse(
                Dropped("another number of cells", name, number, excerpt(line.rstrip())),
                f"has {len(cells)} cell(s), {shown(line.rstrip())}; expected 3 with tabs between: "
                "query id, passage id, score",
            )
        elif not _INTEGER.fullmatch(cells[2].strip()):
            problems.refuse(
                Dropped("bad score", name, number, excerpt(line.rstrip())),
                f"score is {shown(cells[2])}; expected a whole number: 1 if the passage answers "
                "the query, 0 if not",
            )
        else:
            yield number, cells[0], cells[1], int(float(cells[2]))
