"""What tuning costs outside the domain: steps that measure it, and one that merges against it.

The general set is a BEIR-shaped folder of questions that are not the domain's. Keys of what the
base gets on it hold nothing of the domain, so that all runs of one base share these scores, whose
encoding takes minutes.
"""

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from finetune.config import Config, unset
from finetune.config.choices import Precision, Source, Use
from finetune.errors import UserError
from finetune.records import write_json
from finetune.script import KEEP
from finetune.sets import EvaluationSet, half, only_set, write_set
from finetune.stage import Inputs, Settings, Step
from finetune.steps import core as steps
from finetune.steps.encoders import remembering, scoring

log = logging.getLogger(__name__)

# The embedded law questions stand in where nobody has a folder: evaluate.general=statutes.
EMBEDDED = Path("statutes")
# What the report reads of these steps.
OUTPUTS = {"general": "general", "evaluate_base_general": "evaluate-base-general",
           "evaluate_general": "evaluate-general"}  # fmt: skip


def folder_of(config: Config) -> Path | None:
    """Return the folder of the general set, or `EMBEDDED`; None where there is none.

    The default, ``<paths.data>/general``, need not be there, and does not count where it is the
    domain's own evaluation folder.

    Raises:
        UserError: A folder that was named cannot be used.
    """
    folder = config.evaluate.general
    if folder is None:
        return None
    default = unset(folder) or str(folder) == f"{config.paths.data}/general"
    own = [path.resolve() for path in (config.domain.dev, config.domain.test) if path]
    if default and (not folder.is_dir() or folder.resolve() in own):
        return None
    if not _embedded(folder):
        _check_folder(folder)
    taken = [path.resolve().name for path in own]
    if config.domain.source is Source.statutes:
        taken = ["statutes", "statutes-traditional"]
    if folder.resolve().name in taken:
        raise UserError(
            f"evaluate.general={folder}: the domain's own set is called {folder.resolve().name} "
            "too, and scores go by name; rename the folder, or switch it off: evaluate.general=null"
        )
    return folder


def _embedded(folder: Path) -> bool:
    return folder == EMBEDDED and not folder.is_dir()


def _check_folder(folder: Path) -> None:
    from finetune.data import beir

    if not folder.is_dir() or beir.kind(folder) != "beir":
        what = "is a similarity set" if folder.is_dir() else "no such folder"
        raise UserError(
            f"evaluate.general={folder}: {what}; expected a folder with corpus.jsonl, "
            "queries.jsonl and qrels.tsv, statutes for the embedded law questions, or "
            "evaluate.general=null"
        )


def read_step(folder: Path) -> Step:
    """The step that reads the general set; first of all, so that its mistakes are told at once."""
    if _embedded(folder):
        from finetune.data import statutes

        return Step("general", embedded, 1, {}, files=statutes.files())
    return Step("general", general, 2, {"name": folder.resolve().name}, files={"folder": folder})


def base_steps(export: Settings, machine: Settings) -> list[Step]:
    """The steps that score the base on the general set.

    They export it once more: the other export is compared with torch on texts of the domain, and
    its key would make every domain, seed and limit encode the general set anew.
    """
    return [
        Step("export-base-general", steps.export, 3, export,
             {"model": "base", "sets": "general"}),
        Step("evaluate-base-general", evaluate_general, 2, {"artifact": "base", **machine},
             {"model": "base", "export": "export-base-general", "general": "general"}),
    ]  # fmt: skip


def tuned_step(tuned: str, machine: Settings) -> Step:
    """The step that scores the tuned model on the general set."""
    return Step(
        "evaluate-general", evaluate_general, 2, {"artifact": "tuned", **machine},
        {"model": tuned, "export": "export", "general": "general"},
    )  # fmt: skip


def merge_steps(config: Config, trained: str, machine: Settings, folder: Path | None) -> list[Step]:
    """The steps that merge the model that training made with the base."""
    pool = {"texts": config.merge.domain_texts, "seed": config.seed}
    settings = {
        "weights": config.merge.weights, "keep_gain": config.merge.keep_gain,
        "general_texts": config.merge.general_texts, "max_drop": config.evaluate.max_general_drop,
        "precision": config.hardware.precision, "seed": config.seed, **machine,
    }  # fmt: skip
    if "peft" in config.adapter and trained == "train" and config.generate.use is not Use.warmup:
        settings["adapter"] = True  # what was trained of the base, and nothing else
    inputs = {"model": "base", "tuned": trained, "select": "merge-pool"}
    if folder:
        inputs |= {"general": "general"}
    return [
        Step("merge-pool", steps.merge_pool, 1, pool, {"sets": "sets"}),
        Step("merge", merge, 4, settings, inputs),
    ]


