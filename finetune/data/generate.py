"""The generate step: the domain's documents become training pairs."""

import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.choices import Source, Use
from finetune.config import Domain, Generate
from finetune.data import documents
from finetune.data.folding import folded
from finetune.data.leaks import LEAK
from finetune.data.synthesize import GENERATORS, synthesize
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

log = logging.getLogger(__name__)


def generate(
    settings: Generate, domain: Domain, data: Path, limit: int | None, seed: int, out: Path
) -> dict[str, Any]:
    """Write what the data step writes, but for the evaluation sets.

    Args:
        settings: What to make, and whether the domain's own pairs stay beside it.
        domain: Says where the documents are; without any, the corpus and the own positives are.
        data: Output of the data step.
        limit: Make at most this many pairs.
        seed: Of every choice.
        out: An existing folder.

    Raises:
        UserError: When the documents cannot be read, or give no pair.
    """
    own = list(read_jsonl(data / "train.jsonl", Pair))
    passages = _passages(domain, data, own)
    weights = {name: getattr(settings, name) for name in GENERATORS}
    count = min(each for each in (settings.pairs, limit, len(passages) * len(weights)) if each)
    made, leaks = _without_leaks(synthesize(passages, weights, count, seed), data)
    if not made:
        raise UserError(_nothing_made(weights, passages))
    pairs = [*own, *made] if settings.use is Use.join else made
    write_jsonl(out / "train.jsonl", pairs)
    shutil.copyfile(data / "known.jsonl", out / "known.jsonl")
    write_jsonl(out / "dropped.jsonl", leaks)
    summary = _summary(read_json(data / "summary.json"), pairs, leaks)
    write_json(out / "summary.json", summary)
    counts = sorted(Counter(pair.source.removeprefix("generated-") for pair in made).items())
    log.info("%s pairs made from %s passages: %s", f"{len(made):,}", f"{len(passages):,}",
             ", ".join(f"{count:,} {source}" for source, count in counts))  # fmt: skip
    return summary


def _passages(domain: Domain, data: Path, own: Sequence[Pair]) -> list[Passage]:
    if domain.documents is not None:
        return documents.read_documents(domain.documents.expanduser())
    if domain.source is Source.statutes:
        from finetune.data import statutes

        return statutes.passages(full=domain.full)
    corpora = sorted((data / "select").glob("*/corpus.jsonl"))
    texts = [row["text"] for corpus in corpora for row in read_dicts(corpus)]
    return documents.from_texts(list(dict.fromkeys([*texts, *(pair.positive for pair in own)])))


def _without_leaks(pairs: Sequence[Pair], data: Path) -> tuple[list[Pair], list[Dropped]]:
    """Leave out the pairs whose query is an evaluation query, in either script."""
    asked = {
        folded(row["text"]): f"{path.parent.name}: query {row['id']}"
        for path in data.glob("*/*/queries.jsonl")
        for row in read_dicts(path)
    }
    kept, dropped = [], []
    for pair in pairs:
        found = asked.get(folded(pair.query))
        if found is None:
            kept.append(pair)
        else:
            dropped.append(Dropped(LEAK, pair.source, 0, pair.query, found))
    return kept, dropped


def _summary(
    data: dict[str, Any], pairs: Sequence[Pair], leaks: Sequence[Dropped]
) -> dict[str, Any]:
    """The data step's summary with the pairs that training will see."""
    dropped = Counter(data["dropped"]) + Counter(row.reason for row in leaks)
    return data | {
        "pairs": len(pairs),
        "read": len(pairs) + sum(dropped.values()),
        "dropped": dict(sorted(dropped.items())),
        "sources": dict(sorted(Counter(pair.source for pair in pairs).items())),
    }


def _nothing_made(weights: dict[str, float], passages: Sequence[Passage]) -> str:
    used = [f"generate.{name}={weight:g}" for name, weight in weights.items() if weight]
    return (
        f"generate: {', '.join(used) or 'no generator has a weight'}: no pair made from "
        f"{len(passages):,} passages; expected at least one: give weight to phrases or cloze, "
        "which need neither titles nor headings"
    )
