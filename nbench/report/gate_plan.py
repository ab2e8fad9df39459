"""A gate's plan as rich tables."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nbench.gates.plan import Plan
from nbench.report.compare import number


def plan_tables(plan: Plan) -> RenderableType:
    """Prompts per row and number of seeds; then what is enough for all critical rows, and its cost."""
    seeds = list(plan.needed)
    table = Table(
        title=f"prompts for a power of {plan.power:.0%} in each row, from {plan.basis}", title_justify="left",
        box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    for heading in ("tier", "measure"):
        table.add_column(heading)
    for heading in ("steps", "margin", *(f"{count} seed{'s' if count > 1 else ''}" for count in seeds)):
        table.add_column(heading, justify="right")
    for row in plan.rows:
        cells = [_count(row.prompts[count]) if row.margin > 0 else "never" for count in seeds]
        table.add_row(row.tier, Text(row.measure.name), str(row.steps), number(row.margin), *cells)
    lines = []
    critical = [row for row in plan.rows if row.tier == "critical"]
    for count in seeds:
        needed, pictures, seconds = plan.needed[count], plan.pictures[count], plan.seconds[count]
        if not critical:
            lines.append("No row is critical: whatever its number of prompts, this policy passes nothing.")
            break
        if needed is None:
            lines.append(f"{count} per prompt: no number of prompts up to a million is enough for each critical row.")
            continue
        cost = "speed not known" if seconds is None else f"about {_duration(seconds)} at this run's speed"
        lines.append(
            f"{count} per prompt: {needed} prompts are enough for each critical row: {pictures} pictures per "
            f"checkpoint, {cost}."
        )
    return Group(table, *(Text(line) for line in lines))


def _count(value: int | None) -> str:
    return "> 1000000" if value is None else str(value)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
