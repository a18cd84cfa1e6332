"""Training sets beside the domain's own: read and checked as they are, and free of its leaks."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from finetune.config import Model
from finetune.config.pairs import Check, Mixed
from finetune.data.load import load_pairs
from finetune.data.loaded import Loaded
from finetune.data.prepare import NEAR, inspect, summarise, tell_found
from finetune.data.problems import Problems
from finetune.errors import UserError
from finetune.records import write_json, write_jsonl
from finetune.sets import AnySet

log = logging.getLogger(__name__)


def prepare_mix(
    mix: Mapping[str, Mixed],
    check: Check,
    asked: tuple[AnySet, ...],
    out: Path,
    model: Model | None = None,
) -> None:
    """Write each set's rows, what was dropped of it, and the counts of both.

    Writes ``<name>/train.jsonl``, ``<name>/dropped.jsonl``, ``<name>/near.jsonl`` (near duplicates,
    which are kept) and ``summary.json``: by set ``pairs``, ``read``, ``dropped`` by reason,
    ``changed`` and ``sources``.

    Args:
        mix: The sets by name; their files are set.
        check: How strict to be.
        asked: Evaluation sets: what these ask is not trained on.
        out: An existing folder.
        model: The base, which changes what the log advises and nothing that is written.

    Raises:
        UserError: With every problem in a set; when nothing is left of one.
    """
    problems = Problems()
    summary = {}
    for name, each in mix.items():
        (out / name).mkdir(exist_ok=True)
        try:
            loaded = _load(name, each, check, asked, out / name, model)
        except UserError as error:
            problems.include(error)
            continue
        write_jsonl(out / name / "train.jsonl", loaded.pairs)
        write_jsonl(out / name / "dropped.jsonl", loaded.dropped)
        summary[name] = summarise(replace(loaded, report=()))
        log.info("%s: %s pairs of %s rows", name, summary[name]["pairs"], summary[name]["read"])
    problems.check()
    write_json(out / "summary.json", summary)


def _load(
    name: str,
    each: Mixed,
    check: Check,
    asked: tuple[AnySet, ...],
    out: Path,
    model: Model | None,
) -> Loaded:
    loaded = load_pairs(
        str(each.train), each.columns, check.bad_rows, each.kind, check.duplicates,
        setting=f"mix.{name}",
    )  # fmt: skip
    loaded, found = inspect(replace(loaded, report=asked), check, model, out / NEAR)
    tell_found(found)
    if not loaded.pairs:
        raise UserError(
            f"mix.{name}.train={each.train}: no pair is left of {len(loaded.dropped):,} rows; "
            "expected at least one that no evaluation set holds: name another file"
        )
    return loaded
