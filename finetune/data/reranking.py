"""Read the user's reranking folders: ``reranking.jsonl``, each query with its own candidates."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.data import beir, clean
from finetune.data.clean import BadRow
from finetune.data.lines import empty, existing, objects
from finetune.data.problems import Problems, listed, meant, printable, shown, type_name
from finetune.sets import RerankingSet

_SIDES = ("positive", "negative")


def read_folder(folder: Path) -> RerankingSet:
    """Read a reranking folder.

    A row holds ``query``, and in the lists ``positive`` and ``negative`` the candidates that answer
    it and those that do not. An ``id`` is taken where there is one.

    Raises:
        UserError: With every problem found.
    """
    path = existing(folder.expanduser() / beir.RERANKING)
    problems, changed = Problems(), Counter[str]()
    name = folder.resolve().name or "set"
    queries: dict[str, str] = {}
    ids: dict[str, str] = {}  # of the candidates' texts
    qrels: dict[str, dict[str, int]] = {}
    for line, row in objects(path, problems):
        try:
            key = clean.text("id", row["id"], changed) if "id" in row else f"{name}-{line}"
            if key in queries:
                raise BadRow("duplicate id", f"id {shown(key)} is there twice; expected ids that "
                             "occur once: rename one, or delete one of the lines")  # fmt: skip
            query, sides = _row(row, changed)
        except BadRow as error:
            problems.add(f"{printable(str(path))}:{line}: {error}")
            continue
        queries[key] = query
        qrels[key] = {
            ids.setdefault(text, f"d{len(ids) + 1}"): relevance
            for texts, relevance in zip(sides, (1, 0), strict=True)
            for text in texts
        }
    problems.check()
    if not queries:
        raise empty(printable(str(path)))
    corpus = {key: text for text, key in ids.items()}
    candidates = {key: tuple(found) for key, found in qrels.items()}
    return RerankingSet(name, queries, corpus, qrels, candidates)


def _row(row: Mapping[str, Any], changed: Counter[str]) -> tuple[str, list[list[str]]]:
    """Return the query, what answers it and what does not."""
    for field in ("query", *_SIDES):
        if field not in row:
            fix = meant(field, row, "add it, or delete the line")
            raise BadRow(
                "no column", f"no {field!r}; found {listed(row)}; expected it in every row: {fix}"
            )
    query = clean.text("query", row["query"], changed)
    sides = []
    for field in _SIDES:
        value = row[field]
        if not isinstance(value, list) or not value:
            raise BadRow(
                "not text",
                f"{field} is {shown(value)} ({type_name(value)}); expected a list of at least one "
                'text: ["text", "text"]',
            )
        sides.append(list(dict.fromkeys(clean.text(field, text, changed) for text in value)))
    both = sorted(set(sides[0]) & set(sides[1]))
    if both:
        raise BadRow(
            "negative equals positive",
            f"{shown(both[0])} stands in negative and in positive; expected texts that do not "
            "answer the query: delete it from one of the two",
        )
    return query, sides
