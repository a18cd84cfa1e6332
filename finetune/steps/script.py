"""The steps that convert between scripts, and their places in a plan.

Where all texts are converted (``script=s2tw``), that comes first: everything after it sees one
script. Where training sees both (``both``, ``mix:0.5``), texts are encoded and mined as they are,
and rows are converted last, so that a negative is in the script of its positive and nothing is
mined anew. ``encode.script`` converts in the encoders; training rows and the guard's questions,
which no encoder converts, pass through the same conversion here. Mixed sets are converted by the
rules of the domain's rows.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.config import Config
from finetune.config.choices import Kind
from finetune.records import (
    ROWS,
    read_json,
    read_jsonl,
    read_known,
    write_json,
    write_jsonl,
)
from finetune.script import KEEP, WHOLE, is_mixed
from finetune.sets import Halves, only_set, read_halves, write_set
from finetune.stage import Inputs, Settings, Step
from finetune.steps.rounds import beside

log = logging.getLogger(__name__)

# Steps that go on reading texts as they are: they make texts of them, look for leaks in either
# script, or hold an export that all runs of a base share against torch.
_AS_GIVEN = ("data", "generate", "mix", "export-base")
_SETS = "script-sets"  # the step whose sets stand in for those of ``sets``
# Steps whose questions are asked as training and encoding will, and the step that rewrites them.
_ASKED = {"pool": "script-select", "merge-pool": "script-merge-pool"}
# How much more one scoring of the guard costs where each question is asked twice: a sixth of its
# texts at most are questions; of scored pairs all are.
_TWICE = {Kind.pairs: 7 / 6, Kind.scored: 2.0}


def encoding(config: Config) -> dict[str, str]:
    """What steps that encode read beside the machine."""
    return {"script": config.encode.script} if config.encode.script != KEEP else {}


def conversion(config: Config) -> dict[str, Any]:
    """What steps that convert read: where the user's dictionary lies does not count."""
    opencc = replace(config.opencc, dictionary=None)
    return {"script": config.script, "opencc": opencc, "encode": config.encode.script}


def dictionary(config: Config) -> dict[str, Path]:
    """The user's dictionary, read once to tell its mistakes before any work."""
    path = config.opencc.dictionary
    if path is None:
        return {}
    from finetune.data.terms import read_dictionary

    read_dictionary(path)
    return {"dictionary": path}


def tell(config: Config) -> None:
    """Warn of entries of the user's dictionary that do not count, since a protected word does.

    And of a base that was tuned for converted texts, where texts are not converted alike.

    Raises:
        UserError: The dictionary cannot be read.
    """
    if config.opencc.dictionary is not None:
        from finetune.data.terms import decided, read_dictionary

        words = read_dictionary(config.opencc.dictionary)
        for word, kept in decided(words, config.opencc.protect).items():
            log.warning("opencc.dictionary: the entry %s is left out, there and back: "
                        "opencc.protect has %s", word, kept)  # fmt: skip
    path = config.model.path
    if path is None or not path.is_dir():
        return
    from finetune.inference.script import read_script

    noted = read_script(path)
    if KEEP != noted != config.encode.script:
        log.warning("model.path=%s was tuned with encode.script=%s, and this run has %s", path,
                    noted, config.encode.script)  # fmt: skip


def applied(planned: Sequence[Step], config: Config) -> list[Step]:
    """Put the steps that convert, and the one that adds characters, into a plan.

    Raises:
        UserError: The dictionary cannot be read.
    """
    made = list(planned)
    if config.script != KEEP or config.encode.script != KEEP:
        made = _mix_converted(made, config)
        made = (_all_converted if config.script in WHOLE else _rows_converted)(made, config)
    if _measured(config) and config.script not in WHOLE:
        made = _with_sets(made, config)
    return _with_characters(made, config) if config.encode.add_characters else made


