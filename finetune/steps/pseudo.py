"""Pseudo-labels: queries without an answer are paired with what BM25 and the base both rank first.

The two err for different reasons, BM25 on other words for the same, a vector on the words that
matter; a passage that both prefer to all others is seldom wrong by chance. Where they differ, the
query is left out. The passages are those that negatives come from: the evaluation corpus, as texts
that nobody has labelled, the positives, and ``domain.documents``.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from finetune.config import Config
from finetune.config.choices import Kind, Use
from finetune.disk import rows
from finetune.errors import UserError
from finetune.records import Dropped, Pair, normalised, read_jsonl, write_jsonl
from finetune.sets import all_sets
from finetune.stage import Inputs, Settings, Step

log = logging.getLogger(__name__)

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
        UserError: There is no such file, or there are no such documents.
    """
    from finetune.data.documents import existing_documents
    from finetune.data.lines import existing

    path, documents = config.domain.queries, config.domain.documents
    files = {"queries": existing(path)} if path is not None else {}  # told by `missing`
    if documents is not None:
        files["documents"] = existing_documents(documents)
    evaluated = {"sets": "sets"} | ({"general": "general"} if general else {})
    read = Step("queries", queries, 10, {"check": config.check}, evaluated | {"pairs": own}, files)
    pair = Step(
        "pseudo", pseudo, 5,
        {"pseudo": config.pseudo, "check": config.check, "limit": config.limit,
         "seed": config.seed},
        evaluated | {"queries": "queries", "embed": "embed", "pairs": own},
        outside={"model": config.model},
    )  # fmt: skip
    return read, pair


def queries(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Read the queries, and the documents beside the corpus that may answer them."""
    from finetune.data.documents import read_documents
    from finetune.data.queries import read_queries

    own = rows(inputs["pairs"] / "train.jsonl", Pair)
    asked = all_sets(inputs["sets"], inputs.get("general"))
    found, dropped = read_queries(inputs["queries"], settings["check"], own, asked)
    passages = read_documents(inputs["documents"]) if "documents" in inputs else []
    write_jsonl(out / "queries.jsonl", found)
    write_jsonl(out / "passages.jsonl", ({"text": each.indexed} for each in passages))
    write_jsonl(out / "dropped.jsonl", dropped)


def pseudo(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Pair the queries, beside the own pairs or in place of them.

    Raises:
        UserError: No query has an answer.
    """
    from finetune.data import made
    from finetune.data.loaded import Loaded
    from finetune.data.queries import Query

    given = list(read_jsonl(inputs["queries"] / "queries.jsonl", Query))
    found = paired([each.text for each in given], inputs["embed"])
    origin = given[0].source
    lines = {pair.id: given[row].line for row, pair in found.items()}
    asked = all_sets(inputs["sets"], inputs.get("general"))
    loaded = Loaded(list(found.values()), (), report=asked, origin=origin, lines=lines)
    looked = made.look(loaded, settings["check"], settings["model"], out)
    if not looked.pairs:
        leaks = f" ({len(found):,} are leaks)" if found else ""
        raise UserError(
            f"domain.queries: for none of {len(given):,} queries BM25 and the base model find the "
            f"same passage{leaks}; name the documents that answer them: domain.documents=<folder>"
        )
    most = settings["pseudo"].pairs, settings["limit"], len(looked.pairs)
    order = np.random.default_rng(settings["seed"]).permutation(len(looked.pairs))
    chosen = set(order[: min(each for each in most if each)].tolist())
    pairs = [pair for row, pair in enumerate(looked.pairs) if row in chosen]
    rest = [pair for row, pair in enumerate(looked.pairs) if row not in chosen]
    different = [each for row, each in enumerate(given) if row not in found]
    dropped = [
        *read_jsonl(inputs["queries"] / "dropped.jsonl", Dropped),
        *(Dropped(DIFFERENT, origin, each.line, each.text) for each in different),
        *looked.dropped,
        *(Dropped(LIMIT, origin, lines[pair.id], pair.query) for pair in rest),
    ]
    own = list(read_jsonl(inputs["pairs"] / "train.jsonl", Pair))
    told = {"queries": len(given), "paired": len(pairs), "as": _some(pairs)}
    made.write(replace(looked, pairs=pairs, dropped=dropped), own, inputs["pairs"],
               settings["pseudo"].use, "pseudo.use", out, {"pseudo": told})  # fmt: skip
    log.info("%s of %s queries paired, as: %s", f"{len(found):,}", f"{len(given):,}", _some(pairs))


def paired(given: Sequence[str], embedded: Path) -> dict[int, Pair]:
    """Pair each query with the passage that both rank first.

    Args:
        given: Queries, all among those of the embed step.
        embedded: What that step made.

    Returns:
        The pairs by their queries' places; of a query for which the two differ, or that is itself
        the passage, there is none.
    """
    from finetune.embedded import vectors_of
    from finetune.evaluation import bm25
    from finetune.inference import top_k

    vectors, pool = vectors_of(embedded, given)
    near = np.concatenate([top_k(vectors[start : start + _BLOCK], pool.vectors, 1)[1][:, 0]
                           for start in range(0, len(given), _BLOCK)])  # fmt: skip
    found = {}
    lexical = bm25.first(given, pool.texts)
    for row, (text, one, other) in enumerate(zip(given, near, lexical, strict=True)):
        answer = pool.texts[int(one)]
        if one == other and normalised(answer) != normalised(text):
            found[row] = Pair(f"{SOURCE}-{row}", text, answer, SOURCE)
    return found


def _some(made: Sequence[Pair]) -> str:
    """A few of the pairs, for the log and the report."""
    return " | ".join(f"{pair.query[:_WIDTH]} → {pair.positive[:_WIDTH]}" for pair in made[:_SHOWN])
