"""The steps that read a domain: what evaluates it, and the pairs that it is tuned on.

They are two, as are what the base gets and what training makes of it: other pairs, another limit or
seed leave the first as it is, and with it the vectors of the corpus and the base's scores.
"""

from collections.abc import Mapping
from pathlib import Path

from finetune.config import Config
from finetune.errors import UserError
from finetune.sets import read_halves
from finetune.stage import Inputs, Settings, Step

_SEARCHED = 1 << 30  # bytes of a file beside the domain's that a run reads


def steps_of(
    config: Config, folders: Mapping[str, Path], pairs: Mapping[str, Path]
) -> tuple[Step, Step]:
    """The two steps, in order.

    Args:
        config: Of the run.
        folders: What evaluates, as `finetune.sources.set_files` finds it.
        pairs: What is trained on, as `finetune.sources.pair_files` finds it.
    """
    domain = config.domain
    names = [path.resolve().name for path in (domain.dev, domain.test) if path]
    evaluated = Step(
        "sets", sets, 3,
        {"kind": domain.kind, "source": domain.source, "full": domain.full, "names": names},
        files=folders,
        outside={"domain": domain, "check": config.check, "model": config.model,
                 "searched": config.paths.data},
    )  # fmt: skip
    trained_on = Step(
        "data", data, 18,
        {"domain": domain, "check": config.check, "limit": config.limit,
         "seed": 0 if config.limit is None else config.seed},  # which draws a limit's pairs
        {"sets": "sets"},
        files=pairs,
        outside={"model": config.model, "max_length": config.train.max_length},
    )  # fmt: skip
    return evaluated, trained_on


def sets(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Read what evaluates the domain: what selects, and what reports.

    Says in the log which other sets under ``paths.data`` ask the same.
    """
    from finetune.data import contamination
    from finetune.data.parts import write_halves
    from finetune.data.prepare import load, questions, tell_found

    try:
        found = questions(settings["domain"])
    except UserError:
        load(settings["domain"], settings["check"])  # tells what is wrong with the pairs too
        raise
    write_halves(out, found)
    if settings["searched"] is not None:
        own = contamination.own(settings["domain"])
        every = (*found.select, *found.report)
        tell_found(list(contamination.by_text(
            every, settings["searched"], own, settings["model"], _SEARCHED
        )))  # fmt: skip


def data(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Load and check the domain's pairs."""
    from finetune.data.prepare import prepare

    prepare(settings["domain"], settings["check"], settings["limit"], settings["seed"], out,
            settings["model"], settings["max_length"], read_halves(inputs["sets"]))  # fmt: skip
