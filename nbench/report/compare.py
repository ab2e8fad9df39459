"""A comparison as rich tables, as JSON, as curves (SVG) and as a sheet of the worst pairs (PNG)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nbench.compare import Comparison, Curve, Hacking, Moved
from nbench.report.plots import Panel, Series, line_chart
from nbench.runs.card import Difference

if TYPE_CHECKING:
    from PIL import Image

    from nbench.runs.images import ImageStore

_WORDS = {
    "supported": "supported: the proxy is up, and nothing held out lost more than its margin",
    "unsupported": "UNSUPPORTED: the proxy is up, and a held-out measure lost more than its margin",
    "no gain": "no gain: the trained proxy is not shown to be up",
    "cannot tell": "cannot tell: the proxy is up, but losses beyond the margin are not excluded; use more prompts",
}


def comparison_tables(found: Comparison) -> RenderableType:
    """Differences by measure and step count, curves, prompts moved most, the verdict on the proxy."""
    parts: list[RenderableType] = []
    if found.allowed:
        parts.append(Text("NOT LIKE WITH LIKE, allowed by name: " + "; ".join(map(str, found.allowed)), "bold yellow"))
    parts.append(_rows(found))
    doubts = {row.measure.name: row.doubt for row in found.rows if row.doubt}
    parts += [Text(f"{name} is shown, and not to be gated on: {doubt}.", "yellow") for name, doubt in doubts.items()]
    if found.curves:
        parts.append(_curves(found.curves))
    moved = [*found.worsened, *found.improved]
    if moved:
        parts.append(_moved(found))
    if found.hacking is not None:
        parts.append(_hacking(found.hacking))
    return Group(*parts)


def _table(title: str, *headings: tuple[str, str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, justify in headings:
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]  # "left" or "right"
    return table


def _rows(found: Comparison) -> Table:
    table = _table(
        f"{found.candidate} minus {found.base}: mean paired difference, 95 % interval (bootstrap over prompts)",
        ("measure", "left"), ("steps", "right"), (found.base, "right"), (found.candidate, "right"),
        ("difference", "right"), ("95 % interval", "right"), ("prompts better", "right"), ("effect", "right"),
        ("sees drops of", "right"), ("coverage", "right"),
    )  # fmt: skip
    previous = None
    for row in found.rows:
        name = row.measure.name + {1: " ↑", -1: " ↓"}.get(row.measure.sign, "")
        if previous not in (None, row.measure):
            table.add_section()
        label = Text(name if row.measure != previous else "")
        previous = row.measure
        if row.difference is None:
            table.add_row(label, str(row.steps), *["-"] * 7, "0 %")
            continue
        difference = row.difference
        style = ""
        if row.measure.sign and difference.significant:
            style = "green" if difference.mean > 0 else "red"
        table.add_row(
            label,
            str(row.steps),
            number(row.base),
            number(row.candidate),
            Text(f"{difference.mean:+.4g}", style),
            interval(difference.low, difference.high),
            f"{difference.improved:.0%}" if row.measure.sign else "",
            number(difference.effect),
            number(row.detectable) if row.measure.sign else "",
            share(row.coverage),
        )
    return table


def _curves(curves: Sequence[Curve]) -> Table:
    table = _table(
        "over log2(steps), prompts with every pair",
        ("measure", "left"), ("area difference", "right"), ("95 % interval", "right"),
        ("few minus full steps", "right"), ("95 % interval", "right"),
        ("steps to match base", "right"), ("95 % interval", "right"), ("prompts left out", "right"),
    )  # fmt: skip
    for curve in curves:
        match = ("", "")
        if curve.match is not None:
            match = steps_text(curve.match.value), f"{steps_text(curve.match.low)} to {steps_text(curve.match.high)}"
        cells = [
            text
            for one in (curve.area, curve.few_minus_full)
            for text in (f"{one.mean:+.4g}", interval(one.low, one.high))
        ]
        table.add_row(Text(curve.measure.name), *cells, *match, str(curve.dropped))
    return table


def _moved(found: Comparison) -> Table:
    table = _table(
        "prompts that moved most (fewest steps)",
        ("measure", "left"), ("steps", "right"), ("difference", "right"), ("prompt", "left"),
    )  # fmt: skip
    few = min(row.steps for row in found.rows)
    for one in [*found.worsened, *found.improved]:
        if one.steps == few:
            table.add_row(Text(one.measure.name), str(one.steps), f"{one.difference:+.4g}", Text(one.text))
    return table


def _hacking(found: Hacking) -> RenderableType:
    table = _table(
        "held-out measures, each with a margin in standard deviations of the base",
        ("measure", "left"), ("steps", "right"), ("difference", "right"), ("lower bound", "right"),
        ("upper bound (all)", "right"), ("margin", "right"), ("verdict", "left"),
    )  # fmt: skip
    for one in found.held_out:
        style = {"PASS": "green", "BREACH": "bold red"}.get(one.verdict, "yellow")
        table.add_row(
            Text(one.measure.name), str(one.steps), f"{one.mean:+.4g}", number(one.lower), number(one.upper),
            number(one.margin), Text(one.verdict, style),
        )  # fmt: skip
    style = {"supported": "green", "unsupported": "bold red"}.get(found.verdict, "yellow")
    return Group(table, Text(f"Trained on {', '.join(found.trained_on)}. {_WORDS[found.verdict]}.", style))


def number(value: float) -> str:
    """Four digits; "-" for no number."""
    return "-" if math.isnan(value) else f"{value:.4g}"


def interval(low: float, high: float) -> str:
    """Both bounds with their signs."""
    return "-" if math.isnan(low) or math.isnan(high) else f"{low:+.4g} to {high:+.4g}"


def steps_text(value: float) -> str:
    """Steps to match, or "never" where no step count of the run was enough."""
    if math.isnan(value):
        return "-"
    return "never" if math.isinf(value) else f"{value:.3g}"


def share(value: float) -> str:
    """A share, never rounded up to 100 %."""
    return f"{math.floor(value * 1000) / 10:g} %"


def comparison_json(found: Comparison) -> dict[str, Any]:
    """The whole result as JSON values; what is not a number is null."""
    value: dict[str, Any] = plain(found)
    return value


def plain(value: Any) -> Any:
    """Dataclasses and arrays as JSON values; what is not a number is null."""
    if isinstance(value, Difference):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def comparison_plot(found: Comparison) -> str:
    """SVG: each oriented measure's two curves with bands, and their difference."""
    panels = []
    for curve in found.curves:
        sign = curve.measure.sign
        if not sign:
            continue
        log2 = [math.log2(steps) for steps in curve.steps]
        both = []
        for name, one in ((found.base, curve.base), (found.candidate, curve.candidate)):
            low, high = (one.low, one.high) if sign > 0 else (-one.high, -one.low)
            both.append(Series(name, log2, (sign * one.means).tolist(), low.tolist(), high.tolist()))
        panels.append(Panel(curve.measure.name, "log2(steps)", curve.measure.name, tuple(both)))
    return line_chart(f"{found.candidate} against {found.base}, simultaneous 95 % bands", panels)