def script(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Convert training rows."""
    counts = _rewritten(inputs["pairs"], settings["rows"], settings, inputs, out)
    summary = inputs["pairs"] / "summary.json"
    write_json(out / "summary.json", {**read_json(summary), "script": counts})


def script_mix(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Convert the rows of mixed sets."""
    summary = read_json(inputs["mixed"] / "summary.json")
    for name, kind in settings["rows"].items():
        (out / name).mkdir()
        summary[name]["script"] = _rewritten(
            inputs["mixed"] / name, kind, settings, inputs, out / name
        )
    write_json(out / "summary.json", summary)


def _rewritten(
    given: Path, kind: str, settings: Settings, inputs: Inputs, out: Path
) -> dict[str, Any]:
    """Write the rows of a folder in their script; return what was converted."""
    from finetune.data.script import Scripts, rewrite

    scripts = Scripts.of(settings["script"], settings["opencc"], inputs.get("dictionary"))
    result = rewrite(
        read_jsonl(given / "train.jsonl", ROWS[kind]), read_known(given), settings["script"],
        scripts, crossed=settings["opencc"].crossed, encode=settings["encode"],
        seed=settings["seed"],
    )  # fmt: skip
    write_jsonl(out / "train.jsonl", result.rows)
    write_jsonl(out / "known.jsonl", result.known)
    write_jsonl(out / "script.jsonl", result.lost)
    return {"setting": settings["script"], "encode": settings["encode"], **result.counts}


def script_sets(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Convert the evaluation sets, where all texts are converted.

    Where both scripts are measured, put beside each set of the report half the same set crossed,
    and in the other script; of a mixed set in either.
    """
    from finetune.data.parts import write_halves
    from finetune.data.script import Scripts, convert_set, in_scripts

    scripts = Scripts.of(settings["script"], settings["opencc"], inputs.get("dictionary"))
    select, report = read_halves(inputs["sets"])
    if settings["script"] in WHOLE:
        way = scripts.to_simplified if settings["script"] == "t2s" else scripts.to_traditional
        select, report = (tuple(convert_set(each, way.convert) for each in half)
                          for half in (select, report))  # fmt: skip
    if settings["measured"]:
        report += tuple(more for each in report for more in in_scripts(each, scripts))
    write_halves(out, Halves(select, report))


def script_select(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Ask what chooses a model as training and encoding will: in both scripts, or converted."""
    from finetune.data.script import Scripts, asked_twice, convert_set
    from finetune.inference.script import converter

    select = only_set(inputs["select"])
    if settings["encode"] != KEEP:
        select = convert_set(select, converter(settings["encode"]))
    else:
        scripts = Scripts.of(settings["script"], settings["opencc"], inputs.get("dictionary"))
        select = asked_twice(select, scripts)
    write_set(out / select.name, select)


def characters(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Give a model the characters of the domain's texts that its tokenizer does not know."""
    from finetune import model as models
    from finetune.characters import add_characters
    from finetune.data.script import Scripts
    from finetune.data.tokens import domain_texts
    from finetune.inference.script import converter

    model = models.load(inputs["model"] / "model")
    pairs = [inputs[name] for name in ("data", "generate") if name in inputs]
    scripts = Scripts.of(settings["script"], settings["opencc"], inputs.get("dictionary"))
    converts = [*scripts.converts.values(), converter(settings["encode"])]
    added = add_characters(model, domain_texts(pairs, inputs["sets"]), converts)
    models.save(model, out / "model")
    write_json(out / "characters.json", added)


def _all_converted(planned: Sequence[Step], config: Config) -> list[Step]:
    made: list[Step] = []
    renamed = {"sets": _SETS, "data": "script", "generate": "script-generate"}
    for step in planned:
        made.append(step if step.name in _AS_GIVEN else _reading(step, renamed))
        if step.name == "sets":
            settings = conversion(config) | {"measured": _measured(config)}
            made.append(_sets_step(settings, config))
        if step.name == "data":
            made.append(_step("script", {"pairs": "data"}, config))
        if step.name == "generate":
            made.append(_step("script-generate", {"pairs": "generate"}, config))
    return made


def _rows_converted(planned: Sequence[Step], config: Config) -> list[Step]:
    made: list[Step] = []
    for step in planned:
        inputs = dict(step.inputs)
        if "select" in inputs:
            inputs["select"] = _ASKED[inputs["select"]]
        if step.name == "pool" and is_mixed(config.script) and config.encode.script == KEEP:
            share = step.settings["guard_share"] / _TWICE[config.domain.kind]
            step = replace(step, settings={**step.settings, "guard_share": share})
        # A student is taught the vectors that the embed step made of these very texts.
        if "select" in inputs and "pairs" in inputs and "embed" not in inputs:
            name = beside(step.name, "script")
            mined = bool(step.settings["mined"])
            made.append(_step(name, {"pairs": inputs["pairs"]}, config, mined=mined))
            inputs["pairs"] = name
        if step.name == "report" and any(each.name == "script" for each in made):
            inputs["script"] = "script"
        made.append(replace(step, inputs=inputs))
        if step.name in _ASKED:
            made.append(Step(_ASKED[step.name], script_select, 3, conversion(config),
                             {"select": step.name}, dictionary(config)))  # fmt: skip
    return made


def _mix_converted(planned: Sequence[Step], config: Config) -> list[Step]:
    made: list[Step] = []
    for step in planned:
        made.append(_reading(step, {"mix": "script-mix"}))
        if step.name == "mix":
            kinds = {name: each.kind.value for name, each in config.mix.items()}
            settings = conversion(config) | {"rows": kinds, "seed": config.seed}
            made.append(
                Step("script-mix", script_mix, 4, settings, {"mixed": "mix"}, dictionary(config))
            )
    return made


def _with_sets(planned: Sequence[Step], config: Config) -> list[Step]:
    made: list[Step] = []
    for step in planned:
        both = step.name in ("evaluate", "evaluate-base", "report")
        made.append(_reading(step, {"sets": _SETS}) if both else step)
        if step.name == "sets":
            # However rows are mixed, the sets are the same, and so is what the base gets on them.
            opencc = replace(conversion(config)["opencc"], crossed=0.0)
            settings = {"script": KEEP, "opencc": opencc, "measured": True}
            made.append(_sets_step(settings, config))
    return made


def _sets_step(settings: Settings, config: Config) -> Step:
    return Step(_SETS, script_sets, 4, settings, {"sets": "sets"}, dictionary(config))


def _with_characters(planned: Sequence[Step], config: Config) -> list[Step]:
    """Let everything that trains start from the model that knows the characters."""
    made: list[Step] = []
    names = [step.name for step in planned]
    texts: dict[str, str] = {name: name for name in ("sets", "data", "generate") if name in names}
    for step in planned:
        if step.inputs.get("model") == "base" and "select" in step.inputs:
            if all(each.name != "characters" for each in made):
                settings, files = conversion(config), dictionary(config)
                read = {"model": "base", **texts}
                made.append(Step("characters", characters, 2, settings, read, files))
            step = _reading(step, {"base": "characters"})
        if step.name == "report":
            step = replace(step, inputs={**step.inputs, "characters": "characters"})
        made.append(step)
    return made


def _step(name: str, inputs: Mapping[str, str], config: Config, *, mined: bool = False) -> Step:
    rows = "mined" if mined else config.domain.kind.value
    settings = conversion(config) | {"rows": rows, "seed": config.seed}
    return Step(name, script, 4, settings, inputs, dictionary(config))


def _measured(config: Config) -> bool:
    asked = config.evaluate.scripts
    # Who trains on one script alone need not know what became of the other.
    return is_mixed(config.script) or config.encode.script != KEEP if asked is None else asked


def _reading(step: Step, renamed: Mapping[str, str]) -> Step:
    inputs = {name: renamed.get(source, source) for name, source in step.inputs.items()}
    return replace(step, inputs=inputs)
