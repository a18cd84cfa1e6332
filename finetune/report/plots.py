"""Small inline SVG plots: no library, a few kilobytes, light and dark, readable on a phone.

Each plot is a whole SVG document with its own style, so that it stands in a page or in a file.
Text is escaped by `markupsafe`; drawings are 360 units wide so that a phone shows them unscaled.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

_WIDTH = 360
_LEFT, _RIGHT = 118, 44
_ROW = 20
_STYLE = """
.plot{font:11px system-ui,sans-serif;max-width:100%;height:auto}
.plot text{fill:#3c4350}.plot .dim{fill:#68707d}
.plot .bold{font-weight:600}.plot .grid{stroke:#d9dde3}
.plot .whisker{stroke:#1c222b}.plot .line{fill:none;stroke-width:2}
.plot .bm25{fill:#a3a9b3;stroke:#a3a9b3}.plot .base{fill:#7b8494;stroke:#7b8494}
.plot .tuned{fill:#2563c9;stroke:#2563c9}.plot .exported{fill:#c2570c;stroke:#c2570c}
@media (prefers-color-scheme:dark){.plot text{fill:#dfe3ea}.plot .dim{fill:#a2aab8}
.plot .grid{stroke:#3a4250}.plot .whisker{stroke:#f0f2f5}
.plot .bm25{fill:#6b7382;stroke:#6b7382}.plot .base{fill:#98a1b1;stroke:#98a1b1}
.plot .tuned{fill:#5b94f0;stroke:#5b94f0}.plot .exported{fill:#f08a45;stroke:#f08a45}}
""".strip().replace("\n", "")


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


def bars(groups: Mapping[str, Sequence[Bar]], title: str) -> Markup:
    """Draw horizontal bars from zero with their intervals, one group below the other."""
    top = max((bar.high for group in groups.values() for bar in group), default=0.0) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / top
    parts: list[Markup] = []
    y = 4
    for name, group in groups.items():
        y += _ROW
        parts.append(_text(2, y - 6, _short(name, 52), "bold"))
        for bar in group:
            parts.append(_bar(bar, y, scale))
            y += _ROW
    return _svg(parts, y + 6, title)


def curve(
    rows: Iterable[Mapping[str, Any]],
    key: str,
    title: str,
    *,
    scale: float = 1.0,
    best_step: int | None = None,
) -> Markup | None:
    """Draw one logged value over the steps; None where it was logged fewer than twice.

    Args:
        rows: Rows of ``curves.jsonl``.
        key: The value to draw.
        title: What it is, for the caption and for screen readers.
        scale: What the value is multiplied by.
        best_step: The step to mark.
    """
    points = [(row["step"], scale * row[key]) for row in rows if _finite(row.get(key))]
    if len(points) < 2:
        return None
    ys = [y for _, y in points]
    box = Box.around([x for x, _ in points], ys)
    path = " ".join(f"{box.x(x):.1f},{box.y(y):.1f}" for x, y in points)
    marks = [
        Markup('<circle class="tuned" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(
            box.x(x), box.y(y), 5 if x == best_step else 2.5
        )
        for x, y in points
    ]
    line = Markup('<polyline class="line tuned" style="fill:none" points="{}"/>').format(path)
    steps = [(step, f"{step:.0f}") for step in _ticks(box.low_x, box.high_x)]
    return _svg([*box.axes("step", steps), line, *marks], Box.height, title)


def scatter(dots: Sequence[Dot], title: str) -> Markup | None:
    """Draw quality over throughput (logarithmic); None for fewer than two artifacts."""
    if len(dots) < 2:
        return None
    box = Box.around([math.log10(dot.speed) for dot in dots], [dot.quality for dot in dots])
    speeds = [(math.log10(s), f"{s:g}") for s in _log_ticks(10**box.low_x, 10**box.high_x)]
    parts = box.axes("texts a second", speeds)
    labels: list[float] = []  # baselines taken so far, so that names do not overprint each other
    for dot in sorted(dots, key=lambda dot: (-dot.quality, dot.speed)):
        x, y = box.x(math.log10(dot.speed)), box.y(dot.quality)
        right = x < _WIDTH * 0.6
        below = y - 8
        while any(abs(below - taken) < 12 for taken in labels):
            below += 12
        labels.append(below)
        parts.append(
            Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="5"/>').format(
                _kind(dot.artifact), x, y
            )
        )
        parts.append(_text(x + (9 if right else -9), below, dot.artifact, "", right))
    return _svg(parts, Box.height, title)


@dataclass(frozen=True)
class Box:
    """Maps data to the drawing area of a plot with two axes."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float

    left, right, top, bottom, height = 44, _WIDTH - 14, 14, 176, 214

    @classmethod
    def around(cls, xs: Sequence[float], ys: Sequence[float]) -> "Box":
        """Make a box with some air around the data."""
        return cls(*_range(xs), *_range(ys))

    def x(self, value: float) -> float:
        """Map a horizontal value."""
        share = (value - self.low_x) / (self.high_x - self.low_x)
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        """Map a vertical value; the drawing counts downwards."""
        share = (value - self.low_y) / (self.high_y - self.low_y)
        return self.bottom - share * (self.bottom - self.top)

    def axes(self, label: str, ticks: Iterable[tuple[float, str]]) -> list[Markup]:
        """Draw grid lines and the numbers beside them; ``ticks`` are those of the x axis."""
        parts = []
        for value in _ticks(self.low_y, self.high_y):
            y = self.y(value)
            parts.append(_line(self.left, y, self.right, y, "grid"))
            parts.append(_text(self.left - 5, y + 4, f"{value:g}", "dim", False))
        for value, shown in ticks:
            parts.append(_text(self.x(value), self.bottom + 16, shown, "dim", None))
        middle = (self.left + self.right) / 2
        parts.append(_text(middle, self.bottom + 32, label, "dim", None))
        return parts


def _svg(parts: Sequence[Markup], height: float, title: str) -> Markup:
    return Markup(
        '<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h:.0f}" '
        'width="{w}" height="{h:.0f}" role="img"><title>{title}</title><style>{style}</style>'
        "{parts}</svg>"
    ).format(w=_WIDTH, h=height, title=title, style=Markup(_STYLE), parts=Markup("").join(parts))


def _bar(bar: Bar, y: float, scale: float) -> Markup:
    middle = y + _ROW / 2 - 2
    # A correlation may lie below zero; its number then tells it.
    low, high = (_LEFT + max(0.0, value) * scale for value in (bar.low, bar.high))
    rectangle = Markup('<rect class="{}" x="{}" y="{}" width="{:.1f}" height="{}"/>').format(
        _kind(bar.artifact), _LEFT, y, max(0.0, bar.value) * scale, _ROW - 5
    )
    return Markup("").join([
        _text(_LEFT - 6, middle + 4, _short(bar.artifact, 18), "dim", False),
        rectangle,
        _line(low, middle, high, middle, "whisker"),
        _line(low, middle - 3, low, middle + 3, "whisker"),
        _line(high, middle - 3, high, middle + 3, "whisker"),
        _text(high + 5, middle + 4, f"{bar.value:.1f}", ""),
    ])  # fmt: skip


def _text(x: float, y: float, text: str, style: str, right: bool | None = True) -> Markup:
    """Write text that starts at x (``right``), ends there (False) or is centred on it (None)."""
    anchor = {True: "start", False: "end", None: "middle"}[right]
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(
        x, y, style, anchor, text
    )


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return Markup(
        '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>'
    ).format(x1, y1, x2, y2, style)  # fmt: skip


def _kind(artifact: str) -> str:
    name = artifact.partition("@")[0]
    return name if name in ("bm25", "base", "tuned") else "exported"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    air = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return low - air, high + air


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between the ends, about four: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    count = math.floor(high / step) - first + 1
    return [round((first + i) * step, 12) for i in range(count)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between the ends."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [value for value in values if low <= value <= high]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
