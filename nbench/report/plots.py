"""Line charts as SVG text, so that a plot needs no plotting library and opens in any browser.

Only what the analyses need: panels side by side, lines with bands, a reference line, a legend. Colours are those of
Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_PANEL = (360, 250)  # plotting area in pixels: width, height
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 14, 48, 46
_LEGEND_LINE = 16


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: in the legend; series of one name share a colour and one entry.
        x: places.
        y: values; one that is not finite breaks the line.
        low, high: bounds of a band, or None for none; bounds that are not finite are left out.
        dashed: draw the line dashed.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: above it.
        x_label, y_label: of the axes.
        series: lines, in the order of drawing.
        level: a horizontal reference line; None for none.
        falling: x falls from left to right, as t does while sampling.
        log: a logarithmic y axis; values that are not above 0 are left out.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    level: float | None = None
    falling: bool = False
    log: bool = False


def line_chart(title: str, panels: Sequence[Panel]) -> str:
    """The panels in a row, with one legend, as a whole SVG document."""
    names = list(dict.fromkeys(series.name for panel in panels for series in panel.series))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    step = _LEFT + _PANEL[0] + _RIGHT
    width = step * max(1, len(panels))
    height = _TOP + _PANEL[1] + _BOTTOM + _LEGEND_LINE * len(names) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(12, 18, title, size=14),
    ]
    for i, panel in enumerate(panels):
        parts.append(f'<g transform="translate({i * step + _LEFT},{_TOP})">')
        parts += _Axes(panel).draw(colours)
        parts.append("</g>")
    for i, name in enumerate(names):
        y = _TOP + _PANEL[1] + _BOTTOM + _LEGEND_LINE * i
        parts.append(f'<rect x="{_LEFT}" y="{y - 8}" width="18" height="4" fill="{colours[name]}"/>')
        parts.append(_text(_LEFT + 24, y - 2, name))
    return "\n".join([*parts, "</svg>\n"])


class _Axes:
    """The scales of one panel."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        xs = [x for series in panel.series for x in series.x]
        bounds = [b for series in panel.series for side in (series.low, series.high) if side is not None for b in side]
        ys = [y for series in panel.series for y in series.y] + bounds
        if panel.level is not None:
            ys.append(panel.level)
        self.x_low, self.x_high = _range([x for x in xs if math.isfinite(x)])
        seen = [self._scaled(y) for y in ys]
        self.y_low, self.y_high = _range([y for y in seen if math.isfinite(y)])

    def _scaled(self, y: float) -> float:
        if not self.panel.log:
            return y
        return math.log10(y) if y > 0 else math.nan

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return (1 - share if self.panel.falling else share) * _PANEL[0]

    def y(self, value: float) -> float:
        return (1 - (self._scaled(value) - self.y_low) / (self.y_high - self.y_low)) * _PANEL[1]

    def draw(self, colours: dict[str, str]) -> list[str]:
        width, height = _PANEL
        parts = [_text(width / 2, -8, self.panel.title, anchor="middle", size=12)]
        for tick in ticks_between(self.x_low, self.x_high):
            x = self.x(tick)
            parts.append(f'<path d="M{x:.1f} 0V{height}" stroke="#eee"/>')
            parts.append(_text(x, height + 14, f"{tick:g}", anchor="middle"))
        for tick in self._y_ticks():
            y = self.y(tick)
            parts.append(f'<path d="M0 {y:.1f}H{width}" stroke="#eee"/>')
            parts.append(_text(-5, y + 4, f"{tick:.4g}", anchor="end"))
        parts.append(f'<path d="M0 0V{height}H{width}" fill="none" stroke="#444"/>')
        parts.append(_text(width / 2, height + 30, self.panel.x_label, anchor="middle"))
        parts.append(
            f'<g transform="translate(-52,{height / 2}) rotate(-90)">'
            f"{_text(0, 0, self.panel.y_label, anchor='middle')}</g>"
        )
        if self.panel.level is not None:
            y = self.y(self.panel.level)
            parts.append(f'<path d="M0 {y:.1f}H{width}" stroke="#888" stroke-dasharray="2 3"/>')
        for series in self.panel.series:
            parts += self._draw_series(series, colours[series.name])
        return parts

    def _y_ticks(self) -> list[float]:
        if not self.panel.log:
            return ticks_between(self.y_low, self.y_high)
        powers = range(math.ceil(self.y_low), math.floor(self.y_high) + 1)
        found = [10.0**power for power in powers]
        return found if len(found) > 1 else [10**y for y in ticks_between(self.y_low, self.y_high)]

    def _draw_series(self, series: Series, colour: str) -> list[str]:
        parts = []
        if series.low is not None and series.high is not None:
            rows = zip(series.x, series.low, series.high, strict=True)
            band = [row for row in rows if all(math.isfinite(self._scaled(b)) for b in row[1:])]
            if len(band) > 1:
                edge = [(x, high) for x, _, high in band] + [(x, low) for x, low, _ in reversed(band)]
                points = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in edge)
                parts.append(f'<polygon points="{points}" fill="{colour}" fill-opacity="0.15"/>')
        pen, path = "M", ""
        dots = []
        for x, y in zip(series.x, series.y, strict=True):
            if not math.isfinite(self._scaled(y)):
                pen = "M"
                continue
            path += f"{pen}{self.x(x):.1f} {self.y(y):.1f}"
            dots.append(f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="1.8" fill="{colour}"/>')
            pen = "L"
        dash = ' stroke-dasharray="5 3"' if series.dashed else ""
        if path:
            parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>')
        return parts + dots


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Least and greatest with a little room; never empty."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or max(abs(low) * 0.05, 1e-12)
    return low - room, high + room


def ticks_between(low: float, high: float) -> list[float]:
    """About five round numbers between the two."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, math.floor(high / step) + 1)]
