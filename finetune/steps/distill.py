"""Distillation: the steps that make a student of the base model, teach it and time it beside it.

The base is the teacher. Its vectors are those that the embed step makes for every run.
"""

import logging
from dataclasses import fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from finetune.config import Config, Model
from finetune.config.choices import Hub
from finetune.errors import UserError
from finetune.machine.processes import everywhere
from finetune.records import read_json, write_json
from finetune.script import KEEP
from finetune.stage import Inputs, Settings, Step
from finetune.steps import core as steps

log = logging.getLogger(__name__)

_ROUNDS = 3  # of timing; the machine is not equally busy all the time


def with_teacher(config: Config) -> Config:
    """Put a teacher of its own in the place of the base model.

    The ``model/`` of a run is what that run's ``config.yaml`` says of its base. Of another folder
    the configuration's ``model`` tells what the folder does not; its prompts are the folder's own.

    Raises:
        UserError: There is no such folder, or it has other prompts than ``model``.
    """
    teacher = config.distill.teacher
    if not (config.distill.asked and teacher):
        return config
    folder = teacher.absolute()
    if not folder.is_dir():
        raise UserError(
            f"distill.teacher={teacher}: no such folder; name a model folder, as the model/ of a "
            "run, or null for the base model itself"
        )
    known, prompts = _base_of_run(folder), own_prompts(folder)
    if prompts not in (None, config.model.prompts) and not known:
        raise UserError(
            f"distill.teacher={teacher}: it was trained with the prompts {prompts}, and "
            f"model={config.model.name} has {config.model.prompts}; add model=<what it was tuned "
            "from>, as model=m3e-base, or model=custom with model.prompts, model.licence and "
            "model.trained_on of its own"
        )
    own = known | {"hub": Hub.local, "path": teacher} | ({"prompts": prompts} if prompts else {})
    return replace(config, model=replace(config.model, **own))


def tell(config: Config) -> None:
    """Warn of a teacher that does not say with which prompts it was trained."""
    teacher = config.distill.teacher
    if config.distill.asked and teacher and own_prompts(teacher) is None:
        log.warning(
            "distill.teacher=%s does not say its prompts; it is encoded with those of model=%s: %s",
            teacher, config.model.name, config.model.prompts,
        )  # fmt: skip


def own_prompts(folder: Path) -> dict[str, str] | None:
    """The prompts of queries and passages that a model folder names; None where it names none.

    sentence-transformers, which calls a passage a document, writes empty ones where it was told
    of none.
    """
    path = folder / "config_sentence_transformers.json"
    found = (read_json(path).get("prompts") or {}) if path.is_file() else {}
    passage = found.get("passage", found.get("document"))
    if "query" not in found or passage is None:
        return None
    if "passage" not in found and not (found["query"] or passage):
        return None
    return {"query": found["query"] or "", "passage": passage}


def _base_of_run(folder: Path) -> dict[str, Any]:
    """What the run that a folder is the ``model/`` of says of its base; nothing of another's."""
    path = folder.parent / "config.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    known = content.get("model") if isinstance(content, dict) else None
    names = {field.name for field in fields(Model)}
    return dict(known) if isinstance(known, dict) and known.keys() == names else {}


def student_step(config: Config, pairs: str) -> Step:
    """The step that makes the student; a vocabulary is chosen by the texts it is for."""
    settings = {"layers": config.distill.layers, "vocabulary": config.distill.vocabulary}
    texts = {"pairs": pairs, "embed": "embed"} if config.distill.vocabulary else {}
    return Step("student", student, 1, settings, {"model": "base", **texts})


def train_step(train: Step, config: Config) -> Step:
    """The step that teaches the student, made from the one that would train it on pairs."""
    return replace(
        train, call=distill, version=4, settings={**train.settings, "texts": config.distill.texts},
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
    from finetune.training import distillation, gradcache

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
    gradcache.train(examples, settings, inputs, out)


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
