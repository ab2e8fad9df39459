"""Charts inside pages: SVG that takes its colours and its type from the page's style, in light and dark alike.

Lines have classes (`line c1`), never colours; a page may hide the lines of one name. Each point carries its number as a
`<title>`, which a browser shows under the pointer and a screen reader reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from nbench.report.page_format import number
from nbench.report.plots import ticks_between

if TYPE_CHECKING:
    from markupsafe import Markup

COLOURS = 7  # classes c0 to c6; later lines begin again, dashed
_WIDTH, _HEIGHT = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 40


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        name: whose.
        colour: index; see `COLOURS`.
        x: places.
        y: values; one that is not finite breaks the line.
        low, high: band; None for none.
    """

    name: str
    colour: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[tuple[float, str]],
    level: float | None = None,
    falling: bool = False,
) -> Markup:
    """A line chart.

    Args:
        title: what a screen reader says first.
        lines: in the order of drawing.
        x_label: of the axis.
        y_label: of the axis.
        x_ticks: place and text of each.
        level: a horizontal reference line; None for none.
        falling: x falls from left to right, as t does while sampling.
    """
    from markupsafe import Markup

    scale = _Scale(lines, [place for place, _ in x_ticks], level, falling)
    width, height = _LEFT + _WIDTH + _RIGHT, _TOP + _HEIGHT + _BOTTOM
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title, quote=True)}">',
        f'<g transform="translate({_LEFT},{_TOP})">',
    ]
    for tick in ticks_between(scale.low, scale.high):
        y = scale.y(tick)
        parts.append(f'<path class="grid" d="M0 {y:.1f}H{_WIDTH}"/>')
        parts.append(f'<text class="tick end" x="-7" y="{y + 3.5:.1f}">{number_text(tick)}</text>')
    for place, text in x_ticks:
        x = scale.x(place)
        parts.append(f'<path class="axis" d="M{x:.1f} {_HEIGHT}v4"/>')
        parts.append(f'<text class="tick mid" x="{x:.1f}" y="{_HEIGHT + 16}">{escape(text)}</text>')
    parts.append(f'<path class="axis" d="M0 {_HEIGHT}H{_WIDTH}"/>')
    parts.append(f'<text class="label mid" x="{_WIDTH / 2}" y="{_HEIGHT + 33}">{escape(x_label)}</text>')
    parts.append(
        f'<text class="label mid" transform="translate(-40,{_HEIGHT / 2}) rotate(-90)">{escape(y_label)}</text>'
    )
    if level is not None:
        parts.append(f'<path class="zero" d="M0 {scale.y(level):.1f}H{_WIDTH}"/>')
    for line in lines:
        parts += _draw(line, scale)
    return Markup("\n".join([*parts, "</g></svg>"]))


def number_text(value: float) -> str:
    """A tick's number."""
    return f"{value:.6g}".replace("-", "−")


class _Scale:
    def __init__(self, lines: Sequence[Line], places: Sequence[float], level: float | None, falling: bool) -> None:
        xs = [*places, *(x for line in lines for x in line.x)]
        ys = [y for line in lines for side in (line.y, line.low or (), line.high or ()) for y in side]
        ys = [y for y in (*ys, *([] if level is None else [level])) if math.isfinite(y)] or [0.0, 1.0]
        room = 0.06 * (max(ys) - min(ys)) or max(abs(ys[0]) * 0.05, 1e-9)
        self.low, self.high = min(ys) - room, max(ys) + room
        room = 0.05 * (max(xs) - min(xs)) or 0.5
        self.left, self.right, self.falling = min(xs) - room, max(xs) + room, falling

    def x(self, value: float) -> float:
        share = (value - self.left) / (self.right - self.left)
        return (1 - share if self.falling else share) * _WIDTH

    def y(self, value: float) -> float:
        return (1 - (value - self.low) / (self.high - self.low)) * _HEIGHT


def _draw(line: Line, scale: _Scale) -> list[str]:
    name = escape(line.name, quote=True)
    again = " again" if line.colour >= COLOURS else ""
    parts = [f'<g class="series c{line.colour % COLOURS}{again}" data-entry="{name}">']
    rows = list(zip(line.x, line.y, line.low or line.y, line.high or line.y, strict=True))
    band = [row for row in rows if all(map(math.isfinite, row[2:]))]
    if line.low is not None and len(band) > 1:
        edge = [(x, high) for x, _, _, high in band] + [(x, low) for x, _, low, _ in reversed(band)]
        points = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in edge)
        parts.append(f'<polygon class="band" points="{points}"/>')
    pen, path, dots = "M", "", []
    for x, y, low, high in rows:
        if not math.isfinite(y):
            pen = "M"
            continue
        path += f"{pen}{scale.x(x):.1f} {scale.y(y):.1f}"
        pen = "L"
        told = f"{line.name}: {number(y, 4)}"
        if line.low is not None and math.isfinite(low) and math.isfinite(high):
            told += f" ({number(low, 4)} to {number(high, 4)})"
        place = f'cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="2.6"'
        dots.append(f'<circle class="dot" {place}><title>{escape(told)}</title></circle>')
    if path:
        parts.append(f'<path class="line" d="{path}"/>')
    return [*parts, *dots, "</g>"]


def bar(mean: float, low: float, high: float, reach: tuple[float, float]) -> Markup:
    """An interval as a small bar on a scale that its whole column shares; nothing where there is no number.

    Args:
        mean: dot.
        low: left end; one that is not finite ends at the edge.
        high: right end.
        reach: of the scale, which holds 0.
    """
    from markupsafe import Markup

    if not math.isfinite(mean) or reach[1] <= reach[0]:
        return Markup("")
    width, height = 96, 14

    def x(value: float) -> float:
        return 3 + (width - 6) * min(1.0, max(0.0, (value - reach[0]) / (reach[1] - reach[0])))

    side = "up" if low > 0 else "down" if high < 0 else "open"
    ends = [] if math.isnan(low) or math.isnan(high) else [f'<path class="whisker" d="M{x(low):.1f} 7H{x(high):.1f}"/>']
    return Markup(
        f'<svg class="bar {side}" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f'<path class="zero" d="M{x(0):.1f} 0V{height}"/>{"".join(ends)}'
        f'<circle cx="{x(mean):.1f}" cy="7" r="3"/></svg>'
    )


def reach_of(bounds: Sequence[float]) -> tuple[float, float]:
    """The scale that bars of a column share: all that is finite, and 0."""
    known = [value for value in (*bounds, 0.0) if math.isfinite(value)]
    low, high = min(known), max(known)
    room = 0.03 * (high - low)
    return low - room, high + room
