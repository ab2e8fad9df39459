"""A bisection as a rich table, a sentence and JSON."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from nbench.gates.bisect import Bisection
from nbench.report import gate

_STYLE = {"PASS": "green", "BREACH": "bold red", "INCONCLUSIVE": "yellow"}


def bisection_table(found: Bisection) -> Table:
    """Every checkpoint in order, with its verdict, or that it was not needed."""
    table = Table(title="bisection, in the order given", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("checkpoint", "verdict", "judged", "why"):
        table.add_column(heading, overflow="fold")
    for i, name in enumerate(found.names):
        if i not in found.found.verdicts:
            table.add_row(Text(name), Text("not needed", "dim"), "", "")
            continue
        verdict = found.found.verdicts[i]
        place = f"{found.found.order.index(i) + 1}." + (" (from the store)" if i in found.free else "")
        table.add_row(Text(name), Text(verdict, _STYLE[verdict]), place, Text(gate.sentence(found.results[i])))
    return table


def sentence(found: Bisection) -> str:
    """The answer, with what it rests on."""
    result, names = found.found, found.names
    listed = ", ".join(names[i] for i in result.between)
    spent = f"{len(result.order)} of {len(names)} checkpoints were judged, {len(found.free)} from the store."
    if not result.orderly:
        spent += (
            " A later checkpoint passes again, so that breaches do not simply stay: judge each one by `nbench gate`."
        )
    if result.first is None:
        if not result.between:
            return f"No breach: {names[-1]}, the last checkpoint, passes. {spent}"
        return f"No breach is shown, and {listed} cannot be told: use more prompts. {spent}"
    first = names[result.first]
    if result.between:
        return f"{first} breaches; the breach may begin at {listed}, which cannot be told: use more prompts. {spent}"
    before = f", and {names[result.last_pass]} before it passes" if result.last_pass is not None else ""
    return f"{first} is the first that breaches{before}. {spent}"


def bisection_json(found: Bisection) -> dict[str, Any]:
    """The whole result as JSON values."""
    result, names = found.found, found.names
    return {
        "first_breach": None if result.first is None else names[result.first],
        "last_pass": None if result.last_pass is None else names[result.last_pass],
        "undecided": [names[i] for i in result.between],
        "orderly": result.orderly,
        "exit_code": result.exit_code,
        "summary": sentence(found),
        "checkpoints": [
            {
                "name": name,
                "verdict": result.verdicts.get(i),
                "judged": result.order.index(i) + 1 if i in result.verdicts else None,
                "from_store": i in found.free,
                "run": found.runs.get(i),
                "gate": gate.gate_json(found.results[i]) if i in found.results else None,
            }
            for i, name in enumerate(names)
        ],
    }
