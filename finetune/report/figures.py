"""Which plots a report has, each with its caption; one without data is left out."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from finetune.records import Score, read_dicts
from finetune.report.facts import MAIN, METRIC_NAMES, Facts, in_order, is_cut
from finetune.report.page import slice_rows
from finetune.report.plots import Bar, Dot, Panel, curve, histograms, intervals, paired, scatter
from finetune.report.scores import by_length
from finetune.report.words import Said, say, translated

Plots = dict[str, tuple[str, Markup]]

_SHOWN = ("base", "tuned", "onnx-int8-dynamic")  # of the histograms


def plotted(
    facts: Facts,
    rows: Sequence[Score],
    similarity: Mapping[str, Any],
    thresholds: Mapping[str, Any],
) -> Plots:
    """Draw what there is to draw, in the language of the facts.

    Args:
        facts: What the run found out.
        rows: All scores.
        similarity: How cosines are distributed, by artifact.
        thresholds: From which cosine on texts match, by artifact.
    """
    main = [row for row in rows if row.metric in MAIN and not is_cut(row.artifact)]
    metric, metrics = METRIC_NAMES[facts.metric], _names(main)
    first = Said("plot.the-student" if facts.distill else "plot.the-base")
    captions: dict[str, str] = {
        "scores": Said("plot.scores", metric=metrics),
        "speed": Said("plot.speed", metric=metric, set=facts.domain_set),
        "lengths": Said("plot.lengths", metric=metric, set=facts.domain_set),
        "kinds": Said("plot.kinds", metric=metric),
        "similarity": Said("plot.similarity"),
        "select": Said("plot.select", metric=metric, first=first),
        "loss": Said("plot.loss"),
    }
    titles = {name: translated(facts.lang, caption) for name, caption in captions.items()}
    word = partial(say, facts.lang)
    curves = list(read_dicts(facts.curves)) if facts.curves else []
    learned = partial(curve, curves)
    step, points = word("plot.step"), f"{metric} ({word('plot.points')})"
    best = facts.training["best_step"] if facts.training else None
    drawn = {
        "scores": _scores(main, titles["scores"]),
        "speed": scatter(_dots(main, facts), titles["speed"], (word("plot.throughput"), points)),
        "lengths": _lengths(rows, facts.domain_set, titles["lengths"]),
        "kinds": _kinds(main, titles["kinds"]),
        "similarity": histograms(
            list(_panels(similarity, thresholds, facts)), titles["similarity"],
            (word("plot.matches"), word("plot.others"), word("plot.cosine")),
        ),
        "select": learned(f"eval_{facts.metric}", titles["select"], (step, points), scale=100,
                          best_step=best),
        "loss": learned("loss", titles["loss"], (step, "")),
    }  # fmt: skip
    return {name: (captions[name], svg) for name, svg in drawn.items() if svg}


def _names(main: Iterable[Score]) -> str:
    return " · ".join(dict.fromkeys(METRIC_NAMES[row.metric] for row in main))


def _scores(main: Sequence[Score], title: str) -> Markup | None:
    groups: dict[str, list[Bar]] = {}
    for row in main:
        if "/" not in row.set:
            groups.setdefault(row.set, []).append(_bar(row))
    return intervals(groups, title) if groups else None


def _dots(main: Sequence[Score], facts: Facts) -> list[Dot]:
    values = {row.artifact: row.value for row in main if row.set == facts.domain_set}
    return [
        Dot(artifact, speed["texts_per_second"], 100 * values[artifact])
        for artifact, speed in facts.speeds.items()
        if artifact in values and speed["texts_per_second"] > 0
    ]


def _lengths(rows: Sequence[Score], name: str, title: str) -> Markup | None:
    found = next((table for table in by_length(rows) if table.set == name), None)
    if found is None:
        return None
    groups = {artifact: [_bar(s) for s in scores] for artifact, scores in found.rows.items()}
    return intervals(groups, title)


def _kinds(main: Sequence[Score], title: str) -> Markup | None:
    groups: dict[str, dict[str, tuple[int, Bar, Bar]]] = {}
    for row in slice_rows(main):
        name, _, kind = row["set"].partition("/")
        groups.setdefault(name, {})[kind] = row["n"], _bar(row["base"]), _bar(row["tuned"])
    return paired(groups, title) if groups else None


def _panels(
    similarity: Mapping[str, Any], thresholds: Mapping[str, Any], facts: Facts
) -> Iterable[Panel]:
    for artifact in in_order(set(similarity) & set(_SHOWN)):
        found = similarity[artifact]
        note = say(facts.lang, "plot.apart", percent=f"{100 * found['apart']:.1f}")
        threshold = thresholds.get(artifact, {}).get("threshold")
        yield Panel(artifact, note, found["low"], found["high"], found["positive"]["counts"],
                    found["negative"]["counts"], threshold)  # fmt: skip


def _bar(row: Score) -> Bar:
    return Bar(row.artifact, 100 * row.value, 100 * row.ci_low, 100 * row.ci_high)
