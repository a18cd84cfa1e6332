"""Distillation: the steps that make a student of the base model, teach it and time it beside it.

The base is the teacher. Its vectors are those that the embed step makes for every run.
"""

from dataclasses import replace
from pathlib import Path
from statistics import median

from finetune.config import Config
from finetune.config.choices import Hub
from finetune.errors import UserError
from finetune.machine.processes import everywhere
from finetune.records import read_json, write_json
from finetune.script import KEEP
from finetune.stage import Step
from finetune.steps import core as steps
from finetune.steps.core import Inputs, Settings

_ROUNDS = 3  # of timing; the machine is not equally busy all the time


def with_teacher(config: Config) -> Config:
    """Put a teacher of its own in the place of the base model.

    Raises:
        UserError: There is no such folder.
    """
    teacher = config.distill.teacher
    if not (config.distill.asked and teacher):
        return config
    if not teacher.expanduser().is_dir():
        raise UserError(
            f"distill.teacher={teacher}: no such folder; name a model folder, as the model/ of a "
            "run, or null for the base model itself"
        )
    model = replace(config.model, hub=Hub.local, path=teacher)
    return replace(config, model=model)


def student_step(config: Config, pairs: str) -> Step:
    """The step that makes the student; a vocabulary is chosen by the texts it is for."""
    settings = {"layers": config.distill.layers, "vocabulary": config.distill.vocabulary}
    texts = {"pairs": pairs, "embed": "embed"} if config.distill.vocabulary else {}
    return Step("student", student, 1, settings, {"model": "base", **texts})


def train_step(train: Step, config: Config) -> Step:
    """The step that teaches the student, made from the one that would train it on pairs."""
    return replace(
        train, call=distill, version=1, settings={**train.settings, "texts": config.distill.texts},
        inputs={**train.inputs, "model": "student", "embed": "embed"},
    )  # fmt: skip


def evaluate_step(step: Step) -> Step:
    """The step that evaluates the student, and times it beside its teacher."""
    return replace(step, call=evaluate, inputs={**step.inputs, "teacher": "base"})


def student(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Make a student of a part of the base."""
    from finetune import model as models
    from finetune.training import distillation, vocabulary

    model = models.load(inputs["model"] / "model")
    if settings["layers"]:
        distillation.keep_layers(model, settings["layers"])
    if settings["vocabulary"]:
        texts = distillation.texts(inputs["pairs"], inputs["embed"], model.prompts)
        vocabulary.shrink(model, settings["vocabulary"], texts)
    models.save(model, out / "model")


@everywhere
def distill(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Teach the student, guarded by the select half."""
    from finetune.inference.script import converter
    from finetune.training import chunks, distillation

    rows = distillation.lessons(
        inputs["pairs"],
        inputs["embed"],
        inputs["model"] / "model",
        limit=settings["texts"],
        max_length=settings["train"].max_length,
        seed=settings["seed"],
    )
    convert = converter(settings.get("script", KEEP))
    rows = [replace(row, text=convert(row.text)) for row in rows]  # as they will be encoded
    batch_size = settings["train"].batch_size
    examples = distillation.examples(rows, batch_size, settings["seed"])
    chunks.train(examples, settings, inputs, out)


def evaluate(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Evaluate the student; time it and its teacher in turn, so that a busy hour is shared."""
    steps.evaluate(settings, inputs, out)
    speeds = read_json(out / "speed.json")
    folders = {"base": inputs["teacher"], "tuned": inputs["model"]}
    rows = [
        {name: steps.timed(name, settings, {**inputs, "model": folder})
         for name, folder in folders.items()}
        for _ in range(_ROUNDS)
    ]  # fmt: skip
    for name in folders:
        speeds[name] = {key: median(row[name][key] for row in rows) for key in rows[0][name]}
    write_json(out / "speed.json", speeds)