def general(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Read the general set and split its queries into halves."""
    from finetune.data import beir

    found = dataclasses.replace(beir.read_folder(inputs["folder"]), name=settings["name"])
    for part in ("select", "report"):
        kept = found.only({query for query in found.queries if half(query) == part})
        if not kept.queries:
            raise UserError(
                f"evaluate.general: none of the {len(found.queries)} queries of {found.name} falls "
                f"into the {part} half; add queries, or switch it off: evaluate.general=null"
            )
        write_set(out / part / found.name, kept)


def embedded(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Write the embedded law questions, whose halves are those of ``domain=statutes``."""
    from finetune.data import statutes

    loaded = statutes.load(full=False)
    for part, (found, *_) in (("select", loaded.select), ("report", loaded.report)):
        write_set(out / part / found.name, found)


def evaluate_general(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Score the base or the tuned model on both halves of the general set.

    The exported artifacts are not scored here: parity holds them to the tuned model and the INT8
    gate judges them on the domain, and each would take the minutes that the corpus takes.
    """
    from finetune.evaluation.artifacts import evaluate

    artifact = settings["artifact"]
    encoder = remembering(scoring(artifact, settings, inputs, out), settings, inputs)
    halves = {part: _half(inputs, part) for part in ("select", "report")}
    select = halves["select"], out / "select"
    evaluate(artifact, encoder, [halves["report"]], out / "outcomes", select)


def _half(inputs: Inputs, part: str) -> EvaluationSet:
    """A half of the general set, which `folder_of` found to be BEIR-shaped."""
    return cast(EvaluationSet, only_set(inputs["general"] / part))


def merge(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Merge the tuned model with its base, and publish the weight chosen on the select halves."""
    from finetune.adapter import lora
    from finetune.data.script import convert_set
    from finetune.inference.script import converter
    from finetune.training import merging
    from finetune.training.train import Guard

    base, tuned = inputs["model"] / "model", inputs["tuned"] / "model"
    if merging.same_weights(base, tuned):
        shutil.copytree(tuned, out / "model")
        why = "nothing, for the guard kept the base"
        write_json(out / "merge.json", {"weight": 1.0, "why": why, "sets": [], "table": []})
        return
    base = merging.as_saved(base, out / "base")
    merging.check(base, tuned)
    sets = [only_set(inputs["select"])]
    if "general" in inputs:
        # The domain's questions are converted as encoders will convert them; these here.
        sets.append(convert_set(_pool(settings, inputs), converter(settings.get("script", KEEP))))
    precision, tokens = Precision(settings["precision"]), settings["encode_tokens"]
    guards = [Guard(each, precision, tokens) for each in sets]
    score = partial(_score, base=base, tuned=tuned, guards=guards, settings=settings, out=out)
    candidates = [score(weight) for weight in sorted({0.0, *settings["weights"], 1.0})]
    choice = merging.choose(candidates, settings["keep_gain"], settings["max_drop"])
    log.info("merge: %s", choice.why)
    merging.interpolate(base, tuned, choice.weight, out / "model")
    if "adapter" in settings:
        lora.scaled(inputs["tuned"] / "adapter", choice.weight, out / "adapter")
    shutil.rmtree(base)
    write_json(out / "merge.json", merging.told(candidates, choice, [each.name for each in sets]))


def _score(
    weight: float, base: Path, tuned: Path, guards: Sequence[Any], settings: Settings, out: Path
) -> Any:
    import torch

    from finetune import model as models
    from finetune.training import merging

    torch.set_num_threads(settings["threads"])
    merging.interpolate(base, tuned, weight, out / "model")
    model = models.load(out / "model", settings["device"])
    values = [guard.values(model) for guard in guards]
    means = [f"{guard.select.name} {each.mean():.4f}"
             for guard, each in zip(guards, values, strict=True)]  # fmt: skip
    log.info("merge: weight %g: %s", weight, ", ".join(means))
    return merging.Candidate(weight, *values)


def _pool(settings: Settings, inputs: Inputs) -> EvaluationSet:
    """A small corpus for the general set's select half, as the guard has one for the domain's."""
    from finetune.evaluation.guard import pooled

    select = _half(inputs, "select")
    return pooled(select, max_texts=settings["general_texts"], seed=settings["seed"])
