"""The plots of a report: quality with intervals, kinds of queries, curves, speed, cosines."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from finetune.report import svg as draw
from finetune.report.svg import WIDTH, Box

_LEFT, _RIGHT = 112, 46  # of plots with names before and numbers behind
_ROW, _PAIR, _PANEL = 19, 32, 92


@dataclass(frozen=True)
class Bar:
    """A value with its interval, all in points; ``artifact`` labels and colours it."""

    artifact: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Dot:
    """An artifact's throughput (texts a second) and quality (points)."""

    artifact: str
    speed: float
    quality: float


@dataclass(frozen=True)
class Panel:
    """How an artifact's cosines are distributed: counts in equal bins from ``low`` to ``high``."""

    artifact: str
    note: str
    low: float
    high: float
    positive: Sequence[int]
    negative: Sequence[int]
    threshold: float | None


def intervals(groups: Mapping[str, Sequence[Bar]], title: str) -> Markup:
    """Draw a dot with its interval for each artifact, one group below the other.

    A dashed line goes from the base's dot through its group, so that before and after are seen.
    """
    everything = [bar for group in groups.values() for bar in group]
    low, high = draw.with_air([*(b.low for b in everything), *(b.high for b in everything)])

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    marks: list[Markup] = []
    y = 0.0
    for name, group in groups.items():
        y += 22
        marks.append(draw.text(2, y - 4, draw.short(name, 56), "bold"))
        end = y + _ROW * len(group)
        marks += [draw.line(x(b.value), y, x(b.value), end, "mark")
                  for b in group if b.artifact == "base"]  # fmt: skip
        for bar in group:
            middle, style = y + _ROW / 2, draw.kind(bar.artifact)
            marks += [
                draw.text(_LEFT - 8, middle + 4, draw.short(bar.artifact, 18), "dim", "end"),
                draw.line(x(bar.low), middle, x(bar.high), middle, f"whisker {style}"),
                draw.dot(x(bar.value), middle, 4, style),
                draw.text(WIDTH - 4, middle + 4, f"{bar.value:.1f}", "", "end"),
            ]
            y += _ROW
    grid = [part for value in draw.ticks(low, high) for part in (
        draw.line(x(value), 6, x(value), y + 4, "grid"),
        draw.text(x(value), y + 18, f"{value:g}", "dim", "middle"),
    )]  # fmt: skip
    return draw.svg([*grid, *marks], y + 24, title)


def paired(groups: Mapping[str, Mapping[str, tuple[int, Bar, Bar]]], title: str) -> Markup:
    """Draw two bars from zero with their intervals for each kind: base above, tuned below.

    Args:
        groups: By set and kind the number of queries, base and tuned.
        title: For screen readers.
    """
    top = max((bar.high for rows in groups.values() for _, *bars in rows.values() for bar in bars),
              default=0.0)  # fmt: skip
    scale = (WIDTH - _LEFT - _RIGHT) / max(top, 1.0)
    parts = _legend(["base", "tuned"])
    y = 20.0
    for name, rows in groups.items():
        y += 24
        parts.append(draw.text(2, y - 8, draw.short(name, 56), "bold"))
        for kind, (count, *bars) in rows.items():
            parts.append(draw.text(_LEFT - 8, y + 10, draw.short(kind, 18), "", "end"))
            parts.append(draw.text(_LEFT - 8, y + 22, f"n = {count}", "dim", "end"))
            for offset, bar in zip((0, 12), bars, strict=True):
                parts += _bar(bar, y + offset, scale)
            y += _PAIR
    return draw.svg(parts, y + 4, title)


def curve(
    rows: Iterable[Mapping[str, Any]],
    key: str,
    title: str,
    labels: tuple[str, str],
    *,
    scale: float = 1.0,
    best_step: int | None = None,
) -> Markup | None:
    """Draw one logged value over the steps; None where it was logged fewer than twice.

    Args:
        rows: Rows of ``curves.jsonl``.
        key: The value to draw.
        title: What it is, for screen readers.
        labels: Of the x axis and of the y axis.
        scale: What the value is multiplied by.
        best_step: The step to mark.
    """
    points = [(row["step"], scale * row[key]) for row in rows if _finite(row.get(key))]
    if len(points) < 2:
        return None
    box = Box.around([x for x, _ in points], [y for _, y in points])
    dots = [draw.dot(box.x(x), box.y(y), 5 if x == best_step else 2.2, "tuned") for x, y in points]
    path = draw.polyline([(box.x(x), box.y(y)) for x, y in points], "line tuned")
    steps = [(step, f"{step:g}") for step in draw.ticks(box.low_x, box.high_x) if step >= 0]
    return draw.svg([*box.axes(*labels, steps), path, *dots], Box.height, title)


