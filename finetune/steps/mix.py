"""Training sets mixed with the domain's: the step that reads them, and what training reads of them.

How much of each is trained on, under which loss and prompts, is in the keys of the trainings alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.config import Config, unset
from finetune.sets import all_sets
from finetune.stage import Step

# What training and the report read.
OUTPUTS = {"mixed": "mix"}


def missing(config: Config) -> Iterator[str]:
    """Say which sets name no file."""
    for name, each in config.mix.items():
        if each.train is None or unset(each.train):
            yield (
                f"mix.{name}.train: not set; name a jsonl, json, csv, tsv, parquet or xlsx file of "
                "pairs, a BEIR-shaped folder, a hub id, or paths.data=<folder> if the set lies "
                "there"
            )


def read_step(config: Config, general: Path | None) -> Step:
    """The step that reads the sets; they may hold no query of the general set either."""
    from finetune.data.hub import is_hub_id
    from finetune.data.load import file_or_folder

    read = {name: replace(each, weight=0.0, loss=None, prompts=None)
            for name, each in config.mix.items()}  # fmt: skip
    # The commit of a hub id, part of the settings, stands for its content.
    files = {f"{name}.train": file_or_folder(str(each.train)) for name, each in config.mix.items()
             if not is_hub_id(str(each.train))}  # fmt: skip
    evaluated = {"sets": "sets"} | ({"general": "general"} if general else {})
    return Step("mix", mix, 14, {"mix": read, "check": config.check}, evaluated, files,
                outside={"model": config.model})  # fmt: skip


def train_settings(config: Config) -> dict[str, Any]:
    """What a training on the sets reads beside their rows."""
    return {"mix": {name: replace(each, train=None, columns={})
                    for name, each in config.mix.items()}}  # fmt: skip


def mix(settings: Mapping[str, Any], inputs: Mapping[str, Path], out: Path) -> None:
    """Read the training sets that are mixed with the domain's."""
    from finetune.data.mix import prepare_mix

    asked = all_sets(inputs["sets"], inputs.get("general"))
    prepare_mix(settings["mix"], settings["check"], asked, out, settings["model"])
