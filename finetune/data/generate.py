"""The generate step: the domain's documents become training pairs."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.config import Model
from finetune.config.choices import BadRows, Source
from finetune.config.pairs import Check, Domain, Generate
from finetune.config.writing import wanted
from finetune.data import documents, made
from finetune.data.loaded import Loaded
from finetune.data.synthesize import GENERATORS, synthesize
from finetune.data.written import Writing, write
from finetune.errors import UserError
from finetune.records import Dropped, Pair, Passage, read_jsonl
from finetune.sets import AnySet, EvaluationSet, Halves

log = logging.getLogger(__name__)

# Pairs by rule that are asked of a passage at most, also where few rules are at work: one alone may
# find several in it.
_RULED = 7


def generate(
    settings: Generate,
    domain: Domain,
    check: Check,
    data: Path,
    halves: Halves,
    limit: int | None,
    seed: int,
    out: Path,
    model: Model | None = None,
    writing: Writing | None = None,
) -> dict[str, Any]:
    """Write what the data step writes.

    Args:
        settings: What to make, and whether the domain's own pairs stay beside it.
        domain: Says where the documents are; without any, the corpus and the own positives are.
        check: How strict to be with what is made, as with pairs that are read.
        data: Output of the data step.
        halves: What evaluates the domain.
        limit: Make at most this many pairs.
        seed: Of every choice.
        out: An existing folder.
        model: The base, which changes what the log advises and nothing that is written.
        writing: An endpoint that writes queries too.

    Raises:
        UserError: When the documents cannot be read, or give no pair; when the endpoint fails.
    """
    own = list(read_jsonl(data / "train.jsonl", Pair))
    passages, dropped = _passages(domain, check, halves.select, own)
    pairs, told = _make(passages, settings, limit, seed, writing)
    loaded = Loaded(pairs, dropped, report=(*halves.select, *halves.report))
    found = made.look(loaded, check, model, out)
    if not found.pairs:
        raise UserError(_nothing_made(_weights(settings), passages, told))
    counts = sorted(Counter(pair.source.removeprefix("generated-") for pair in found.pairs).items())
    log.info("%s pairs made from %s passages: %s", f"{len(found.pairs):,}", f"{len(passages):,}",
             ", ".join(f"{count:,} {source}" for source, count in counts))  # fmt: skip
    return made.write(found, own, data, settings.use, "generate.use", out, told)


def by_rule(
    settings: Generate, source: Path, check: Check, limit: int | None, seed: int
) -> tuple[list[Pair], list[Dropped]]:
    """Make the pairs of documents that need no endpoint, as they are before they are checked.

    Returns:
        The pairs, and what of the documents could not be used.

    Raises:
        UserError: When the documents cannot be read, or give no pair.
    """
    passages, dropped = _read(source, check)
    weights = _weights(settings)
    pairs = _make(passages, settings, limit, seed, None)[0] if any(weights.values()) else []
    if not pairs:
        raise UserError(_nothing_made(weights, passages, {}))
    return pairs, dropped


def _weights(settings: Generate) -> dict[str, float]:
    return {name: getattr(settings, name) for name in GENERATORS}


def _make(
    passages: Sequence[Passage],
    settings: Generate,
    limit: int | None,
    seed: int,
    writing: Writing | None,
) -> tuple[list[Pair], dict[str, Any]]:
    """Make pairs by rule, and have others written; say what came of the latter."""
    weights = _weights(settings)
    most = max(_RULED, sum(weight > 0 for weight in weights.values()))
    most += writing.writer.queries if writing else 0
    count = min(each for each in (settings.pairs, limit, len(passages) * most) if each)
    if writing is None:
        return synthesize(passages, weights, count, seed), {}
    asked = wanted(count, writing.writer.share, sum(weights.values()))
    pairs, told = write(writing, passages, asked, seed)
    ruled = synthesize(passages, weights, count - asked, seed) if count > asked else []
    return [*ruled, *pairs], {"written": {"queries": len(pairs), **told}}


def _passages(
    domain: Domain, check: Check, select: Sequence[AnySet], own: Sequence[Pair]
) -> tuple[list[Passage], list[Dropped]]:
    if domain.documents is not None:
        return _read(domain.documents, check)
    if domain.source is Source.statutes:
        from finetune.data import statutes

        return statutes.passages(full=domain.full), []
    sets = (each for each in select if isinstance(each, EvaluationSet))
    texts = [text for each in sets for text in each.corpus.values()]
    alone = list(dict.fromkeys([*texts, *(pair.positive for pair in own)]))
    return documents.from_texts(alone), []


def _read(source: Path, check: Check) -> tuple[list[Passage], list[Dropped]]:
    """The passages of documents, and what of them could not be used, where that is dropped."""
    dropped: list[Dropped] = []
    stops = check.bad_rows is BadRows.stop
    return documents.read_documents(source, None if stops else dropped), dropped


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
