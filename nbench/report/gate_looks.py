"""The looks of a sequential gate, as a rich table and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from nbench.gates.looks import Look, SequentialResult
from nbench.report.gate import gate_json


def look_line(look: Look) -> str:
    """One look in a sentence, for the log."""
    return (
        f"{look.prompts} prompts: {look.passed} rows pass, {look.breached} breach, {look.undecided} are open: "
        f"{look.verdict}."
    )


def looks_table(found: SequentialResult) -> Table:
    """A line per look."""
    table = Table(
        title=Text(f"looks, of {found.prompts} prompts at most: {found.stopped}"), title_justify="left",
        box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    for heading in ("prompts", "run", "pictures made", "pass", "breach", "open", "verdict"):
        table.add_column(heading, justify="left" if heading in ("run", "verdict") else "right")
    for look in found.looks:
        counts = (look.generated, look.passed, look.breached, look.undecided)
        table.add_row(str(look.prompts), look.run, *map(str, counts), look.verdict)
    return table


def sequential_json(found: SequentialResult) -> dict[str, Any]:
    """The gate's result, with its looks."""
    return {
        **gate_json(found.result),
        "sequential": {
            "looks": [asdict(look) for look in found.looks],
            "most_prompts": found.prompts,
            "stopped": found.stopped,
        },
    }