def scatter(dots: Sequence[Dot], title: str, labels: tuple[str, str]) -> Markup | None:
    """Draw quality over throughput (logarithmic); None for fewer than two artifacts."""
    if len(dots) < 2:
        return None
    box = Box.around([math.log10(dot.speed) for dot in dots], [dot.quality for dot in dots])
    speeds = [(math.log10(s), f"{s:g}") for s in draw.log_ticks(10**box.low_x, 10**box.high_x)]
    parts = box.axes(*labels, speeds)
    taken: list[tuple[float, float, float]] = []  # labels so far: two ends and the baseline
    for dot in sorted(dots, key=lambda dot: (-dot.quality, dot.speed)):
        x, y = box.x(math.log10(dot.speed)), box.y(dot.quality)
        right = x < WIDTH * 0.6
        length = 6.2 * draw.columns(dot.artifact)
        ends = (x + 9, x + 9 + length) if right else (x - 9 - length, x - 9)
        below = y - 8
        while any(abs(below - b) < 12 and ends[0] < e and s < ends[1] for s, e, b in taken):
            below += 12
        taken.append((*ends, below))
        parts.append(draw.dot(x, y, 5, draw.kind(dot.artifact)))
        parts.append(draw.text(ends[0] if right else ends[1], below, dot.artifact, "",
                               "start" if right else "end"))  # fmt: skip
    return draw.svg(parts, Box.height, title)


def histograms(panels: Sequence[Panel], title: str, words: tuple[str, str, str]) -> Markup | None:
    """Draw how cosines of answers and of what is none are distributed, an artifact a panel.

    Args:
        panels: One a panel, over the same axis; shares of each kind, not counts.
        title: For screen readers.
        words: What answers, what is none, and the axis are called.
    """
    if not panels:
        return None
    low, high = min(each.low for each in panels), max(each.high for each in panels)
    if high <= low:
        return None

    def x(value: float) -> float:
        return 8 + (value - low) / (high - low) * (WIDTH - 16)

    parts = _legend(["tuned", "base"], words[:2])
    for place, panel in enumerate(panels):
        foot = 24 + _PANEL * (place + 1)
        parts.append(draw.text(8, foot - _PANEL + 16, panel.artifact, "bold"))
        parts.append(draw.text(WIDTH - 8, foot - _PANEL + 16, panel.note, "dim", "end"))
        shares = [[count / max(sum(kind), 1) for count in kind]
                  for kind in (panel.negative, panel.positive)]  # fmt: skip
        top = max(map(max, shares)) or 1.0
        for heights, style in zip(shares, ("base", "tuned"), strict=True):
            parts.append(_area(panel, heights, foot, (_PANEL - 30) / top, x, style))
        parts.append(draw.line(8, foot, WIDTH - 8, foot, "grid"))
        if panel.threshold is not None:
            parts.append(draw.line(x(panel.threshold), foot - _PANEL + 24, x(panel.threshold),
                                   foot, "mark"))  # fmt: skip
    foot = 24 + _PANEL * len(panels)
    parts += [draw.text(x(value), foot + 16, f"{value:g}", "dim", "middle")
              for value in draw.ticks(low, high) if 20 < x(value) < WIDTH - 20]  # fmt: skip
    parts.append(draw.text(WIDTH / 2, foot + 32, words[2], "dim", "middle"))
    return draw.svg(parts, foot + 38, title)


def _area(
    panel: Panel, heights: Sequence[float], foot: float, scale: float, x: Any, style: str
) -> Markup:
    """A histogram's outline, filled."""
    step = (panel.high - panel.low) / len(heights)
    points = [(x(panel.low), foot)]
    for place, height in enumerate(heights):
        ends = panel.low + place * step, panel.low + (place + 1) * step
        points += [(x(end), foot - height * scale) for end in ends]
    return draw.polyline([*points, (x(panel.high), foot)], f"{style} soft")


def _bar(bar: Bar, y: float, scale: float) -> list[Markup]:
    # A correlation may lie below zero; its number then tells it.
    value, low, high = (max(0.0, each) * scale for each in (bar.value, bar.low, bar.high))
    style, middle = draw.kind(bar.artifact), y + 5.5
    return [
        draw.rect(_LEFT, y, value, 11, f"{style} soft"),
        draw.line(_LEFT + low, middle, _LEFT + high, middle, f"whisker {style}"),
        draw.text(WIDTH - 4, middle + 4, f"{bar.value:.1f}", "dim" if style == "base" else "bold",
                  "end"),
    ]  # fmt: skip


def _legend(artifacts: Sequence[str], names: Sequence[str] = ()) -> list[Markup]:
    parts: list[Markup] = []
    x = 8.0
    for style, name in zip(artifacts, names or artifacts, strict=True):
        parts += [draw.rect(x, 4, 10, 10, f"{style} soft"), draw.text(x + 15, 13, name, "dim")]
        x += 30 + 7 * draw.columns(name)
    return parts


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
