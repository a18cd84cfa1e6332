"""The generate step: the domain's documents become training pairs."""

import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.config import Domain, Generate
from finetune.config.choices import Leak, Source, Use
from finetune.config.writing import wanted
from finetune.data import documents, leaks
from finetune.data.folding import folded
from finetune.data.leaks import DROPPED, LEAK
from finetune.data.synthesize import GENERATORS, synthesize
from finetune.data.written import SOURCE, Writing, write
from finetune.errors import UserError
from finetune.records import (
    Dropped,
    Pair,
    Passage,
    read_dicts,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from finetune.sets import read_set

log = logging.getLogger(__name__)

# Pairs by rule that are asked of a passage at most, also where few rules are at work: one alone may
# find several in it.
_RULED = 7


def generate(
    settings: Generate,
    domain: Domain,
    data: Path,
    limit: int | None,
    seed: int,
    out: Path,
    writing: Writing | None = None,
) -> dict[str, Any]:
    """Write what the data step writes, but for the evaluation sets.

    Args:
        settings: What to make, and whether the domain's own pairs stay beside it.
        domain: Says where the documents are; without any, the corpus and the own positives are.
        data: Output of the data step.
        limit: Make at most this many pairs.
        seed: Of every choice.
        out: An existing folder.
        writing: An endpoint that writes queries too.

    Raises:
        UserError: When the documents cannot be read, or give no pair; when the endpoint fails.
    """
    own = list(read_jsonl(data / "train.jsonl", Pair))
    passages = _passages(domain, data, own)
    weights = {name: getattr(settings, name) for name in GENERATORS}
    most = max(_RULED, sum(weight > 0 for weight in weights.values()))
    most += writing.writer.queries if writing else 0
    count = min(each for each in (settings.pairs, limit, len(passages) * most) if each)
    made, told = _make(passages, weights, count, seed, writing)
    made, leaked = _without_leaks(made, data, writing)
    if not made:
        raise UserError(_nothing_made(weights, passages, told))
    pairs = [*own, *made] if settings.use is Use.join else made
    write_jsonl(out / "train.jsonl", pairs)
    shutil.copyfile(data / "known.jsonl", out / "known.jsonl")
    write_jsonl(out / "dropped.jsonl", leaked)
    summary = _summary(read_json(data / "summary.json"), pairs, leaked) | told
    write_json(out / "summary.json", summary)
    counts = sorted(Counter(pair.source.removeprefix("generated-") for pair in made).items())
    log.info("%s pairs made from %s passages: %s", f"{len(made):,}", f"{len(passages):,}",
             ", ".join(f"{count:,} {source}" for source, count in counts))  # fmt: skip
    return summary


def _make(
    passages: Sequence[Passage],
    weights: Mapping[str, float],
    count: int,
    seed: int,
    writing: Writing | None,
) -> tuple[list[Pair], dict[str, Any]]:
    """Make pairs by rule, and have others written; say what came of the latter."""
    if writing is None:
        return synthesize(passages, weights, count, seed), {}
    asked = wanted(count, writing.writer.share, sum(weights.values()))
    pairs, told = write(writing, passages, asked, seed)
    ruled = synthesize(passages, weights, count - asked, seed) if count > asked else []
    return [*ruled, *pairs], {"written": {"queries": len(pairs), **told}}


def _passages(domain: Domain, data: Path, own: Sequence[Pair]) -> list[Passage]:
    if domain.documents is not None:
        return documents.read_documents(domain.documents.expanduser())
    if domain.source is Source.statutes:
        from finetune.data import statutes

        return statutes.passages(full=domain.full)
    corpora = sorted((data / "select").glob("*/corpus.jsonl"))
    texts = [row["text"] for corpus in corpora for row in read_dicts(corpus)]
    return documents.from_texts(list(dict.fromkeys([*texts, *(pair.positive for pair in own)])))


def _without_leaks(
    pairs: Sequence[Pair], data: Path, writing: Writing | None
) -> tuple[list[Pair], list[Dropped]]:
    """Leave out the pairs whose query is an evaluation query, in either script.

    What a model wrote must not come near one either: it may have read them.
    """
    asked = {
        folded(row["text"]): f"{path.parent.name}: query {row['id']}"
        for path in data.glob("*/*/queries.jsonl")
        for row in read_dicts(path)
    }
    nearly: leaks.Suspects = {}
    if writing is not None:
        written = [pair for pair in pairs if pair.source == SOURCE]
        sets = [read_set(file.parent) for file in sorted(data.glob("*/*/queries.jsonl"))]
        nearly = leaks.find(written, sets, writing.near)
    kept, dropped = [], []
    for pair in pairs:
        place = asked.get(folded(pair.query))
        reason, found = (LEAK, place) if place else nearly.get(pair.id, ("", ""))
        if reason in DROPPED[Leak.default]:
            dropped.append(Dropped(reason, pair.source, 0, pair.query, found))
        else:
            kept.append(pair)
    return kept, dropped


def _summary(
    data: dict[str, Any], pairs: Sequence[Pair], leaked: Sequence[Dropped]
) -> dict[str, Any]:
    """The data step's summary with the pairs that training will see."""
    dropped = Counter(data["dropped"]) + Counter(row.reason for row in leaked)
    return data | {
        "pairs": len(pairs),
        "read": len(pairs) + sum(dropped.values()),
        "dropped": dict(sorted(dropped.items())),
        "sources": dict(sorted(Counter(pair.source for pair in pairs).items())),
    }


def _nothing_made(
    weights: Mapping[str, float], passages: Sequence[Passage], told: Mapping[str, Any]
) -> str:
    used = [f"generate.{name}={weight:g}" for name, weight in weights.items() if weight]
    used += [f"{name} {counts}" for name, counts in told.items()]
    return (
        f"generate: {', '.join(used) or 'no generator has a weight'}: no pair made from "
        f"{len(passages):,} passages; expected at least one: give weight to phrases or cloze, "
        "which need neither titles nor headings"
    )
