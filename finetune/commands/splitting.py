"""``finetune split``: pairs to train on and a dev folder, of pairs or of documents alone."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from finetune.commands import asking
from finetune.commands.checking import configuration
from finetune.config.choices import Kind
from finetune.config.pairs import Domain
from finetune.data.holdout import hold_out
from finetune.data.load import holds_documents
from finetune.data.prepare import load_train, select_sources
from finetune.errors import UserError
from finetune.records import Scored, write_jsonl
from finetune.sets import AnySet, EvaluationSet, ScoredSet, write_set

TRAIN, DEV, DROPPED = "train.jsonl", "dev", "dropped.jsonl"


def split(
    data: str | None, out: Path, queries: int | None, seed: int, overrides: Sequence[str]
) -> str:
    """Write ``train.jsonl``, ``dev/`` and ``dropped.jsonl``; say what to type next.

    Args:
        data: A file, folder or hub id of pairs, or the name of a domain; a folder of documents, or
            the table of questions that was made of one.
        out: A folder that is new or empty: an evaluation set that is made again is another one. Of
            a table of questions, the folder that was named with the documents.
        queries: How many queries to hold out; None takes every fifth, at most a thousand. Of
            documents, how many passages to ask about.
        seed: Of the draw.
        overrides: ``key=value``, as for a run.

    Raises:
        UserError: With every problem found.
    """
    dev = out / DEV
    written = data is not None and Path(data).is_file() and _awaits_questions(dev)
    if not written and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: is there already; name a new or an empty folder")
    if data is not None and (written or holds_documents(data)):
        if overrides:
            raise UserError(f"finetune split {data}: takes no settings, found {overrides[0]}")
        if written:
            return asking.collect(Path(data), dev)
        return asking.draw(Path(data), out, dev, queries, seed)
    config = configuration(data, None, overrides, "split")
    loaded = select_sources(load_train(config.domain, config.check), config.domain.sources)
    kept, held = hold_out(loaded.pairs, queries, seed, DEV, loaded.origin)
    out.mkdir(parents=True, exist_ok=True)
    write_jsonl(out / DROPPED, loaded.dropped)
    write_jsonl(out / TRAIN, kept)
    if isinstance(held, ScoredSet):
        dev.mkdir()
        write_jsonl(dev / "test.jsonl", map(_sentences, held.pairs))
    else:
        write_set(dev, held)
    scored = config.domain.kind is Kind.scored
    recipe = "cosent" if scored else "contrastive"
    kind = f" domain.kind={Kind.scored.value}" if scored else ""
    return "\n".join([
        f"{dev}: {_told(held)}; half of them choose, half report",
        f"{out / TRAIN}: {len(kept):,} pairs",
        f"{out / DROPPED}: {len(loaded.dropped):,} rows left out, with reasons",
        f"next (or model=bge-base-zh): python train.py recipes={recipe} domain=custom "
        f"domain.name={_name(config.domain)} model=starter{kind} "
        + shlex.join([f"domain.train={out / TRAIN}", f"domain.dev={dev}"]),
    ])  # fmt: skip


def _awaits_questions(dev: Path) -> bool:
    """Say whether a folder has the corpus that `asking.draw` made, and no questions yet."""
    return (dev / asking.CORPUS).is_file() and not (dev / "queries.jsonl").exists()


def _name(domain: Domain) -> str:
    """Of the run to be: the domain's own, or what its file is called."""
    if domain.name != "custom":
        return domain.name
    return re.sub(r"\W+", "-", re.split("[.@:]", Path(domain.train or "").name)[0]) or domain.name


def _sentences(row: Scored) -> dict[str, str | float]:
    return {"sentence1": row.a, "sentence2": row.b, "score": row.score}


def _told(held: AnySet) -> str:
    if isinstance(held, EvaluationSet):
        return f"{len(held.queries):,} queries, {len(held.corpus):,} passages"
    return f"{len(held.pairs):,} scored pairs"
