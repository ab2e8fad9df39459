"""A gate's result as a rich table, JSON and a Markdown step summary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nbench.gates.evaluate import GateResult, GateRow
from nbench.report.compare import number, plain, share

_STYLE = {"PASS": "bold green", "BREACH": "bold red", "INCONCLUSIVE": "bold yellow"}
HEADINGS = ("tier", "measure", "steps", "difference", "lower", "upper (all)", "margin", "sees", "coverage", "verdict")


def gate_tables(result: GateResult) -> RenderableType:
    """Every row with its bounds, margin and verdict; then the whole."""
    table = Table(
        title=Text(
            f"gate {result.policy.name}: {result.candidate} against {result.base}, "
            f"{result.prompts} prompts x {result.seeds} seeds"
        ),
        title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in ("tier", "measure", "verdict") else "right")
    for row in result.rows:
        cells = row_cells(row)
        table.add_row(*map(Text, cells[:-1]), Text(cells[-1], _STYLE[row.verdict]))
    parts: list[RenderableType] = [table]
    if result.allowed:
        parts.append(Text("NOT LIKE WITH LIKE, allowed by name: " + "; ".join(map(str, result.allowed)), "bold yellow"))
    parts += [Text(f"{row.place}: {row.reason}.") for row in result.rows if row.reason]
    parts.append(Text.assemble((result.verdict, _STYLE[result.verdict]), f"  {sentence(result)}"))
    return Group(*parts)


def row_cells(row: GateRow) -> list[str]:
    """The cells of a row, as in the headings."""
    steps = str(row.steps) if row.steps else "-"
    if row.row is None or row.row.difference is None:
        coverage = "-" if row.row is None else share(row.row.coverage)
        return [row.tier, row.name, steps, "-", "-", "-", number(row.margin), "-", coverage, row.verdict]
    difference = row.row.difference
    return [
        row.tier, row.name, steps, f"{difference.mean:+.4g}", number(difference.lower), number(row.upper),
        number(row.margin), number(row.row.detectable), share(row.row.coverage), row.verdict,
    ]  # fmt: skip


def sentence(result: GateResult) -> str:
    """What the verdict rests on."""
    if result.reason:
        return f"{result.reason}."
    if result.verdict == "PASS":
        count = sum(row.tier == "critical" for row in result.rows)
        same = " Base and candidate have the same weights." if result.same_weights else ""
        return f"Every critical row ({count}) is shown to lose less than its margin.{same}"
    blocking = [row for row in result.rows if row.blocks]
    if result.verdict == "BREACH":
        breached = [row for row in blocking if row.verdict == "BREACH"]
        return f"A drop beyond the margin is shown: {_listed(breached)}."
    return f"Not decided: {_listed(blocking)}."


def _listed(rows: Sequence[GateRow]) -> str:
    """The first few places, and how many more."""
    more = f" and {len(rows) - 4} more" if len(rows) > 4 else ""
    return ", ".join(row.place for row in rows[:4]) + more


def gate_json(result: GateResult) -> dict[str, Any]:
    """The whole result as JSON values."""
    rows = [
        {
            "tier": row.tier,
            "measure": row.name,
            "steps": row.steps or None,
            "verdict": row.verdict,
            "blocks": row.blocks,
            "reason": row.reason or None,
            "margin": _number(row.margin),
            "upper_all": _number(row.upper),
            "coverage_needed": row.least,
            "prompts_needed": row.needed,
            **({} if row.row is None else _paired(row)),
        }
        for row in result.rows
    ]
    return {
        "verdict": result.verdict,
        "exit_code": result.exit_code,
        "summary": sentence(result),
        "policy": result.policy.model_dump(mode="json"),
        "base": {"checkpoint": result.base, "run": result.runs[0], "card": result.cards[0]},
        "candidate": {"checkpoint": result.candidate, "run": result.runs[1], "card": result.cards[1]},
        "same_weights": result.same_weights,
        "allowed_differences": [str(one) for one in result.allowed],
        "prompts": result.prompts,
        "seeds": result.seeds,
        "rows": rows,
    }


def _paired(row: GateRow) -> dict[str, Any]:
    assert row.row is not None
    return {
        "base_mean": _number(row.row.base),
        "candidate_mean": _number(row.row.candidate),
        "coverage": row.row.coverage,
        "detectable_drop": _number(row.row.detectable),
        "difference": plain(row.row.difference),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def step_summary(result: GateResult) -> str:
    """Markdown, as GitHub shows it in a job's summary."""
    mark = {"PASS": "✅", "BREACH": "❌", "INCONCLUSIVE": "⚠️"}
    lines = [
        f"## {mark[result.verdict]} {escape(result.policy.name)}: {result.verdict}",
        "",
        f"{escape(result.candidate)} against {escape(result.base)}, {result.prompts} prompts x {result.seeds} seeds. "
        + escape(sentence(result)),
        "",
    ]
    if result.allowed:
        lines += ["**Not like with like**, allowed by name: " + escape("; ".join(map(str, result.allowed))), ""]
    lines += ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    for row in result.rows:
        lines.append("| " + " | ".join(map(escape, row_cells(row)[:-1])) + f" | {mark[row.verdict]} {row.verdict} |")
    lines += ["", *(f"* {escape(f'{row.place}: {row.reason}.')}" for row in result.rows if row.reason)]
    return "\n".join(lines) + "\n"


_MARKUP = {**{char: f"\\{char}" for char in "\\`*_{}[]#|~$"}, "&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escape(text: str) -> str:
    """Text for a Markdown table: no markup, no HTML, no cell border, no line break."""
    return " ".join("".join(_MARKUP.get(char, char) for char in text).split())
