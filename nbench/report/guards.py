"""A study of guards as a table, and as a plot of reward against velocity norm."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from nbench.normguard.analysis.guards import GuardRow
from nbench.report.plots import Panel, Series, line_chart
from nbench.stats.bootstrap import Interval


def guards_table(rows: Sequence[GuardRow]) -> Table:
    """A row per training: the guard, the reward it kept, and the velocity norm over the base's."""
    table = Table(
        title="Trained reward on held-out prompts against the base, and velocity norm over the base's (mean over t)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("training", "guard"):
        table.add_column(name, no_wrap=True)
    for name in ("lambda", "reward gain", "norm, base's states", "norm, own states", "active", "trained in"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for row in rows:
        table.add_row(
            row.config if row.config != previous else "",
            row.variant,
            "-" if row.weight is None else f"{row.weight:.3g}",
            _signed(row.gain),
            _plain(row.base_states),
            _plain(row.own_states),
            "-" if row.active is None else f"{row.active:.0%}",
            f"{row.seconds / 60:.1f} min",
        )
        previous = row.config
    return table


def guards_plot(rows: Sequence[GuardRow]) -> str:
    """SVG: reward gain against q, a line per power and margin through its weights; a panel per config."""
    panels = []
    for config in dict.fromkeys(row.config for row in rows):
        mine = [row for row in rows if row.config == config]
        series = []
        for family in dict.fromkeys(row.family for row in mine):
            line = sorted((row for row in mine if row.family == family), key=lambda row: row.weight or 0.0)
            series.append(
                Series(
                    family,
                    [row.base_states.mean for row in line],
                    [row.gain.mean for row in line],
                    [row.gain.low for row in line],
                    [row.gain.high for row in line],
                )
            )
        panels.append(Panel(config, "velocity norm over the base's (base's states)", "reward gain", tuple(series), 0.0))
    return line_chart("Reward kept against velocity norm, one point per guard weight (95 % intervals)", panels)


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"


def _plain(interval: Interval) -> str:
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"
