"""``finetune split``: pairs to train on and a dev folder, of pairs alone."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from finetune.commands.checking import configuration
from finetune.config.choices import Kind
from finetune.data.holdout import hold_out
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
        data: A file, folder or hub id of pairs, or the name of a domain.
        out: A folder that is new or empty: an evaluation set that is made again is another one.
        queries: How many queries to hold out; None takes every fifth, at most a thousand.
        seed: Of the draw.
        overrides: ``key=value``, as for a run.

    Raises:
        UserError: With every problem found.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: is there already; name a new or an empty folder")
    config = configuration(data, None, overrides, "split")
    loaded = select_sources(load_train(config.domain, config.check), config.domain.sources)
    kept, held = hold_out(loaded.pairs, queries, seed, DEV, loaded.origin)
    out.mkdir(parents=True, exist_ok=True)
    write_jsonl(out / DROPPED, loaded.dropped)
    write_jsonl(out / TRAIN, kept)
    if isinstance(held, ScoredSet):
        (out / DEV).mkdir()
        write_jsonl(out / DEV / "test.jsonl", map(_sentences, held.pairs))
    else:
        write_set(out / DEV, held)
    scored = config.domain.kind is Kind.scored
    recipe = "cosent" if scored else "contrastive"
    kind = f" domain.kind={Kind.scored.value}" if scored else ""
    return "\n".join([
        f"{out / DEV}: {_told(held)}; half of them choose, half report",
        f"{out / TRAIN}: {len(kept):,} pairs",
        f"{out / DROPPED}: {len(loaded.dropped):,} rows left out, with reasons",
        f"next: python train.py recipes={recipe} domain=custom{kind} "
        + shlex.join([f"domain.train={out / TRAIN}", f"domain.dev={out / DEV}"]),
    ])  # fmt: skip


def _sentences(row: Scored) -> dict[str, str | float]:
    return {"sentence1": row.a, "sentence2": row.b, "score": row.score}


def _told(held: AnySet) -> str:
    if isinstance(held, EvaluationSet):
        return f"{len(held.queries):,} queries, {len(held.corpus):,} passages"
    return f"{len(held.pairs):,} scored pairs"
