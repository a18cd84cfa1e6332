"""Rounds of mining: mine with the model as tuned so far, train on from it, and tell it as one.

A round's guard starts from the model that the round starts from, on the same pooled select half as
in every other round: a round that gains nothing hands on what it was given, so that the last model
is never behind the base. Each round has the whole schedule (warm-up, ``train.epochs``, decay): the
optimiser's state belongs to the negatives that are gone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import hub
from finetune.config import Config, Mine
from finetune.data.hub import is_hub_id
from finetune.data.lines import names
from finetune.data.problems import meant
from finetune.errors import UserError
from finetune.records import read_dicts, read_json, write_jsonl
from finetune.stage import Done, Inputs, Step

if TYPE_CHECKING:
    from finetune.judging import Filter


def later(first: Sequence[Step], count: int) -> list[Step]:
    """Return the steps of the rounds after the first: ``export-2``, ``embed-2``, ``mine-2``, ….

    Args:
        first: The steps ``export-base``, ``embed``, ``mine`` and ``train`` of the first round.
        count: Rounds in all.
    """
    export, embed, mine, train = first
    # What the base made of the corpus is of no use to another model.
    searched = {name: source for name, source in embed.inputs.items() if name != "corpus"}
    steps = []
    model = train.name
    for number in range(2, count + 1):
        names = {kind: f"{kind}-{number}" for kind in ("export", "embed", "mine", "train")}
        seed = (train.settings["seed"] + number - 1) % 2**32  # not the same batches again
        steps += [
            replace(export, name=names["export"], inputs={**export.inputs, "model": model}),
            replace(embed, name=names["embed"],
                    inputs={**searched, "model": model, "export": names["export"]}),
            replace(mine, name=names["mine"], inputs={**mine.inputs, "embed": names["embed"]}),
            replace(train, name=names["train"], settings={**train.settings, "seed": seed},
                    inputs={**train.inputs, "model": model, "pairs": names["mine"]}),
        ]  # fmt: skip
        model = names["train"]
    return steps


def beside(training: str, name: str) -> str:
    """Name what goes with one training: ``mine``, ``mine-2`` (``train-2``), ``mine-warmup``."""
    return name if training == "train" else f"{name}-{training.removeprefix('train-')}"


def outputs(count: int, *, warm: bool) -> dict[str, str]:
    """Return the report's inputs: all trainings in order, and what later rounds mined."""
    names = [*(["warmup"] if warm else []), "train", *(f"train-{n}" for n in range(2, count + 1))]
    mined = {f"pairs-{n}": f"mine-{n}" for n in range(2, count + 1)}
    return dict(zip(names, names, strict=True)) | mined


def resolved(config: Config) -> Mine:
    """Name the commit of a cross-encoder on the hub, where it can be found out.

    Raises:
        UserError: When the filter is neither a folder nor a hub id.
    """
    name = config.mine.filter
    if name is None or not config.mine.rounds or filter_files(config):
        return config.mine
    hub_id, _, revision = name.partition("@")
    commit = hub.commit_if_known(hub_id, revision or None)
    return replace(config.mine, filter=f"{hub_id}@{commit}") if commit else config.mine


def mine_settings(config: Config, machine: dict[str, Any]) -> dict[str, Any]:
    """What one round of mining reads: how many rounds there are is the plan's."""
    if config.mine.filter is None:
        return {"mine": replace(config.mine, rounds=1)}
    hub_id = None if filter_files(config) else config.mine.filter
    return {"mine": replace(config.mine, rounds=1, filter=hub_id)} | machine


def filter_files(config: Config) -> dict[str, Path]:
    """The folder of the cross-encoder; a hub id's revision stands for its content."""
    name = config.mine.filter
    if name is None:
        return {}
    folder = Path(name).expanduser()
    if folder.is_dir():
        return {"filter": folder}
    if not is_hub_id(name) or ":" in name:
        there = names(folder.parent) if folder.parent.is_dir() else []
        near = meant(folder.name, there, "")
        raise UserError(
            f"mine.filter={name}: no such folder, and no hub id; expected the folder of a "
            f"cross-encoder, or owner/name@revision{near and f'; {near}'}"
        )
    return {}


def cross_encoder(settings: Mapping[str, Any], inputs: Inputs) -> "Filter | None":
    """Load what negatives are filtered with: a folder is an input of the step, a hub id a setting.

    Raises:
        UserError: When it cannot be had, or is no cross-encoder.
    """
    source = inputs.get("filter") or settings["mine"].filter
    if source is None:
        return None
    import torch

    from finetune import crossencoder

    torch.set_num_threads(settings["threads"])
    return crossencoder.load(source, settings["device"], settings["mine"].filter_margin)


def steps_before(done: Mapping[str, Done]) -> int:
    """Training steps of the warm-up and the rounds that are done."""
    told = [each.folder / "training.json" for each in done.values()]
    return sum(read_json(path)["steps"] for path in told if path.is_file())


def mining(inputs: Inputs) -> dict[str, Any]:
    """What mining kept and dropped: of the only round, or of each by name."""
    told = {"round 1": inputs["pairs"]} | {
        f"round {name.removeprefix('pairs-')}": folder
        for name, folder in inputs.items() if name.startswith("pairs-")
    }  # fmt: skip
    content = {name: read_json(folder / "summary.json") for name, folder in told.items()}
    return content if len(content) > 1 else content["round 1"]


def training(inputs: Inputs) -> dict[str, Any]:
    """What training came to: of the only one, or of all (warm-up, rounds) with each by name.

    ``base`` is what the first started from, ``best`` what the last model scores; steps are counted
    through.
    """
    names, folders = zip(*_trainings(inputs), strict=True)
    told = [read_json(folder / "training.json") for folder in folders]
    if len(told) == 1:
        return dict(told[0])
    # One that improved is better than all before it.
    best = max(range(len(told)), key=lambda n: (told[n]["improved"], told[n]["best"]))
    return {
        **told[best],
        "base": told[0]["base"],
        "best_step": sum(each["steps"] for each in told[:best]) + told[best]["best_step"],
        "steps": sum(each["steps"] for each in told),
        **dict(zip(names, told, strict=True)),
    }


def adapted(inputs: Inputs) -> bool:
    """Say whether the only training left an adapter to what is published."""
    folders = [folder for _, folder in _trainings(inputs)]
    return len(folders) == 1 and (inputs.get("merge", folders[0]) / "adapter").is_dir()


def curves(inputs: Inputs, out: Path) -> Path:
    """The curves of the only training, or those of all in one file, steps counted through."""
    folders = [folder for _, folder in _trainings(inputs)]
    if len(folders) == 1:
        return folders[0] / "curves.jsonl"
    rows, before = [], 0
    for folder in folders:
        own = read_dicts(folder / "curves.jsonl")
        rows += [{**row, "step": row["step"] + before} for row in own]
        before += read_json(folder / "training.json")["steps"]
    write_jsonl(out / "curves.jsonl", rows)
    return out / "curves.jsonl"


def _trainings(inputs: Inputs) -> list[tuple[str, Path]]:
    """Names and folders of what was trained, in order."""
    return [(name, folder) for name, folder in inputs.items()
            if name == "warmup" or name.startswith("train")]  # fmt: skip
