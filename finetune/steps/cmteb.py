"""The steps of ``evaluate=cmteb``: one a task and artifact, so that each is run once.

The base is run with torch, and its steps know nothing of the domain: all runs of one base share
what takes hours.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config import Config, artifact
from finetune.errors import nearest
from finetune.evaluation import cmteb
from finetune.script import KEEP
from finetune.stage import Done, Step, publish
from finetune.steps import encoders
from finetune.steps.core import Inputs, Settings

if TYPE_CHECKING:
    from finetune.inference import Encoder


def problems(config: Config) -> Iterator[str]:
    """Say which tasks, artifacts and folders are none."""
    settings = config.evaluate
    if not settings.cmteb_tasks:
        return
    for name in settings.cmteb_tasks:
        if name not in cmteb.TASKS:
            yield f"evaluate.cmteb_tasks: {name}: no such task; {nearest(name, list(cmteb.TASKS))}"
        elif config.paths.cmteb and not (config.paths.cmteb / name).is_dir():
            yield (
                f"paths.cmteb={config.paths.cmteb}: has no folder {name}; put a copy of the hub's "
                "repository there, or leave paths.cmteb out to load it from the hub"
            )
    there = ["base", "tuned", *map(artifact, config.export.precisions)]
    for name in settings.cmteb_artifacts:
        if name not in there:
            yield f"evaluate.cmteb_artifacts: {name}: no such artifact; {nearest(name, there)}"


def steps_of(config: Config, tuned: str, machine: Settings) -> list[Step]:
    """Return the steps that run the tasks.

    Args:
        config: Of the run.
        tuned: Name of the step that made the tuned model.
        machine: What encoding reads of the machine.

    Raises:
        UserError: When mteb is not installed.
    """
    settings = config.evaluate
    version = cmteb.version() if settings.cmteb_tasks else ""
    folder = config.paths.cmteb
    return [
        Step(
            f"{cmteb.STEP}{name}-{task}", cmteb_task, 1,
            {"artifact": name, "task": task, "mteb": version, **machine},
            {"model": "base"} if name == "base" else {"model": tuned, "export": "export"},
            files={"task": folder / task} if folder else {},
        )
        for name in settings.cmteb_artifacts
        for task in settings.cmteb_tasks
    ]  # fmt: skip


def cmteb_task(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Run one task with one artifact; with one that was not published, leave the folder empty."""
    name = settings["artifact"]
    if not encoders.is_published(name, inputs):
        return  # which the report tells
    if name == "base":
        import torch

        from finetune import model as models
        from finetune.inference.script import converted

        torch.set_num_threads(settings["threads"])
        loaded = models.load(inputs["model"] / "model", settings["device"])
        torch_encoder = models.TorchEncoder(loaded, tokens=settings["encode_tokens"])
        encoder: Encoder = converted(torch_encoder, settings.get("script", KEEP))
    else:
        encoder = encoders.scoring(name, settings, inputs, out)
    cmteb.run(settings["task"], encoder, name, inputs.get("task"), out)


def publish_results(done: Mapping[str, Done], folder: Path) -> None:
    """Put mteb's own result files into ``<folder>/<artifact>/<task>.json``."""
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier run
    for step, finished in done.items():
        if step.startswith(cmteb.STEP) and (path := cmteb.result(finished.folder)):
            name = step.removeprefix(cmteb.STEP).removesuffix(f"-{path.stem}")
            (folder / name).mkdir(parents=True, exist_ok=True)
            publish(path, folder / name / path.name)