def pair_sheet(pairs: Sequence[Moved], images: tuple[ImageStore, ImageStore], names: tuple[str, str]) -> Image.Image:
    """Base and candidate side by side, a row per pair, labelled; pictures at the width of a tile."""
    import textwrap

    from PIL import Image, ImageDraw, ImageFont

    tile, gap, label, head = 160, 6, 300, 28
    sheet = Image.new("RGB", (label + 2 * (tile + gap), head + max(1, len(pairs)) * (tile + gap)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for side, name in enumerate(names):
        draw.text((label + side * (tile + gap), 6), name, (25, 25, 25), font=font)
    for row, one in enumerate(pairs):
        top = head + row * (tile + gap)
        lines = [
            f"{one.measure.name} {one.difference:+.3g}",
            f"{one.steps} steps, seed {one.seed}",
            *textwrap.wrap(one.text, 42)[:6],
        ]
        draw.multiline_text((6, top + 4), "\n".join(lines), (25, 25, 25), font=font, spacing=4)
        for side, key in enumerate((one.base_key, one.candidate_key)):
            picture = images[side].read(key)
            if picture is not None:
                picture = picture.resize((tile, round(tile * picture.height / picture.width)))
                sheet.paste(picture.crop((0, 0, tile, tile)), (label + side * (tile + gap), top))
    return sheet
