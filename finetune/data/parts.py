"""Split evaluation data: what training may look at, and what only the final scores may see."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from finetune.config.choices import Kind
from finetune.data import beir, clean, reranking, sts
from finetune.errors import UserError
from finetune.records import Question
from finetune.sets import AnySet, EvaluationSet, Halves, ScoredSet, half, write_set
from finetune.stage import publish

log = logging.getLogger(__name__)

# What an evaluation folder holds.
EXPECTED = {
    Kind.pairs: "corpus.jsonl, queries.jsonl and qrels.tsv (or reranking.jsonl)",
    Kind.scored: "test.jsonl, dev.jsonl or both",
}

Splits = Mapping[str, AnySet]


def read(folder: Path, kind: Kind, key: str = "") -> Splits:
    """Read what a folder holds: its ``test`` and ``dev`` splits, or one of them.

    Args:
        folder: What is read.
        kind: Of the rows that are trained on.
        key: Before its name in messages: ``domain.dev=``.

    Raises:
        UserError: With every problem found; a folder of the other shape.
    """
    shape = beir.kind(folder, key)
    if kind is Kind.pairs and shape == "reranking":
        return {"test": reranking.read_folder(folder)}
    if kind is Kind.pairs:
        return beir.read_splits(folder, key)
    return {split: sts.read(folder, split) for split in sts.splits(folder)}


def part(splits: Splits, name: str) -> AnySet:
    """Return the ``select`` or ``report`` part of a folder: its splits, or halves of the only one.

    The halves are fixed for good, by a hash of each question's id.
    """
    if len(splits) == 2:
        return splits["dev" if name == "select" else "test"]
    (whole,) = splits.values()
    return whole.only({key for key in whole.questions if half(key) == name})


def apart(dev: Splits, test: Splits | None) -> tuple[AnySet, AnySet]:
    """Return what selects and what reports, without a question that both ask.

    Args:
        dev: What ``domain.dev`` holds.
        test: What ``domain.test`` holds, which then reports, while all of ``dev`` selects.

    Raises:
        UserError: When one of them cannot be scored.
    """
    if test is None:
        select, report = part(dev, "select"), part(dev, "report")
    else:
        select, report = dev.get("dev") or dev["test"], test.get("test") or test["dev"]
    for name, each in (("select", select), ("report", report)):
        _check(each, name)
    kept = _without(select, report)
    _check(kept, "select")
    return kept, report


def write_halves(out: Path, halves: Halves) -> None:
    """Write ``select/<set>/`` and ``report/<set>/``.

    A corpus that several sets share is written once and hard-linked.
    """
    written: dict[int, Path] = {}
    for part, sets in halves._asdict().items():
        # A run that died may have left links here; writing into one would change the other.
        shutil.rmtree(out / part, ignore_errors=True)
        for each in sets:
            folder = out / part / each.name
            if not isinstance(each, EvaluationSet):
                write_set(folder, each)
                continue
            file = folder / "corpus.jsonl"
            shared = written.setdefault(id(each.corpus), file)
            if shared == file:
                write_set(folder, each)
                continue
            write_set(folder, replace(each, corpus={}))
            file.unlink()
            publish(shared, file)


def comparable(question: Question) -> tuple[str, ...]:
    """The form in which questions are compared; the order of a pair's texts does not count."""
    return tuple(sorted(map(clean.comparable, question)))


def _without(select: AnySet, report: AnySet) -> AnySet:
    """Leave out of ``select`` the questions that ``report`` asks too, under whatever id."""
    asked = {comparable(question) for question in report.questions.values()}
    kept = {key for key, each in select.questions.items() if comparable(each) not in asked}
    left_out = len(select.questions) - len(kept)
    if left_out:
        log.warning(
            "%s: %s %s are in the report half too, and left out of the select half",
            select.name,
            f"{left_out:,}",
            select.counted,
        )
    if not kept:
        raise UserError(
            f"domain.dev: every one of the {select.counted} of {select.name} is also in "
            f"{report.name}, which only the final scores may see; expected others: name another "
            "folder"
        )
    return select.only(kept)


def _check(each: AnySet, name: str) -> None:
    """Raise where a part has nothing to score, or pairs that are all alike."""
    count, what = len(each.questions), each.counted
    if not count:
        problem = f"none of the {what} of {each.name} falls into the {name} half"
    elif isinstance(each, ScoredSet) and len({pair.score for pair in each.pairs}) == 1:
        problem = f"what falls into the {name} half of {each.name}, {count} {what}, has one score"
    else:
        return
    raise UserError(
        f"domain.dev: {problem}; expected enough for two halves: add {what}, or name a second "
        "folder, domain.test=<folder>"
    )
