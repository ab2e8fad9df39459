"""The summary of a run as rich tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nbench.report.summary import Column, Summary, Value

_HEADING = 12  # characters of a column's heading on one line


def summary_tables(summary: Summary, *, everything: bool = False) -> RenderableType:
    """Rows checkpoint x steps. First the scorers, velocity norm and pictures/s; statistics of the pictures follow.

    Args:
        summary: of a run.
        everything: every metric of each scorer; without it, of scorers that judge only the first that has a direction.
    """
    judged = [column for column in summary.columns if column.kind != "statistics"]
    if not everything:
        oriented = [column for column in judged if column.orientation != "none"]
        judged = list({column.scorer: column for column in reversed(oriented)}.values())[::-1]
    described = [column for column in summary.columns if column.kind == "statistics"]
    title = "mean ± 95 % interval (bootstrap over prompts)"
    parts: list[RenderableType] = [_table(summary, judged, title, telemetry=True)]
    if described:
        parts.append(_table(summary, described, "statistics of the pictures, mean ± 95 % interval", telemetry=False))
    parts += [
        Text(f"{scorer} read only the beginning of {cut} of {count} prompts, which are longer than its text length.")
        for scorer, cut, count in summary.truncated
    ]
    if summary.failures:
        parts.append(failure_table(summary))
    return Group(*parts)


def failure_table(summary: Summary) -> Table:
    """How often each reason for a missing picture or score occurred."""
    table = Table(title="failures", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("count", justify="right")
    table.add_column("reason", overflow="fold")
    for count, reason in summary.failures:
        table.add_row(str(count), Text(reason))
    return table


def card_table(card: Mapping[str, Any]) -> Table:
    """What the run was, from its card."""
    table = Table(title="card", title_justify="left", show_header=False, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in card_lines(card).items():
        table.add_row(Text(name), Text(text))
    return table


def card_lines(card: Mapping[str, Any]) -> dict[str, str]:
    """What a run was, in words: name -> text."""
    prompts, seeds, sampler = card["prompts"], card["seeds"], card["sampler"]
    return {
        "prompts": f"{prompts['name']}, {prompts['count']} ({prompts['hash'][:12]})",
        "seeds": f"{seeds['count']} per prompt, run seed {seeds['run_seed']}",
        "sampler": f"{sampler['name']}, {sampler['grid']} grid" + (", rescaled" if sampler["rescale"] else ""),
        "size": f"{card['size'][0]}x{card['size'][1]}, batches of {card['batch_size']}",
        "kernels": f"{card['dtype']} on {card['device']}, {card['kernels']['attention']} attention",
        "libraries": ", ".join(f"{name} {version}" for name, version in card["versions"].items()),
        **{f"checkpoint {name}": _checkpoint(part) for name, part in card["checkpoints"].items()},
        **{f"scorer {name}": f"{part['summary']} ({part['identity'][:12]})" for name, part in card["scorers"].items()},
    }


def _checkpoint(part: Mapping[str, Any]) -> str:
    guidance = "no guidance" if part["guidance"] is None else f"guidance {part['guidance']:g}"
    return f"{part['family']}, {guidance}, weights {part['weights'][:12]}"


def _table(summary: Summary, columns: Sequence[Column], title: str, *, telemetry: bool) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("checkpoint", no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(Text(_folded(column.title)), justify="right")
    partial = any(line.pictures < line.cells for line in summary.lines)
    with_ratio = any(line.ratio is not None for line in summary.lines)
    if telemetry:
        table.add_column("velocity\nnorm", justify="right")
        if with_ratio:
            table.add_column("norm\nratio", justify="right")
        if partial:
            table.add_column("pictures", justify="right")
        table.add_column("pictures\n/s", justify="right")
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
                cells.append(f"{line.pictures}/{line.cells}")
            cells.append("cached" if line.speed is None else f"{line.speed:.2f}")
        table.add_row(*cells)
    return table


def _folded(title: str) -> str:
    """A long heading on two lines, cut after a hyphen, underscore or dot."""
    if len(title) <= _HEADING:
        return title
    cut = max(title.rfind(mark, 0, len(title) - 3) for mark in "-_.") + 1
    return f"{title[:cut]}\n{title[cut:]}" if cut else title


def _value(value: Value | None) -> str:
    """Mean ± half the interval, to the digit where the interval begins to matter; coverage below, if not whole."""
    if value is None or value.interval is None:
        return "no value"
    interval = value.interval
    half = interval.half_width
    if math.isnan(half):
        text = f"{interval.mean:.4g} ± ?"
    else:
        digits = 3 if half <= 0 else min(max(1 - math.floor(math.log10(half)), 0), 5)
        text = f"{interval.mean:.{digits}f} ±{half:.{digits}f}"
    return text if value.coverage == 1 else f"{text}\nof {_share(value.coverage)}"


def _share(coverage: float) -> str:
    """Never rounded up to 100 %."""
    return f"{math.floor(coverage * 1000) / 10:g} %"
