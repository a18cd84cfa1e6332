"""What small inline SVG plots are drawn with: no library, light and dark, readable on a phone.

Text is escaped by `markupsafe`; drawings are 360 units wide, so that a phone shows them unscaled.
Colours tell apart without hue: base grey, tuned the accent, exports an outlined accent.
"""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 360
_STYLE = """
.plot{font:11px system-ui,"PingFang SC","Noto Sans CJK SC","Microsoft YaHei",sans-serif;
font-variant-numeric:tabular-nums;width:100%;max-width:30rem;height:auto;display:block}
.plot text{fill:#2b3038}.plot .dim{fill:#626b78}.plot .bold{font-weight:600}
.plot .grid{stroke:#e4e7eb}.plot .mark{stroke:#9aa2ad;stroke-dasharray:3 3}
.plot .line{fill:none;stroke-width:1.8}.plot .whisker{stroke-width:1.5}
.plot .bm25{fill:#b4bac3;stroke:#b4bac3}.plot .base{fill:#767f8c;stroke:#767f8c}
.plot .tuned{fill:#0a63c9;stroke:#0a63c9}.plot .exported{fill:#fff;stroke:#0a63c9;stroke-width:1.8}
.plot .line.tuned{fill:none}.plot .soft{fill-opacity:.5;stroke-width:1}
@media (prefers-color-scheme:dark){.plot text{fill:#dde1e8}.plot .dim{fill:#99a2af}
.plot .grid{stroke:#2a313b}.plot .mark{stroke:#6c7683}
.plot .bm25{fill:#5c6572;stroke:#5c6572}.plot .base{fill:#8d96a3;stroke:#8d96a3}
.plot .tuned{fill:#6cb1ff;stroke:#6cb1ff}.plot .exported{fill:#101419;stroke:#6cb1ff}
.plot .line.tuned{fill:none}}
""".strip().replace("\n", "")


@dataclass(frozen=True)
class Box:
    """Maps data to the drawing area of a plot with two axes."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float

    left, right, top, bottom, height = 40, WIDTH - 14, 22, 184, 222

    @classmethod
    def around(cls, xs: Sequence[float], ys: Sequence[float]) -> "Box":
        """Make a box with some air around the data."""
        return cls(*with_air(xs), *with_air(ys))

    def x(self, value: float) -> float:
        """Map a horizontal value."""
        share = (value - self.low_x) / (self.high_x - self.low_x)
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        """Map a vertical value; the drawing counts downwards."""
        share = (value - self.low_y) / (self.high_y - self.low_y)
        return self.bottom - share * (self.bottom - self.top)

    def axes(self, below: str, above: str, marks: Iterable[tuple[float, str]]) -> list[Markup]:
        """Draw grid lines and the numbers beside them.

        Args:
            below: What the x axis tells.
            above: What the y axis tells.
            marks: Of the x axis.
        """
        parts = [text(2, 11, above, "dim")]
        for value in ticks(self.low_y, self.high_y):
            y = self.y(value)
            parts.append(line(self.left, y, self.right, y, "grid"))
            parts.append(text(self.left - 6, y + 4, f"{value:g}", "dim", "end"))
        for value, shown in marks:
            parts.append(text(self.x(value), self.bottom + 16, shown, "dim", "middle"))
        middle = (self.left + self.right) / 2
        parts.append(text(middle, self.bottom + 33, below, "dim", "middle"))
        return parts


def svg(parts: Sequence[Markup], height: float, title: str) -> Markup:
    """Put a whole document together, with its own style: for a page or for a file."""
    return Markup(
        '<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h:.0f}" '
        'width="{w}" height="{h:.0f}" role="img"><title>{title}</title><style>{style}</style>'
        "{parts}</svg>"
    ).format(w=WIDTH, h=height, title=title, style=Markup(_STYLE), parts=Markup("").join(parts))


def text(x: float, y: float, content: str, style: str = "", anchor: str = "start") -> Markup:
    """Write text that starts at x, ends there (``end``) or is centred on it (``middle``)."""
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(
        x, y, style, anchor, content
    )


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    """Draw a straight line."""
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(
        x1, y1, x2, y2, style
    )


def rect(x: float, y: float, width: float, height: float, style: str) -> Markup:
    """Draw a rectangle without an outline."""
    return Markup(
        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" '
        'style="stroke:none"/>'
    ).format(style, x, y, width, height)


def dot(x: float, y: float, radius: float, style: str) -> Markup:
    """Draw a dot."""
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(style, x, y, radius)


def polyline(points: Iterable[tuple[float, float]], style: str) -> Markup:
    """Draw a line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(style, path)


def kind(artifact: str) -> str:
    """The style of an artifact."""
    name = artifact.partition("@")[0]
    return name if name in ("bm25", "base", "tuned") else "exported"


def short(content: str, columns: int) -> str:
    """Cut a text to so many columns; a Chinese character takes two."""
    taken = 0
    for place, character in enumerate(content):
        taken += _columns(character)
        if taken > columns:
            return content[: max(0, place - 1)] + "…"
    return content


def columns(content: str) -> int:
    """How wide a text is, in columns."""
    return sum(map(_columns, content))


def with_air(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that holds the values."""
    low, high = min(values), max(values)
    air = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return low - air, high + air


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between the ends, about five: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    count = math.floor(high / step) - first + 1
    return [round((first + i) * step, 12) for i in range(count)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between the ends; round numbers where that is one or none."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [value for value in values if low <= value <= high]
    return inside if len(inside) > 1 else ticks(low, high)


def _columns(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
