"""Systems side by side: what each query got, compared with tests of significance."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from finetune.errors import UserError
from finetune.evaluation.artifacts import Outcome
from finetune.evaluation.statistics import compare_seeds, holm, interval_of_seeds, visible
from finetune.records import write_json
from finetune.report.facts import METRIC_NAMES, counted
from finetune.report.scores import slices
from finetune.report.table import show as show_table
from finetune.report.verdict import p_text

log = logging.getLogger(__name__)

ALPHA = 0.05
_SAMPLES = 10_000
_SEED = 0


@dataclass(frozen=True)
class System:
    """What is compared: a way to train, or an artifact.

    Attributes:
        name: What the tables call it.
        outcomes: By set, an outcome for each seed that it was trained with.
    """

    name: str
    outcomes: Mapping[str, tuple[Outcome, ...]]


@dataclass(frozen=True)
class Line:
    """One system on one set by one metric, against the first system; fractions.

    ``n`` counts queries, ``seeds`` trainings. ``p_holm`` is the p-value adjusted for the number of
    sets and systems; ``smallest`` is the difference that this comparison would have shown 4 times
    in 5; ``verdict`` is ``better``, ``worse`` or ``inside the noise``. All that compares is None
    for the first system.
    """

    system: str
    set: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    n: int
    seeds: int
    delta: float | None = None
    delta_low: float | None = None
    delta_high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    smallest: float | None = None
    verdict: str | None = None


def compare(systems: Sequence[System], *, main_only: bool = False) -> list[Line]:
    """Compare every system with the first, on the sets and slices that all were measured on.

    Args:
        systems: Two or more.
        main_only: Leave out slices, and all metrics but the one that decides.

    Raises:
        UserError: There is nothing to compare.
    """
    if len(systems) < 2:
        raise UserError(
            "compare: one system only; name two runs or more, or two artifacts of one: "
            "--artifact base --artifact tuned"
        )
    measured = dict.fromkeys(name for each in systems for name in each.outcomes)
    shared = [name for name in measured if all(name in each.outcomes for each in systems)]
    if not shared:
        raise UserError(
            "compare: no set on which all were measured; there are "
            + "; ".join(f"{each.name}: {', '.join(each.outcomes)}" for each in systems)
            + ". Name folders on which all are scored anew: --data <folder>"
        )
    for name in measured.keys() - shared:
        log.warning("%s: not measured for all, and left out", name)
    lines = [line for name in shared for line in _lines(systems, name, main_only=main_only)]
    return _judged(lines)


def show(lines: Sequence[Line]) -> None:
    """Print a table a set: the metric that decides, and what the differences are worth."""
    for name in dict.fromkeys(line.set for line in lines if "/" not in line.set):
        of_set = [line for line in lines if line.set == name]
        main = of_set[0].metric
        title = Text(f"{name} ({of_set[0].n} {counted(main)})", style="bold")
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("", overflow="fold")
        for heading in (METRIC_NAMES[main], "Δ", "95 %", "p"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("", overflow="fold")
        for line in of_set:
            if line.metric == main:
                table.add_row(Text(line.system), *_cells(line))
        show_table(table)
    note = "In points ± half the 95 % interval; Δ: difference to the first; p: adjusted (Holm)"
    show_table(Text(note, style="dim"))


def save(lines: Sequence[Line], path: Path) -> None:
    """Write ``{"reference", "comparisons"}``."""
    rows = [dataclasses.asdict(line) for line in lines]
    write_json(path, {"reference": lines[0].system, "comparisons": rows})


def _lines(systems: Sequence[System], name: str, *, main_only: bool) -> Iterator[Line]:
    """Measure all systems on one set and its slices."""
    first = systems[0].outcomes[name]
    queries = first[0].queries
    for system in systems:
        for outcome in system.outcomes[name]:
            if outcome.queries != queries or outcome.metrics.keys() != first[0].metrics.keys():
                raise UserError(
                    f"compare: {name}: {systems[0].name} and {system.name} were not measured on "
                    "the same queries by the same metrics; score both anew: --data <folder>"
                )
    metrics = [first[0].main] if main_only else first[0].metrics
    parts = [(name, metric, np.arange(len(queries))) for metric in metrics]
    if not main_only:
        parts += [(f"{name}/{key}", first[0].main, rows) for key, rows in slices(queries).items()]
    for part, metric, rows in parts:
        for system in systems:
            yield _line(system, part, _values(system, name, metric, rows),
                        _values(systems[0], name, metric, rows), metric,
                        reference=system is systems[0])  # fmt: skip


def _values(system: System, name: str, metric: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.stack([outcome.metrics[metric][rows] for outcome in system.outcomes[name]])


def _line(
    system: System, part: str, values: NDArray[np.float64], base: NDArray[np.float64],
    metric: str, *, reference: bool,
) -> Line:  # fmt: skip
    low, high = np.clip(interval_of_seeds(values, _SAMPLES, _SEED), -1, 1).tolist()
    line = Line(system.name, part, metric, float(values.mean()), low, high, values.shape[1],
                len(values))  # fmt: skip
    if reference:
        return line
    found = compare_seeds(base, values, _SAMPLES, _SEED)
    return dataclasses.replace(
        line, delta=found.delta, delta_low=found.ci_low, delta_high=found.ci_high,
        p_value=found.p_value, smallest=visible(found, base, values),
    )  # fmt: skip


def _judged(lines: Sequence[Line]) -> list[Line]:
    """Adjust the p-values, sets and slices apart, and say what each difference is worth."""
    families: dict[tuple[str, bool], list[int]] = {}
    for place, line in enumerate(lines):
        if line.p_value is not None:
            families.setdefault((line.metric, "/" in line.set), []).append(place)
    judged = list(lines)
    for places in families.values():
        values = holm([lines[place].p_value or 0.0 for place in places])
        for place, value in zip(places, values, strict=True):
            better = "better" if (lines[place].delta or 0.0) > 0 else "worse"
            verdict = better if value < ALPHA else "inside the noise"
            judged[place] = dataclasses.replace(lines[place], p_holm=value, verdict=verdict)
    return judged


def _cells(line: Line) -> Iterator[str]:
    seeds = f" of {line.seeds} seeds" if line.seeds > 1 else ""
    yield f"{100 * line.value:.1f} ±{50 * (line.ci_high - line.ci_low):4.1f}"
    if line.delta is None or line.delta_low is None or line.delta_high is None:
        yield from ("", "", "", f"mean{seeds}" if seeds else "")
        return
    yield f"{100 * line.delta:+.1f}"
    yield f"{100 * line.delta_low:+.1f} – {100 * line.delta_high:+.1f}"
    yield p_text(line.p_holm or 0.0).removeprefix("= ")
    told = f"{line.verdict}"
    if line.verdict == "inside the noise":
        told += f" (from about {100 * (line.smallest or 0.0):.1f} on it would show)"
    yield told + (f"; mean{seeds}" if seeds else "")
