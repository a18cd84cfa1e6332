"""Pseudo-labels: queries without an answer are paired with what BM25 and the base both rank first.

The two err for different reasons, BM25 on other words for the same, a vector on the words that
matter; a passage that both prefer to all others is seldom wrong by chance. Where they differ, the
query is left out. The passages are those that negatives come from: the evaluation corpus, as texts
that nobody has labelled, the positives, and ``domain.documents``.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config import Config
from finetune.config.choices import Kind, Use
from finetune.disk import rows, texts
from finetune.errors import UserError
from finetune.records import (
    Dropped,
    Pair,
    normalised,
    read_json,
    read_jsonl,
    read_known,
    write_json,
    write_jsonl,
)
from finetune.stage import Step

log = logging.getLogger(__name__)

Settings = Mapping[str, Any]
Inputs = Mapping[str, Path]

SOURCE = "pseudo"
DIFFERENT = "BM25 and the base model find different passages"
LIMIT = "limit"
_BLOCK = 4096  # queries at a time
_SHOWN, _WIDTH = 5, 30  # pairs that are shown, and characters of each text


def asked(config: Config) -> bool:
    """True where queries are to be given answers."""
    return config.pseudo.use is not Use.none and config.domain.kind is Kind.pairs


def missing(config: Config) -> Iterator[str]:
    """Say that there is no file of queries."""
    if asked(config) and config.domain.queries is None:
        yield (
            "domain.queries: not set; name a file of queries without an answer: .txt with one a "
            "line, or rows with a text"
        )


def steps_of(config: Config, own: str, general: Path | None) -> tuple[Step, Step]:
    """The step that reads the queries, and the one that pairs them once they are embedded.

    Raises:
        UserError: There is no such file.
    """
    from finetune.data.lines import existing

    path, documents = config.domain.queries, config.domain.documents
    files = {"queries": existing(path)} if path is not None else {}  # told by `missing`
    if documents is not None:
        files["documents"] = documents.expanduser()
    evaluated = {"data": "data"} | ({"general": "general"} if general else {})
    read = Step(
        "queries", queries, 2,
        {"bad_rows": config.check.bad_rows, "near": config.check.near},
        evaluated | {"pairs": own}, files,
    )  # fmt: skip
    pair = Step(
        "pseudo", pseudo, 1,
        {"pseudo": config.pseudo, "limit": config.limit, "seed": config.seed},
        {"queries": "queries", "embed": "embed", "pairs": own},
    )  # fmt: skip
    return read, pair


def queries(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Read the queries, and the documents beside the corpus that may answer them."""
    from finetune.data.documents import read_documents
    from finetune.data.mix import evaluation_sets
    from finetune.data.queries import read_queries

    evaluated = [inputs[name] for name in ("data", "general") if name in inputs]
    found, dropped = read_queries(
        inputs["queries"], settings["bad_rows"], rows(inputs["pairs"] / "train.jsonl", Pair),
        [each for folder in evaluated for each in evaluation_sets(folder)], settings["near"],
    )  # fmt: skip
    passages = read_documents(inputs["documents"]) if "documents" in inputs else []
    write_jsonl(out / "queries.jsonl", ({"text": text} for text in found))
    write_jsonl(out / "passages.jsonl", ({"text": each.indexed} for each in passages))
    write_jsonl(out / "dropped.jsonl", dropped)


def pseudo(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Pair the queries, beside the own pairs or in place of them.

    Raises:
        UserError: No query has an answer.
    """
    given = texts(inputs["queries"] / "queries.jsonl")
    own = list(read_jsonl(inputs["pairs"] / "train.jsonl", Pair))
    found, left_out = paired(given, inputs["embed"])
    if not found:
        raise UserError(
            f"domain.queries: for none of {len(given):,} queries BM25 and the base model find the "
            "same passage; name the documents that answer them: domain.documents=<folder>"
        )
    count = min(each for each in (settings["pseudo"].pairs, settings["limit"], len(found)) if each)
    order = np.random.default_rng(settings["seed"]).permutation(len(found))
    chosen = set(order[:count].tolist())
    made = [pair for row, pair in enumerate(found) if row in chosen]
    rest = [pair for row, pair in enumerate(found) if row not in chosen]
    only = settings["pseudo"].use is Use.only
    pairs = made if only else [*own, *made]
    # What is known to answer a query is nobody's hard negative.
    write_jsonl(out / "train.jsonl", pairs)
    write_jsonl(out / "known.jsonl", [*read_known(inputs["pairs"]), *(own if only else ())])
    dropped = [
        *read_jsonl(inputs["queries"] / "dropped.jsonl", Dropped),
        *(Dropped(DIFFERENT, SOURCE, 0, text) for text in left_out),
        *(Dropped(LIMIT, SOURCE, 0, pair.query) for pair in rest),
    ]
    write_jsonl(out / "dropped.jsonl", dropped)
    write_json(out / "summary.json", _summary(read_json(inputs["pairs"] / "summary.json"), pairs,
                                              len(given), made, dropped))  # fmt: skip
    log.info("%s of %s queries paired, as: %s", f"{len(found):,}", f"{len(given):,}", _some(made))


def paired(given: Sequence[str], embedded: Path) -> tuple[list[Pair], list[str]]:
    """Pair each query with the passage that both rank first.

    Args:
        given: Queries, all among those of the embed step.
        embedded: What that step made.

    Returns:
        The pairs, and the queries for which the two differ, or that are themselves the passage.
    """
    from finetune.embedded import vectors_of
    from finetune.evaluation import bm25
    from finetune.inference import top_k

    vectors, pool = vectors_of(embedded, given)
    near = np.concatenate([top_k(vectors[start : start + _BLOCK], pool.vectors, 1)[1][:, 0]
                           for start in range(0, len(given), _BLOCK)])  # fmt: skip
    found, left_out = [], []
    lexical = bm25.first(given, pool.texts)
    for row, (text, one, other) in enumerate(zip(given, near, lexical, strict=True)):
        answer = pool.texts[int(one)]
        if one == other and normalised(answer) != normalised(text):
            found.append(Pair(f"{SOURCE}-{row}", text, answer, SOURCE))
        else:
            left_out.append(text)
    return found, left_out


def _summary(
    own: Mapping[str, Any], pairs: Sequence[Pair], given: int, made: Sequence[Pair],
    dropped: Sequence[Dropped],
) -> dict[str, Any]:  # fmt: skip
    """The summary of the own pairs, with the pairs that training will see."""
    reasons = Counter(own["dropped"]) + Counter(row.reason for row in dropped)
    return {
        **own,
        "pairs": len(pairs),
        "read": len(pairs) + sum(reasons.values()),
        "dropped": dict(sorted(reasons.items())),
        "sources": dict(sorted(Counter(pair.source for pair in pairs).items())),
        "pseudo": {"queries": given, "paired": len(made), "as": _some(made)},
    }


def _some(made: Sequence[Pair]) -> str:
    """A few of the pairs, for the log and the report."""
    return " | ".join(f"{pair.query[:_WIDTH]} → {pair.positive[:_WIDTH]}" for pair in made[:_SHOWN])
