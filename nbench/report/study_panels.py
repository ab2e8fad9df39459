"""Panels of lines in rows and columns: a figure of a study, as a drawing for files and as charts for pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbench.report.page_charts import COLOURS, Line, chart, number_text
from nbench.report.plots import ticks_between
from nbench.report.study_drawing import Drawing

if TYPE_CHECKING:
    from markupsafe import Markup

_WIDTH, _HEIGHT = 230, 150  # of the plotting area
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 26, 40
_HEAD, _LEGEND, _SIDE, _ROW_HEAD = 34, 22, 8, 22
_FEWEST = 2  # panels whose width a figure has at least, so that its head fits


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: above it.
        x_label, y_label: of the axes.
        lines: in the order of drawing; colour 0 is the base's, and lines of a colour from `COLOURS` on are dashed.
        x_ticks: place and text of each; empty for round numbers.
        level: a horizontal reference line; None for none.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...] = ()
    level: float | None = None

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Its ticks, or round numbers."""
        if self.x_ticks:
            return self.x_ticks
        places = [x for line in self.lines for x in line.x if math.isfinite(x)]
        if not places or min(places) == max(places):
            return tuple((x, number_text(x)) for x in places[:1])
        return tuple((tick, number_text(tick)) for tick in ticks_between(min(places), max(places)))

    @property
    def empty(self) -> bool:
        """Whether it has no point."""
        return not any(math.isfinite(y) for line in self.lines for y in line.y)


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        name: of its file.
        title: above it.
        caption: what its lines and bands are, in sentences.
        rows: of panels; rows may differ in length.
        heads: a line above each row, or nothing.
    """

    name: str
    title: str
    caption: str
    rows: tuple[tuple[Panel, ...], ...]
    heads: tuple[str, ...] = ()

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All of them."""
        return tuple(panel for row in self.rows for panel in row)

    def legend(self) -> list[tuple[str, int]]:
        """Name and colour of its lines, each once."""
        return list(dict.fromkeys((line.name, line.colour) for panel in self.panels for line in panel.lines))

    def charts(self) -> list[tuple[str, list[tuple[str, Markup]]]]:
        """Head of each row with title and chart of its panels, for a page; rows without a head are one."""
        found: dict[str, list[tuple[str, Markup]]] = {}
        for head, row in zip(self.heads or [""] * len(self.rows), self.rows, strict=True):
            shown = [(panel.title, self._chart(head, panel)) for panel in row if not panel.empty]
            found.setdefault(head, []).extend(shown)
        return [(head, charts) for head, charts in found.items() if charts]

    def _chart(self, head: str, panel: Panel) -> Markup:
        return chart(
            ": ".join(part for part in (self.title, head, panel.title) if part),
            panel.lines,
            x_label=panel.x_label,
            y_label=panel.y_label,
            x_ticks=panel.ticks() or ((0.0, ""),),
            level=panel.level,
        )

    def draw(self) -> Drawing:
        """As a drawing."""
        width, height = panels_size(self.rows, self.heads)
        legend = legend_rows(self.rows, width)
        made = Drawing(width, _HEAD + height + _LEGEND * len(legend) + 10, self.title)
        made.text(_SIDE + 4, 22, self.title, ink="ink", size=14, bold=True)
        draw_panels(made, self.rows, _HEAD, self.heads)
        draw_legend(made, legend, _HEAD + height)
        return made


def panels_size(rows: Sequence[Sequence[Panel]], heads: Sequence[str] = ()) -> tuple[int, int]:
    """Width and height that rows of panels take."""
    columns = max(_FEWEST, *(len(row) for row in rows)) if rows else _FEWEST
    return _SIDE + columns * (_LEFT + _WIDTH + _RIGHT), len(rows) * _row_height(heads)


def _row_height(heads: Sequence[str]) -> int:
    return _TOP + _HEIGHT + _BOTTOM + (_ROW_HEAD if heads else 0)


def draw_panels(made: Drawing, rows: Sequence[Sequence[Panel]], top: int, heads: Sequence[str] = ()) -> None:
    """Draw rows of panels below `top`."""
    for i, row in enumerate(rows):
        above = top + i * _row_height(heads)
        if heads:
            made.line([(12, above + 4), (made.width - 12, above + 4)], "grid")
            made.text(12, above + 20, heads[i], ink="ink", size=12, bold=True)
            above += _ROW_HEAD
        for j, panel in enumerate(row):
            _draw_panel(made, panel, _SIDE + j * (_LEFT + _WIDTH + _RIGHT) + _LEFT, above + _TOP, bold=not heads)


