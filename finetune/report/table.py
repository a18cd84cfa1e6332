"""The tables that the command line prints."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from finetune.records import Score
from finetune.report.facts import MAIN, METRIC_NAMES, counted, in_order, is_cut
from finetune.report.scores import by_length
from finetune.report.verdict import p_text

# Columns of text that every number fits into; in a narrower terminal lines go on below.
_NARROWEST = 72
_HEADINGS = ("Δ", "p", "ms/query", "texts/s", "MB")
_STYLES = {"passed": "green", "failed": "bold red", "inconclusive": "yellow"}


def show(content: RenderableType) -> None:
    """Print on a terminal of any width, and cut nothing off: names fold, numbers stay whole."""
    console = Console()
    console.width = max(console.width, _NARROWEST)
    console.print(content)


def terminal(report: Mapping[str, Any]) -> Group:
    """Lay out scores, speed, gates and verdict of a ``report.json`` for a terminal."""
    gates = [
        Text.assemble(
            (f"{gate['name']}: {gate['status']}", _STYLES[gate["status"]]),
            f"  {gate.get('detail', '')}",
        )
        for gate in report["gates"]
    ]
    note = "scores in points ± half the 95 % interval; Δ: difference to the base"
    parts: list[RenderableType] = [*_tables(report), *_lengths(report), Text(note, style="dim")]
    parts += [*_cmteb(report.get("cmteb", ())), *gates, Text(report["verdict"], style="bold")]
    return Group(*parts)


def _tables(report: Mapping[str, Any]) -> Iterator[Table]:
    """Yield one table a set; speed is the artifact's, not the set's, and told in the first."""
    rows = [row for row in (*report["baselines"], *report["scores"])
            if row["metric"] in MAIN and not is_cut(row["artifact"])]  # fmt: skip
    speeds = {row["artifact"]: row for row in report["speed"]}
    for name in dict.fromkeys(row["set"] for row in rows if "/" not in row["set"]):
        scores = {row["artifact"]: row for row in rows if row["set"] == name}
        first = next(iter(scores.values()))
        title = Text(f"{name} ({first['n']} {counted(first['metric'])})", style="bold")
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("artifact", overflow="fold")
        for heading in (METRIC_NAMES[first["metric"]], *(_HEADINGS if speeds else _HEADINGS[:2])):
            table.add_column(heading, justify="right", no_wrap=True)
        for artifact in in_order(scores):
            speed = _speed_cells(speeds.get(artifact)) if speeds else ()
            table.add_row(Text(artifact), *_score_cells(scores[artifact]), *speed)
        yield table
        speeds = {}


def _lengths(report: Mapping[str, Any]) -> Iterator[Table]:
    """Yield a table of the domain's set where vectors were cut; the page has one for each set."""
    for found in by_length([Score(**row) for row in report["scores"]])[:1]:
        title = Text(f"{found.set}, by length of the vector", style="bold")
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column(found.metric, overflow="fold")
        for dim in found.dims:
            table.add_column(dim, justify="right", no_wrap=True)
        for artifact, scores in found.rows.items():
            table.add_row(Text(artifact), *(f"{100 * score.value:.1f}" for score in scores))
        yield table


def _cmteb(rows: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """Yield C-MTEB's table: a row a task, the published score of the base beside the others."""
    if not rows:
        return
    known = {(row["task"], row["artifact"]): row for row in rows}
    artifacts = in_order({row["artifact"] for row in rows})
    title = Text("C-MTEB", style="bold")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", overflow="fold")
    for heading in ("published", *artifacts):
        table.add_column(heading, justify="right", overflow="fold")
    for task in dict.fromkeys(row["task"] for row in rows):
        found = [known.get((task, artifact)) for artifact in artifacts]
        seen = any(row is not None and row["contaminated"] for row in found)
        told = next((row["published"] for row in found if row and row["published"]), None)
        values = [told, *(row["value"] if row else None for row in found)]
        cells = ["" if value is None else f"{100 * value:.2f}" for value in values]
        table.add_row(Text(f"{task} *" if seen else task), *cells)
    yield table
    note = "mteb's scores x 100; published: of the base; *: this or similar data was trained on"
    yield Text(note, style="dim")


def _score_cells(row: Mapping[str, Any]) -> Sequence[str]:
    value = f"{100 * row['value']:.1f} ±{50 * (row['ci_high'] - row['ci_low']):4.1f}"
    if row["delta"] is None:
        return value, "", ""
    return value, f"{100 * row['delta']:+.1f}", p_text(row["p_holm"]).removeprefix("= ")


def _speed_cells(row: Mapping[str, Any] | None) -> Sequence[str]:
    if row is None:
        return ()
    return (
        f"{row['latency_ms']:.1f}", f"{row['texts_per_second']:,.0f}", f"{row['bytes'] / 1e6:,.1f}",
    )  # fmt: skip
