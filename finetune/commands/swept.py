"""What a sweep came to: each of its settings over the seeds that it was trained with.

Runs that differ in the seed alone are one setting, read and compared as `finetune compare` does
(`finetune.commands.comparison`, `finetune.report.comparison`). The MLflow run above the sweep's
jobs gets each setting's mean, smallest and largest score as metrics, and a table.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune import tracking
from finetune.commands import comparison
from finetune.errors import UserError
from finetune.report.comparison import Line, System, compare
from finetune.report.facts import METRIC_NAMES
from finetune.report.verdict import p_text

log = logging.getLogger(__name__)

_BASE, _ARTIFACTS = "base", ("tuned", "onnx-int8-dynamic")
_LONGEST = 100  # characters of a setting in the name of a metric; MLflow takes 250 in all


@dataclass(frozen=True)
class Row:
    """One artifact of one setting on one set, by the metric that decides; fractions.

    Attributes:
        setting: What its jobs were given and others were not, but for the seed.
        artifact: ``tuned`` or ``onnx-int8-dynamic``.
        base: The base's score.
        line: Mean over the seeds, and the gain over the base with its interval and p-value.
        scores: One for each seed.
        gains: Over the base, one for each seed.
    """

    setting: str
    artifact: str
    base: float
    line: Line
    scores: Sequence[float]
    gains: Sequence[float]


def record(group: tracking.Group, runs: Mapping[str, Sequence[Path]], folder: Path) -> None:
    """Tell the run above a sweep's jobs what they came to; nothing where there is no such run.

    Args:
        group: The run above.
        runs: Directories of finished runs, by setting.
        folder: Of the sweep; gets ``<id of the run above>/settings.md``.
    """
    if group.run_id is None or not runs:
        return
    try:
        found = [row for setting, paths in runs.items() for row in rows(setting, paths)]
    except UserError as error:
        log.warning("mlflow: the run above the others gets no scores: %s", error)
        return
    path = folder / group.run_id / "settings.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(table(found), encoding="utf-8")
    group.finish(dict(metrics(found)), [path], table(found))


def rows(setting: str, paths: Sequence[Path]) -> Iterator[Row]:
    """Yield what a setting's artifacts got on each set that they and the base were measured on.

    Args:
        setting: Its name.
        paths: Directories of its runs, each of another seed.

    Raises:
        UserError: One of them is no finished run, or their sets are not the same.
    """
    runs = list(dict.fromkeys(paths))
    artifacts = [each for each in (_BASE, *_ARTIFACTS)
                 if all((run / "outcomes" / each).is_dir() for run in runs)]  # fmt: skip
    if _BASE not in artifacts:
        return
    found = comparison.read(runs, artifacts)
    if len(found) > len(artifacts):  # the same command on machines of two kinds
        raise UserError(
            f"{setting}: {len(runs)} runs that differ in more than the seed; to see them side by "
            f"side: finetune compare {' '.join(map(str, runs))}"
        )
    systems = dict(zip(artifacts, found, strict=True))
    for artifact in artifacts[1:]:
        yield from _rows(setting, artifact, systems[_BASE], systems[artifact])


def metrics(found: Sequence[Row]) -> Iterator[tuple[str, float]]:
    """Yield mean, smallest and largest score and gain, under the names that a single run has.

    ``tuned/legal/ndcg@10_mean`` and ``tuned/legal/ndcg@10_delta_mean``, so that sweeps stand side
    by side; of several settings, ``/<setting>`` behind it, so that they do.
    """
    settings = list(dict.fromkeys(row.setting for row in found))
    for row in found:
        key = f"{row.artifact}/{row.line.set}/{row.line.metric}"
        behind = f"/{_short(row.setting, settings)}" if len(settings) > 1 else ""
        for name, values in ((key, row.scores), (f"{key}_delta", row.gains)):
            yield f"{name}_mean{behind}", float(np.mean(values))
            yield f"{name}_min{behind}", min(values)
            yield f"{name}_max{behind}", max(values)


def table(found: Sequence[Row]) -> str:
    """The Markdown table: a row for each setting, set and artifact."""
    lines = ["| setting | set | artifact | seeds | score | base | gain | 95 % | p |",
             "| --- " * 9 + "|"]  # fmt: skip
    lines += [f"| {' | '.join(_cells(row))} |" for row in found]
    told = dict.fromkeys(METRIC_NAMES[row.line.metric] for row in found)
    return "\n".join([
        *lines, "",
        f"{' and '.join(told)} in points: the mean over seeds (smallest – largest). The interval "
        "of the gain is over queries and seeds; p is adjusted for the number of sets (Holm). "
        "Whether one setting is better than another: `finetune compare <run> <run> …`", "",
    ])  # fmt: skip


def _rows(setting: str, artifact: str, base: System, other: System) -> Iterator[Row]:
    shared = [name for name in other.outcomes if name in base.outcomes]
    pair = [System(each.name, {name: each.outcomes[name] for name in shared})
            for each in (base, other)]  # fmt: skip
    lines = compare(pair, main_only=True)
    for before, line in zip(lines[::2], lines[1::2], strict=True):
        bases, scores = ([float(each.metrics[line.metric].mean()) for each in s.outcomes[line.set]]
                         for s in pair)  # fmt: skip
        gains = [score - one for one, score in zip(bases, scores, strict=True)]
        yield Row(setting, artifact, before.value, line, scores, gains)


def _short(setting: str, settings: Sequence[str]) -> str:
    """A setting as a part of a metric's name, where a slash begins another part."""
    name = setting.replace("=", " ").replace("/", "_")
    if len(name) <= _LONGEST:
        return name
    return f"{name[:_LONGEST]} {settings.index(setting) + 1}"


def _cells(row: Row) -> Iterator[str]:
    line = row.line
    yield from (row.setting.replace("|", "\\|"), line.set, row.artifact, str(line.seeds))
    yield f"{100 * line.value:.1f}{_range(row.scores, '.1f')}"
    yield f"{100 * row.base:.1f}"
    yield f"{100 * (line.delta or 0.0):+.1f}{_range(row.gains, '+.1f')}"
    yield f"{100 * (line.delta_low or 0.0):+.1f} – {100 * (line.delta_high or 0.0):+.1f}"
    yield p_text(line.p_holm or 0.0).removeprefix("= ")


def _range(values: Sequence[float], form: str) -> str:
    """The smallest and the largest of several."""
    if len(values) == 1:
        return ""
    return f" ({100 * min(values):{form}} – {100 * max(values):{form}})"
