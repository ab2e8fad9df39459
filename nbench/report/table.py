"""The summary of a run as rich tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nbench.report.summary import Column, Line, Summary, Value


def summary_tables(summary: Summary) -> RenderableType:
    """Rows checkpoint x steps. First the scorers, velocity norm and pictures/s; statistics of the pictures follow."""
    judged = [column for column in summary.columns if column.kind != "statistics"]
    described = [column for column in summary.columns if column.kind == "statistics"]
    parts: list[RenderableType] = [_table(summary, judged, "mean ± 95 % interval (bootstrap over prompts)", telemetry=True)]
    if described:
        parts.append(_table(summary, described, "statistics of the pictures, mean ± 95 % interval", telemetry=False))
    if summary.failures:
        parts.append(failure_table(summary))
    return Group(*parts)


def failure_table(summary: Summary) -> Table:
    """How often each reason for a missing picture or score occurred."""
    table = Table(title="failures", title_justify="left")
    table.add_column("count", justify="right")
    table.add_column("reason", overflow="fold")
    for count, reason in summary.failures:
        table.add_row(str(count), Text(reason))
    return table


def _table(summary: Summary, columns: Sequence[Column], title: str, *, telemetry: bool) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("checkpoint", no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(Text(column.title), justify="right", no_wrap=True)
    partial = any(line.pictures < line.cells for line in summary.lines)
    with_ratio = any(line.ratio is not None for line in summary.lines)
    if telemetry:
        table.add_column("velocity norm", justify="right", no_wrap=True)
        if with_ratio:
            table.add_column("norm ratio", justify="right", no_wrap=True)
        if partial:
            table.add_column("pictures", justify="right", no_wrap=True)
        table.add_column("pictures/s", justify="right", no_wrap=True)
    previous = None
    for line in summary.lines:
        if previous is not None and previous != line.checkpoint:
            table.add_section()
        cells: list[RenderableType] = [Text(line.checkpoint if line.checkpoint != previous else ""), str(line.steps)]
        previous = line.checkpoint
        cells += [_value(line.values.get((column.scorer, column.metric))) for column in columns]
        if telemetry:
            cells.append("-" if math.isnan(line.norm) else f"{line.norm:.4f}")
            if with_ratio:
                cells.append("-" if line.ratio is None else f"{line.ratio:.4f}")
            if partial:
                cells.append(_pictures(line))
            cells.append("cached" if line.speed is None else f"{line.speed:.2f}")
        table.add_row(*cells)
    return table


def _pictures(line: Line) -> str:
    return f"{line.pictures}/{line.cells}"


def _value(value: Value | None) -> str:
    """Mean ± half the interval, to the digit where the interval begins to matter; coverage where it is not whole."""
    if value is None or value.interval is None:
        return "no value"
    interval = value.interval
    half = interval.half_width
    if math.isnan(half):
        text = f"{interval.mean:.4g} ± ?"
    else:
        digits = 3 if half <= 0 else min(max(1 - math.floor(math.log10(half)), 0), 5)
        text = f"{interval.mean:.{digits}f} ± {half:.{digits}f}"
    return text if value.coverage == 1 else f"{text} ({_share(value.coverage)})"


def _share(coverage: float) -> str:
    """Never rounded up to 100 %."""
    return f"{math.floor(coverage * 1000) / 10:g} %"