def draw_legend(made: Drawing, rows: Sequence[Sequence[tuple[float, str, int]]], top: int) -> None:
    """Draw rows of `legend_rows` below `top`."""
    for i, row in enumerate(rows):
        y = top + 10 + _LEGEND * i
        for x, name, colour in row:
            ink = f"c{colour % COLOURS}"
            made.line([(x, y), (x + 22, y)], ink, width=2.2, dashed=colour >= COLOURS)
            made.dot(x + 11, y, 3, ink)
            made.text(x + 28, y + 4, name, ink="ink")


def legend_rows(rows: Sequence[Sequence[Panel]], width: int) -> list[list[tuple[float, str, int]]]:
    """Place, name and colour of a legend's entries, row by row."""
    found: list[list[tuple[float, str, int]]] = []
    x = math.inf
    for name, colour in dict.fromkeys(
        (line.name, line.colour) for row in rows for panel in row for line in panel.lines
    ):
        room = 28 + 6.4 * len(name) + 22
        if x + room > width:
            found.append([])
            x = float(_SIDE + _LEFT)
        found[-1].append((x, name, colour))
        x += room
    return found


def _draw_panel(made: Drawing, panel: Panel, left: float, top: float, *, bold: bool) -> None:
    bottom = top + _HEIGHT
    made.text(left, top - 9, panel.title, ink="ink", size=12, bold=bold)
    if panel.empty:
        made.text(left + _WIDTH / 2, top + _HEIGHT / 2, "not measured", anchor="middle")
        return
    ticks = panel.ticks()
    xs = [place for place, _ in ticks] + [x for line in panel.lines for x in line.x]
    ys = [y for line in panel.lines for side in (line.y, line.low or (), line.high or ()) for y in side]
    x_low, x_high = _reach(xs, 0.05)
    y_low, y_high = _reach([*ys, *([] if panel.level is None else [panel.level])], 0.07)

    def x_at(value: float) -> float:
        return left + (value - x_low) / (x_high - x_low) * _WIDTH

    def y_at(value: float) -> float:
        return bottom - (value - y_low) / (y_high - y_low) * _HEIGHT

    for tick in ticks_between(y_low, y_high):
        made.line([(left, y_at(tick)), (left + _WIDTH, y_at(tick))], "grid")
        made.text(left - 6, y_at(tick) + 4, number_text(tick), anchor="end")
    for place, text in ticks:
        made.line([(x_at(place), bottom), (x_at(place), bottom + 4)], "axis")
        made.text(x_at(place), bottom + 16, text, anchor="middle")
    made.line([(left, bottom), (left + _WIDTH, bottom)], "axis")
    made.text(left + _WIDTH / 2, bottom + 32, panel.x_label, anchor="middle")
    made.text(left - 46, top + _HEIGHT / 2, panel.y_label, anchor="middle", turned=True)
    if panel.level is not None:
        made.line([(left, y_at(panel.level)), (left + _WIDTH, y_at(panel.level))], "axis", dashed=True)
    for line in panel.lines:
        ink = f"c{line.colour % COLOURS}"
        if line.low is not None and line.high is not None:
            rows = [row for row in zip(line.x, line.low, line.high, strict=True) if all(map(math.isfinite, row))]
            edge = [(x_at(x), y_at(high)) for x, _, high in rows] + [(x_at(x), y_at(low)) for x, low, _ in rows[::-1]]
            if len(rows) > 1:
                made.polygon(edge, ink, opacity=0.15)
    for line in panel.lines:
        ink = f"c{line.colour % COLOURS}"
        places: list[tuple[float, float]] = []
        for x, y in zip(line.x, line.y, strict=True):
            if math.isfinite(x) and math.isfinite(y):
                places.append((x_at(x), y_at(y)))
                made.dot(*places[-1], 2.6 if len(line.x) <= 16 else 1.4, ink)
            else:
                made.line(places, ink, width=1.8, dashed=line.colour >= COLOURS)
                places = []
        made.line(places, ink, width=1.8, dashed=line.colour >= COLOURS)


def _reach(values: Sequence[float], room: float) -> tuple[float, float]:
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    more = room * (high - low) or max(abs(low) * 0.05, 1e-9)
    return low - more, high + more
