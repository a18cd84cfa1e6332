"""Make a domain's data ready: select sources, drop leaks, draw a sample, split, write, count."""

import logging
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from finetune.config import Model
from finetune.config.choices import Source
from finetune.config.pairs import Check, Domain
from finetune.data import findings, leaks, lengths, parts
from finetune.data.hub import is_hub_id
from finetune.data.load import load_pairs
from finetune.data.loaded import Loaded, Texts
from finetune.data.multilingual import is_multilingual
from finetune.disk import Chosen, Spilled, number
from finetune.errors import UserError, nearest
from finetune.progress import bar
from finetune.records import Dropped, Pair, Scored, normalised, tally, write_json, write_jsonl
from finetune.sets import EvaluationSet, Halves

log = logging.getLogger(__name__)

Value = TypeVar("Value")

NEAR = "near.jsonl"
UNSELECTED = "source is not in domain.sources"
LIMIT = "limit"


def prepare(
    domain: Domain,
    check: Check,
    limit: int | None,
    seed: int,
    out: Path,
    model: Model | None = None,
    max_length: int | None = None,
    halves: Halves | None = None,
) -> dict[str, Any]:
    """Write a domain's training pairs.

    Writes ``train.jsonl`` (`Pair` or `Scored` rows), ``known.jsonl`` (pairs that are not trained on
    and still tell what answers a training query), ``dropped.jsonl`` (`Dropped` rows),
    ``near.jsonl`` (near duplicates, which are kept, with place and partner) and ``summary.json``.
    Rows read = pairs + dropped rows.

    Args:
        domain: Where the data lies.
        check: How strict to be.
        limit: Use at most this many pairs.
        seed: Of the sample that ``limit`` draws.
        out: An existing folder.
        model: The base, which changes what the log advises and nothing that is written.
        max_length: Tokens of a text that training reads, for the log too.
        halves: What evaluates the domain, where that was read before.

    Returns:
        The summary: ``pairs``, ``read``, ``dropped`` by reason, ``changed`` by kind of change,
        ``sources``, ``sets`` with their numbers of queries and passages, and ``findings``, how
        many of each before ``limit``.

    Raises:
        UserError: With every problem in the data.
    """
    everything = load(domain, check, halves)
    selected = select_sources(everything, domain.sources)
    loaded, found = inspect(selected, check, model, out / NEAR)
    tell_found(found)
    if not loaded.pairs and domain.train is not None:
        raise UserError(_nothing_left(domain, loaded.dropped))
    loaded = _sample(loaded, limit, seed)
    _check_scores(domain, loaded.pairs)
    if model is not None and max_length is not None:
        texts = Texts(loaded.pairs)
        otherwise = lengths.ASSUMED.get(model.hub, check.tokens_per_character)
        lengths.cut(texts, lengths.tokenizer_of(model), otherwise, model, max_length).tell()
    write_jsonl(out / "train.jsonl", loaded.pairs)
    write_jsonl(out / "known.jsonl", _known(everything.pairs, loaded.pairs))
    write_jsonl(out / "dropped.jsonl", loaded.dropped)
    summary = summarise(loaded) | {"findings": findings.counted(found)}
    write_json(out / "summary.json", summary)
    log.info("%s: %s pairs of %s rows", domain.name, summary["pairs"], summary["read"])
    return summary


def load(domain: Domain, check: Check, halves: Halves | None = None) -> Loaded:
    """Load the pairs and evaluation sets of a domain.

    Args:
        domain: Where the data lies.
        check: How strict to be.
        halves: The evaluation sets, where they were read before.

    Raises:
        UserError: With every problem in the data.
    """
    if domain.source is Source.statutes:
        from finetune.data import statutes

        return statutes.load(full=domain.full)
    problems: list[str] = []
    loaded = _attempt(lambda: load_train(domain, check), problems)
    asked = halves or _attempt(lambda: questions(domain), problems)
    if loaded is None or asked is None:
        raise UserError(*problems)
    return replace(loaded, select=asked.select, report=asked.report)


def questions(domain: Domain) -> Halves:
    """Load what evaluates a domain.

    Raises:
        UserError: With every problem in it.
    """
    if domain.source is Source.statutes:
        from finetune.data import statutes

        loaded = statutes.load(full=domain.full)
        return Halves(loaded.select, loaded.report)
    dev, test, problems = domain.dev, domain.test, list[str]()
    if dev is None:
        problems.append(
            f"domain.dev: not set; domain={domain.name} needs an evaluation folder, "
            f"domain.dev=<folder with {parts.EXPECTED[domain.kind]}>; finetune split <pairs> "
            "--out <folder> makes one of some of the pairs"
        )
    dev_splits = dev and _attempt(lambda: parts.read(dev, domain.kind, "domain.dev="), problems)
    test_splits = test and _attempt(lambda: parts.read(test, domain.kind, "domain.test="), problems)
    if problems or not dev_splits:
        raise UserError(*problems)
    select, report = parts.apart(dev_splits, test_splits or None)
    return Halves((select,), (report,))


def inspect(
    loaded: Loaded, check: Check, model: Model | None = None, near: Path | None = None
) -> tuple[Loaded, list[findings.Finding]]:
    """Drop the leaks; say what else there is to look at, with the base in mind.

    ``near`` is a file for all near duplicates.
    """
    sets = (*loaded.select, *loaded.report)
    with bar("leaks", len(loaded.pairs)) as progress:
        suspects = leaks.find(loaded.pairs, sets, check.near, progress)
    dropped = {key: why for key, why in suspects.items() if why[0] in leaks.DROPPED[check.leak]}
    loaded = _drop(loaded, lambda pair: dropped.get(pair.id))
    with bar("check", 3 * len(loaded.pairs)) as progress:
        multilingual = model is not None and is_multilingual(model)
        found = findings.look(loaded, suspects, check, progress, multilingual=multilingual,
                              near=near)  # fmt: skip
    return loaded, found


