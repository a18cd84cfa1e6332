"""The ordered list of steps of a run, and how it is run.

`steps` is a pure function of the configuration: a step names its inputs by step name, so that it
reads as the data flow does. There is no other graph machinery.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune import dims, hub, publishing, sources, tracking
from finetune.config import Config, Export, artifact, writing
from finetune.config.check import target_problems
from finetune.config.choices import Kind, Source, Use
from finetune.errors import UserError, nearest
from finetune.machine import gpu, hardware, processes
from finetune.planning import budget
from finetune.stage import Done, Planned, Step, execute, own_folder, plan
from finetune.steps import augment as augment_steps
from finetune.steps import cmteb, forgetting, reading, reporting, rounds
from finetune.steps import core as steps
from finetune.steps import distill as distill_steps
from finetune.steps import mix as mix_steps
from finetune.steps import pseudo as pseudo_steps
from finetune.steps import script as script_steps

log = logging.getLogger(__name__)

TRAINING = (steps.train, distill_steps.distill)


def resolve(config: Config) -> Config:
    """Replace what depends on the machine and the hub by what it is here and now.

    Checks what must be there, too.

    Raises:
        UserError: With every problem found.
    """
    problems = []
    if config.domain.source is Source.files:
        problems += sources.missing_data(config)
    problems += mix_steps.missing(config)
    problems += pseudo_steps.missing(config)
    problems += augment_steps.missing(config)
    problems += cmteb.problems(config)
    if config.until is not None and not problems:  # the plan looks at the data
        names = [step.name for step in steps_of(config)]
        if config.until not in names:
            problems.append(f"until={config.until}: no such step; {nearest(config.until, names)}")
    if config.train.batch_size % processes.count():
        problems.append(
            f"train.batch_size={config.train.batch_size}: cannot be shared evenly by "
            f"{processes.count()} processes; take a multiple"
        )
    if problems:
        raise UserError(*problems)
    script_steps.tell(config)
    config = distill_steps.with_teacher(sources.pinned(config))
    distill_steps.tell(config)
    return dataclasses.replace(
        config,
        evaluate=dataclasses.replace(config.evaluate, general=forgetting.folder_of(config)),
        hardware=hardware.resolve(config.hardware),
        model=hub.resolved(config.model),
        mine=rounds.resolved(config),
    )


def steps_of(config: Config) -> list[Step]:
    """Return the steps of a run, in order."""
    config = distill_steps.with_teacher(config)
    distilled = config.distill.asked
    lengths = dims.of(config.loss)
    scored = config.domain.kind is Kind.scored
    mined = config.mine.rounds > 0 and not scored
    generated = config.generate.use is not Use.none
    warm = config.generate.use is Use.warmup
    own = "generate" if generated and not warm else "data"
    labelled = pseudo_steps.asked(config)
    noisy = config.noise.cut > 0
    trained_on = "pseudo" if labelled else own
    clean = "noise" if noisy else trained_on
    pairs = "mine" if mined else clean
    machine = {"device": config.hardware.device, "threads": config.hardware.threads}
    machine |= script_steps.encoding(config)
    general = forgetting.folder_of(config)
    mixed = mix_steps.OUTPUTS if config.mix else {}
    mix = mix_steps.train_settings(config) if config.mix else {}
    encoding = machine | {"encode_tokens": config.hardware.encode_tokens}
    exported_base = _export_settings(config, _fp32(config), config.model.name) | machine
    exported_base |= {"seed": 0}  # all runs of a base share what it gets
    outside = {"workers": config.hardware.workers, "chunk": config.hardware.chunk}
    label = pseudo_steps.steps_of(config, own, general) if labelled else ()
    first = [
        *reading.steps_of(config, sources.set_files(config), sources.pair_files(config)),
        *([forgetting.read_step(general)] if general else []),
        *([_generate(config)] if generated else []),
        *([mix_steps.read_step(config, general)] if config.mix else []),
        *label[:1],
        Step("base", steps.base, 1, {"model": config.model}, files=sources.model_files(config)),
        Step(
            "export-base", steps.export, 2, exported_base,
            {"model": "base", "sets": "sets"},
        ),
    ]  # fmt: skip
    corpus = Step(
        "corpus", steps.corpus, 1, encoding,
        {"model": "base", "export": "export-base", "sets": "sets"},
    )  # fmt: skip
    embed = Step(
        "embed", steps.embed, 4, encoding,
        {"model": "base", "export": "export-base", "sets": "sets", "pairs": own, "corpus": "corpus"}
        | ({"queries": "queries"} if labelled else {}),
    )  # fmt: skip
    noise = Step("noise", steps.noise, 3, {"noise": config.noise},
                 {"embed": "embed", "pairs": trained_on})  # fmt: skip
    mine = Step(
        "mine", steps.mine, 6, rounds.mine_settings(config, machine),
        {"embed": "embed", "pairs": clean}, files=rounds.filter_files(config),
    )  # fmt: skip
    warmup = Step(
        "warmup", steps.train, 8, _train_settings(config, mined=False) | encoding,
        {"model": "base", "pairs": "generate", "select": "pool"}, resumes=True, outside=outside,
    )  # fmt: skip
    train = Step(
        "train", steps.train, 8, _train_settings(config, mined=mined) | encoding | mix,
        {"model": "warmup" if warm else "base", "pairs": pairs, "select": "pool"} | mixed,
        resumes=True, outside=outside,
    )  # fmt: skip
    later = rounds.later([first[-1], embed, mine, train], config.mine.rounds)
    trained = later[-1].name if later else "train"
    merging = bool(config.merge.weights)
    tuned = "merge" if merging else trained
    benchmark = cmteb.steps_of(config, tuned, encoding)
    evaluate = Step(
        "evaluate", steps.evaluate, 4,
        _evaluate_settings(
            config, dims.named(["tuned", *map(artifact, config.export.precisions)], lengths)
        ) | encoding,
        {"model": tuned, "export": "export", "sets": "sets"},
    )  # fmt: skip
    planned = [
        *first,
        *([] if scored else [corpus, embed]),  # scored pairs have no corpus to search
        *label[1:],
        *([noise] if noisy else []),
        *([mine] if mined else []),
        Step(
            "pool", steps.pool, 4,
            {"guard_share": config.train.guard_share, "epochs": config.train.epochs,
             "checkpoints": config.train.checkpoints, "seed": config.seed},
            {"sets": "sets", "pairs": pairs},
        ),
        *([warmup] if warm else []),
        *([distill_steps.student_step(config, own)] if distilled else []),
        distill_steps.train_step(train, config) if distilled else train,
        *later,
        *(forgetting.base_steps(exported_base, encoding) if general else []),
        *(forgetting.merge_steps(config, trained, encoding, general) if merging else []),
        Step(
            "export", steps.export, 8,
            _export_settings(config, config.export, _name(config))
            | {"quantize": config.quantize} | machine
            # Bundles whose vectors may not be cut, and their keys, know nothing of lengths.
            | ({"dims": lengths} if lengths else {}),
            {"model": tuned, "sets": "sets"},
        ),
        Step(
            "evaluate-base", steps.evaluate, 5,
            _evaluate_settings(config, ["base"] if scored else ["bm25", "base"]) | encoding,
            {"model": "base", "export": "export-base", "sets": "sets"}
            | ({} if scored else {"corpus": "corpus"}),
        ),
        distill_steps.evaluate_step(evaluate) if distilled else evaluate,
        *([forgetting.tuned_step(tuned, encoding)] if general else []),
        *benchmark,
        Step(
            "report", reporting.report, 16,
            {"recipe": config.recipe, "domain": config.domain.name, "model": config.model,
             "evaluate": dataclasses.replace(config.evaluate, general=None), "seed": config.seed,
             "mined": mined, "report": config.report, "max_length": config.train.max_length,
             "scripts": script_steps.conversion(config)}
            | script_steps.encoding(config)
            | writing.prices(config.writer, config.evaluate.currency)
            | ({"distill": dataclasses.replace(config.distill, teacher=None)} if distilled else {}),
            {"data": trained_on, "sets": "sets", "pairs": pairs, "export": "export",
             "evaluate_base": "evaluate-base", "evaluate": "evaluate"} | mixed
            | rounds.outputs(config.mine.rounds, warm=warm)
            | (forgetting.OUTPUTS if general else {})
            | ({"noise": "noise"} if noisy else {})
            | ({"written": "generate"} if generated and config.writer.asked else {})
            | ({"merge": "merge"} if merging else {})
            | {step.name: step.name for step in benchmark},
            files=sources.cards(config) | script_steps.dictionary(config),
        ),
    ]  # fmt: skip
    return script_steps.applied(augment_steps.applied(planned, config), config)


def _generate(config: Config) -> Step:
    return Step(
        "generate", steps.generate, 11,
        {"generate": config.generate, "domain": config.domain, "check": config.check,
         "limit": config.limit, "seed": config.seed} | writing.settings(config.writer),
        {"data": "data", "sets": "sets"},
        files=sources.document_files(config),
        outside={"model": config.model}
        | writing.outside(config.writer, config.paths.cache, config.evaluate.currency),
    )  # fmt: skip


def _train_settings(config: Config, *, mined: bool) -> dict[str, Any]:
    return {"train": config.train, "adapter": config.adapter, "loss": config.loss,
            "seed": config.seed, "mined": mined, "precision": config.hardware.precision,
            "attention": config.hardware.attention, "compile": config.hardware.compile,
            "processes": config.hardware.processes}  # fmt: skip


def run(config: Config) -> dict[str, Any] | None:
    """Run the pipeline; return the content of ``report.json`` (None where ``until`` stopped it).

    Raises:
        UserError: When input or configuration is at fault.
    """
    config = resolve(config)
    planned = plan(steps_of(config), config.paths.cache)
    run_dir = directory(config, planned[-1].key)
    with own_folder(run_dir):
        log.info("plan for %s:", run_dir)
        budget.show(planned, config)
        last = [each.step.name for each in planned].index(config.until or planned[-1].step.name)
        gpu.check(planned[: last + 1], config.hardware.name)
        publishing.settings(config, run_dir)
        with tracking.track(config, run_dir) as tracked:
            done: dict[str, Done] = {}
            resumed = {each.step.name for each in planned if each.partial.exists()}
            for each in planned:
                if each.step.name == "base":  # from here on it takes long; rows are read by now
                    _check_targets(config, planned)
                if each.step.call in TRAINING:
                    places = [folder / "curves.jsonl" for folder in (each.partial, each.folder)]
                    tracked.watch(places, rounds.steps_before(done), live=not each.cached)
                folders = {name: finished.folder for name, finished in done.items()}
                done[each.step.name] = execute(each, folders)
                if not done[each.step.name].cached:
                    hardware.give_memory_back()
                if each.step.name == "export-base":
                    base = done["export-base"].folder / "bundle"
                    dims.check(dims.of(config.loss), base, config.model.name)
                if each.step.name == config.until:
                    budget.remember(planned, done, resumed, config)
                    publishing.left_out(done, run_dir / "dropped")
                    log.info("stopped after %s: %s", config.until, each.folder)
                    return None
            budget.remember(planned, done, resumed, config)
            by_name = {each.step.name: each for each in planned}
            tuned = by_name[by_name["export"].step.inputs["model"]]
            report = publishing.results(done, tuned, run_dir, config)
            tracked.finish(report)
    log.info("run: %s", run_dir)
    return report


def directory(config: Config, key: str) -> Path:
    """Where a run leaves its results, by the key of its last step."""
    return config.run_dir or config.paths.runs / f"{_name(config)}-{key[:8]}"


def _check_targets(config: Config, planned: Sequence[Planned]) -> None:
    if any(each.step.call in TRAINING and not each.cached for each in planned):
        problems = list(target_problems("loss", config.loss))
        for name, each in config.mix.items():
            problems += target_problems(f"mix.{name}.loss", each.loss) if each.loss else []
        if config.adapter:
            problems += target_problems("adapter", config.adapter)
        if problems:
            raise UserError(*problems)


def _name(config: Config) -> str:
    return f"{config.recipe}-{config.domain.name}-{config.model.name}"


def _export_settings(config: Config, export: Export, name: str) -> dict[str, Any]:
    return {"model": config.model, "export": export, "name": name, "seed": config.seed}


def _fp32(config: Config) -> Export:
    """What a base's export reads: were it more, another export would train all anew."""
    return Export(["fp32"], None, 100, {"fp32": config.export.floors["fp32"]})


def _evaluate_settings(config: Config, artifacts: Sequence[str]) -> dict[str, Any]:
    return {"artifacts": list(artifacts), "speed_texts": config.evaluate.speed_texts,
            "seed": 0}  # fmt: skip  # all are timed on the same passages, and the base once
