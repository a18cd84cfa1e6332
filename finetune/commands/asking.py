"""``finetune split`` of documents alone: passages to ask about, and the questions that came of it.

Nobody's documents say what people ask. The first call cuts them into a corpus and draws passages
into a table, where somebody writes the questions; the second makes the evaluation set of both.
"""

import csv
import random
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path

from finetune.data import clean
from finetune.data.beir import texts
from finetune.data.clean import BadRow
from finetune.data.documents import read_documents
from finetune.data.folding import folded
from finetune.data.holdout import FEWEST
from finetune.data.problems import Problems, listed, shown
from finetune.data.tables import open_table
from finetune.errors import UserError
from finetune.records import Passage, write_jsonl
from finetune.sets import EvaluationSet, write_set

QUESTIONS, CORPUS = "questions.csv", "corpus.jsonl"
_COLUMNS = ("query", "positive-id", "passage")
_DRAWN = 200  # passages


def draw(folder: Path, out: Path, dev: Path, queries: int | None, seed: int) -> str:
    """Write the corpus and the table; say what to do with it.

    Args:
        folder: Of documents.
        out: For the table.
        dev: For the corpus.
        queries: How many passages to draw; None takes 200.
        seed: Of the draw.

    Raises:
        UserError: There is too little to ask about.
    """
    first: dict[str, Passage] = {}  # by text
    for passage in read_documents(folder, dropped=[]):
        first.setdefault(passage.text, passage)
    passages = list(first.values())
    wanted = _DRAWN if queries is None else queries
    if wanted < FEWEST:
        raise UserError(f"--queries {wanted}: is too few to measure with; draw at least {FEWEST}")
    if len(passages) < FEWEST:
        raise UserError(
            f"{folder}: holds {len(passages)} different passages; expected at least {FEWEST}, to "
            "ask a question about each"
        )
    dev.mkdir(parents=True)
    corpus = {f"p{number}": passage.text for number, passage in enumerate(passages, 1)}
    with (out / QUESTIONS).open("w", encoding="utf-8-sig", newline="") as file:  # Excel's UTF-8
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        drawn = sorted(islice(_spread(passages, seed), wanted))
        table.writerows(["", f"p{place + 1}", passages[place].text] for place in drawn)
    write_jsonl(dev / CORPUS, ({"id": key, "text": text} for key, text in corpus.items()))
    written = out / QUESTIONS
    return "\n".join([
        f"{dev / CORPUS}: {len(corpus):,} passages",
        f"{written}: {len(drawn):,} of them, without a question",
        f"next: write into each row of {written} a question that a person would ask and its "
        "passage answers; leave it empty where none comes to mind. Then",
        "  finetune split " + shlex.join([str(written), "--out", str(out)]),
        f"  {_training(shlex.quote(str(folder)), dev)}",
    ])  # fmt: skip


def collect(table: Path, dev: Path) -> str:
    """Write the questions of the table beside the corpus; say what to type next.

    Raises:
        UserError: With every row that names no passage; when there are too few questions.
    """
    problems = Problems()
    corpus = texts(dev, CORPUS, problems, Counter())
    problems.check()
    asked: dict[str, tuple[str, str]] = {}  # id and text by what all its forms share
    qrels: dict[str, dict[str, int]] = {}
    for query, key in _rows(table, corpus, problems):
        number, _ = asked.setdefault(folded(query), (f"q{len(asked) + 1}", query))
        qrels.setdefault(number, {})[key] = 1
    problems.check()
    if len(asked) < FEWEST:
        raise UserError(
            f"{table}: {f'{len(asked)} different question(s)' if asked else 'no question'} filled "
            f"in; expected at least {FEWEST}: write them into the column query"
        )
    write_set(dev, EvaluationSet(dev.name, dict(asked.values()), corpus, qrels))
    return "\n".join([
        f"{dev}: {len(asked):,} queries, {len(corpus):,} passages; half of them choose, half "
        "report",
        f"next: {_training('<folder of documents>', dev)}",
    ])  # fmt: skip


def _rows(path: Path, corpus: dict[str, str], problems: Problems) -> Iterator[tuple[str, str]]:
    """Yield question and passage id of the rows that somebody filled in."""
    table = open_table(path, problems)
    wanted = _COLUMNS[:2]
    if missing := [name for name in wanted if name not in table.columns]:
        raise UserError(
            f"{table.name}: no column {' and '.join(map(shown, missing))}; found "
            f"{listed(table.columns)}; expected the table that finetune split <documents> wrote"
        )
    for line, row in table.rows(wanted):
        query, key = (row.get(name) for name in wanted)
        if query is None or (isinstance(query, str) and not query.strip()):
            continue
        try:
            query = clean.text("query", query, Counter())
        except BadRow as error:
            problems.add(f"{table.name}:{line}: {error}")
            continue
        if isinstance(key, str) and key in corpus:
            yield query, key
        else:
            problems.add(
                f"{table.name}:{line}: positive-id {shown(key)} is not in {CORPUS}; expected the "
                "id that stood there: correct it, or empty the row's query"
            )


def _spread(passages: Sequence[Passage], seed: int) -> Iterator[int]:
    """Yield places of passages: one of each document, then a second one, and so on."""
    draw = random.Random(seed)
    documents: dict[str, list[int]] = defaultdict(list)
    for place, passage in enumerate(passages):
        documents[passage.id.rpartition("#")[0]].append(place)
    piles = list(documents.values())
    draw.shuffle(piles)
    for pile in piles:
        draw.shuffle(pile)
    for turn in zip_longest(*piles):
        yield from (place for place in turn if place is not None)


def _training(documents: str, dev: Path) -> str:
    line = f"python train.py recipes=documents domain=custom domain.documents={documents}"
    return f"{line} {shlex.quote(f'domain.dev={dev}')}"
