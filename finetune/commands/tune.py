"""Search for settings: each trial is a training, scored on the select half.

Trials share every step that their settings leave alone. The search is kept in a database below the
cache; the same command goes on where it was stopped, with the trials that it would have made.
"""

import dataclasses
import hashlib
import json
import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import TPESampler
from optuna.trial import TrialState
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from finetune import pipeline, report, tracking
from finetune.commands.ranges import Range, Search, Value, value_of
from finetune.config import Config
from finetune.config.choices import Kind
from finetune.config.compose import GROUPS, compose
from finetune.errors import UserError
from finetune.records import write_json
from finetune.report.facts import METRIC_NAMES
from finetune.sets import EvaluationSet, ScoredSet
from finetune.stage import Planned, own_folder, plan
from finetune.steps import rounds

log = logging.getLogger(__name__)

# The metric of the select half, by what the domain holds.
_METRICS = {Kind.pairs: EvaluationSet.main, Kind.scored: ScoredSet.main}


@dataclass(frozen=True)
class Trial:
    """One training: the overrides that make it, and its best score on the select half."""

    number: int
    overrides: Sequence[str]
    score: float


@dataclass(frozen=True)
class Outcome:
    """All trials, best first, and the base's score on the select half."""

    search: Search
    trials: Sequence[Trial]
    base: float

    @property
    def command(self) -> str:
        """What trains with the best values."""
        overrides = [*self.search.fixed, *self.trials[0].overrides]
        return shlex.join(["python", "train.py", *overrides])


def run(search: Search) -> Outcome:
    """Make the trials that are still to be made; return all.

    Raises:
        UserError: A trial meets bad input.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    paths, name = search.as_is.paths, _name(search)
    folder = paths.runs / name
    database = paths.cache.absolute() / "tune" / f"{name}.db"
    database.parent.mkdir(parents=True, exist_ok=True)
    searched = {key.lstrip("+"): each.expression for key, each in search.space.items()}
    with (
        own_folder(folder),
        tracking.group(search.as_is.tracking, folder, searched) as group,
    ):
        study = optuna.create_study(
            study_name=name, storage=f"sqlite:///{database}", direction="maximize",
            load_if_exists=True,
        )  # fmt: skip
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(_values_as_is(search))
        _make_trials(study, search, partial(_train, search, folder, group.run_id))
        outcome = _outcome(study, search)
        write_json(folder / "trials.json", [dataclasses.asdict(each) for each in outcome.trials])
        metric = _METRICS[search.as_is.domain.kind]
        group.finish({f"best/select/{metric}": outcome.trials[0].score,
                      f"base/select/{metric}": outcome.base}, [folder / "trials.json"])  # fmt: skip
    return outcome


def show(outcome: Outcome) -> None:
    """Print the trials, best first, and the command that trains with the best values."""
    metric = METRIC_NAMES[_METRICS[outcome.search.as_is.domain.kind]]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("trial", justify="right", no_wrap=True)
    for key in outcome.search.space:
        table.add_column(Text(key.lstrip("+")), overflow="fold")
    table.add_column(metric, justify="right", no_wrap=True)
    table.add_column("Δ", justify="right", no_wrap=True)
    for trial in outcome.trials:
        values = [Text(each.partition("=")[2]) for each in trial.overrides]
        score, gain = f"{100 * trial.score:.2f}", f"{100 * (trial.score - outcome.base):+.2f}"
        table.add_row(str(trial.number + 1), *values, score, gain)
    report.show(table)
    report.show(Text(f"{metric} in points on the select half; Δ: difference to the base, "
                     f"{100 * outcome.base:.2f}", style="dim"))  # fmt: skip


def _distribution(each: Range) -> BaseDistribution:
    if each.choices:
        return CategoricalDistribution(each.choices)
    if each.whole:
        return IntDistribution(int(each.low), int(each.high), log=each.log)
    return FloatDistribution(each.low, each.high, log=each.log)


def _values_as_is(search: Search) -> dict[str, Value]:
    """The first trial's values: those of the run as it is, as far as the ranges hold them."""
    current = {
        key: each.choices[0] if key in GROUPS else value_of(search.as_is, key)
        for key, each in search.space.items()
    }
    return {
        key: str(value) if search.space[key].choices else value
        for key, value in current.items() if search.space[key].holds(value)
    }  # fmt: skip


def _name(search: Search) -> str:
    """The same for the same data, fixed settings and ranges, however many trials are asked for."""
    config = search.as_is
    ranges = {key: each.expression for key, each in search.space.items()}
    content = json.dumps([_trainings(config)[-1].key, ranges], ensure_ascii=False)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return f"tune-{config.recipe}-{config.domain.name}-{config.model.name}-{digest[:8]}"


def _trainings(config: Config) -> list[Planned]:
    """The steps of a run's plan that train, the last of which makes the model that it ends with."""
    config = pipeline.resolve(config)
    planned = plan(pipeline.steps_of(config), config.paths.cache)
    return [each for each in planned if each.step.call in pipeline.TRAINING]


def _make_trials(
    study: optuna.Study, search: Search, score: Callable[[Sequence[str]], float]
) -> None:
    ranges = {key: _distribution(each) for key, each in search.space.items()}
    while (made := len(_finished(study))) < search.trials:
        number, values = _next(study, ranges, search.as_is.seed)
        overrides = _overrides(search, values)
        log.info("trial %d of %d: %s", made + 1, search.trials, shlex.join(overrides))
        try:
            found = score(overrides)
        except UserError:
            study.tell(number, state=TrialState.FAIL)  # another call tries other values
            raise
        study.tell(number, found)
        log.info("trial %d of %d: select score %.4f", made + 1, search.trials, found)


def _next(
    study: optuna.Study, ranges: Mapping[str, BaseDistribution], seed: int
) -> tuple[int, dict[str, Value]]:
    """The trial that a killed call left, or a new one.

    The sampler is seeded by the number of trials before, so that a search that was stopped goes
    on to the same values.
    """
    for left in study.get_trials(states=(TrialState.RUNNING,)):
        if left.params.keys() == ranges.keys():
            return left.number, left.params
        study.tell(left.number, state=TrialState.FAIL)  # killed before its values were drawn
    before = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    study.sampler = TPESampler(seed=seed + len(before))
    trial = study.ask(dict(ranges))
    return trial.number, trial.params


def _train(search: Search, folder: Path, parent: str | None, overrides: Sequence[str]) -> float:
    """Train with these values; return the best score on the select half."""
    config = compose([*search.fixed, *overrides])
    trainings = _trainings(config)
    last = trainings[-1]
    pipeline.run(dataclasses.replace(
        config,
        until=last.step.name,
        run_dir=folder / last.key[:8],
        tracking=dataclasses.replace(config.tracking, name=" ".join(overrides), parent=parent),
    ))  # fmt: skip
    return float(_result(trainings)["best"])


def _result(trainings: Sequence[Planned]) -> dict[str, Any]:
    """What a trial's warm-up and rounds came to together."""
    return rounds.training({each.step.name: each.folder for each in trainings})


def _overrides(search: Search, values: Mapping[str, Value]) -> list[str]:
    return [f"{key}={each.text(values[key])}" for key, each in search.space.items()]


def _finished(study: optuna.Study) -> list[Any]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _outcome(study: optuna.Study, search: Search) -> Outcome:
    trials = [
        Trial(each.number, _overrides(search, each.params), each.value) for each in _finished(study)
    ]
    trials.sort(key=lambda trial: (-trial.score, trial.number))
    best = _trainings(compose([*search.fixed, *trials[0].overrides]))
    return Outcome(search, trials, float(_result(best)["base"]))