def tell_found(found: Sequence[findings.Finding]) -> None:
    """Say in the log how many of each there are, and of warnings what to do."""
    for each in found:
        tell = log.warning if each.warning else log.info
        where = f"; all in {each.file}, beside dropped.jsonl" if each.file else ""
        tell("%s: %s of %s %s; finetune check shows them%s%s", each.name, f"{each.count:,}",
             f"{each.of:,}", each.unit, where, f". {each.fix}" if each.warning else "")  # fmt: skip


def summarise(loaded: Loaded) -> dict[str, Any]:
    """Count what was kept, dropped and changed; name the data set of the hub and its commit."""
    sets: dict[str, dict[str, int]] = {}
    for part, evaluation_sets in (("select", loaded.select), ("report", loaded.report)):
        for each in evaluation_sets:
            counts = sets.setdefault(each.name, {"select": 0, "report": 0})
            counts[part] = len(each.questions)
            if isinstance(each, EvaluationSet):
                counts["passages"] = len(each.corpus)
    return {
        **({"hub": loaded.origin} if is_hub_id(loaded.origin) else {}),
        "pairs": len(loaded.pairs),
        "read": len(loaded.pairs) + len(loaded.dropped),
        "dropped": tally(row.reason for row in loaded.dropped),
        "changed": dict(sorted(loaded.changed.items())),
        "sources": tally(pair.source for pair in loaded.pairs),
        "sets": sets,
    }


def _attempt(read: Callable[[], Value], problems: list[str]) -> Value | None:
    """Go on after an error, so that train, dev and test are all told at once."""
    try:
        return read()
    except UserError as error:
        problems.extend(error.problems)
        return None


def load_train(domain: Domain, check: Check) -> Loaded:
    """Load the pairs of a domain without what evaluates them; none of documents alone.

    Raises:
        UserError: With every problem in the data.
    """
    if domain.train is None:
        return Loaded((), ())
    return load_pairs(domain.train, domain.columns, check.bad_rows, domain.kind, check.duplicates)


def select_sources(loaded: Loaded, sources: Sequence[str] | None) -> Loaded:
    """Keep the pairs of these sources.

    Raises:
        UserError: When a source has no pairs.
    """
    if sources is None:
        return loaded
    known = sorted({pair.source for pair in loaded.pairs})
    problems = [
        f"domain.sources: no pairs of source {source!r}; {nearest(source, known)} "
        f"(there are: {', '.join(known)}); for all of them: domain.sources=null"
        for source in sources
        if source not in known
    ]
    if problems:
        raise UserError(*problems)
    wanted = set(sources)
    return _drop(loaded, lambda pair: None if pair.source in wanted else (UNSELECTED, ""))


def _check_scores(domain: Domain, pairs: Sequence[Pair | Scored]) -> None:
    """Raise where all scores are the same: there is no order to learn."""
    scores = {pair.score for pair in pairs if isinstance(pair, Scored)}
    if len(scores) == 1:
        raise UserError(
            f"domain.train={domain.train}: every score of the {len(pairs):,} pairs left is "
            f"{scores.pop():g}; expected pairs that are alike and pairs that are not: name other "
            "training data, or raise limit"
        )


def _sample(loaded: Loaded, limit: int | None, seed: int) -> Loaded:
    """Keep ``limit`` pairs in their order; a larger limit keeps these and more."""
    if limit is None or limit >= len(loaded.pairs):
        return loaded
    order = list(range(len(loaded.pairs)))
    random.Random(seed).shuffle(order)
    chosen = {loaded.pairs[index].id for index in order[:limit]}
    return _drop(loaded, lambda pair: None if pair.id in chosen else (LIMIT, ""))


def _known(everything: Iterable[Pair | Scored], kept: Iterable[Pair | Scored]) -> Iterator[Pair]:
    """Pairs left out that share a text with the query of one that was kept."""
    ids, asked = set(), set()
    for pair in kept:
        if isinstance(pair, Pair):
            ids.add(number(pair.id))
            asked.add(number(normalised(pair.query)))
    for pair in everything:
        if not isinstance(pair, Pair) or number(pair.id) in ids:
            continue
        if {number(normalised(pair.query)), number(normalised(pair.positive))} & asked:
            yield pair


def _drop(loaded: Loaded, why: Callable[[Pair | Scored], tuple[str, str] | None]) -> Loaded:
    """Drop the pairs for which there is a reason (and what they collided with)."""
    kept, dropped = array("q"), Spilled(Dropped, loaded.dropped)
    for row, pair in enumerate(loaded.pairs):
        found = why(pair)
        if found is None:
            kept.append(row)
        else:
            line = loaded.lines.get(pair.id, 0)
            origin = loaded.origin or pair.source
            dropped.append(Dropped(found[0], origin, line, pair.questions[0][0], found[1]))
    if len(kept) == len(loaded.pairs):
        return loaded
    return replace(loaded, pairs=Chosen(loaded.pairs, kept), dropped=dropped)


def _nothing_left(domain: Domain, dropped: Sequence[Dropped]) -> str:
    reasons = tally(row.reason for row in dropped)
    counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    return (
        f"domain.train={domain.train}: no pair is left of {len(dropped):,} rows ({counts}); "
        "expected at least one: name other training data, which the evaluation set does not hold"
    )
