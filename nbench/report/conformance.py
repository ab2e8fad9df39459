"""What `check_scorer` found, as a rich table for one scorer and as a Markdown table for many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nbench.errors import ScorerError

if TYPE_CHECKING:
    from rich.table import Table

    from nbench.scoring.conformance import Check, ConformanceReport

_HEADINGS = (
    *("scorer", "repeatable", "batch and order", "prompt", "float32", "odd input", "canaries ranked low"),
    "verdict",
)


def check_table(report: ConformanceReport) -> Table:
    """Every check of one scorer."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("check", "", "figures"):
        table.add_column(heading, no_wrap=heading != "figures")
    words = {True: Text("passed", "green"), False: Text("FAILED", "bold red"), None: Text("-", "dim")}
    for item in report.checks:
        table.add_row(item.name, words[item.passed], Text(item.detail))
    return table


def conformance_markdown(reports: Mapping[str, ConformanceReport | ScorerError]) -> str:
    """A line per scorer; one that could not be made says so, and claims nothing."""
    lines = [f"| {' | '.join(_HEADINGS)} |", "|" + "---|" * len(_HEADINGS)]
    for name, report in reports.items():
        cells = ["-"] * 6 + ["not run: cannot run here"] if isinstance(report, ScorerError) else _cells(report)
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(report: ConformanceReport) -> list[str]:
    by_name = {check.name: check for check in report.checks}

    def said(*names: str) -> str:
        found = [by_name[name] for name in names if name in by_name]
        return _word(found)

    canaries: dict[str, list[Check]] = {}
    for check in report.checks:
        if check.name.startswith(("canary: ", "copies of one picture")):
            canaries.setdefault(check.name.removeprefix("canary: ").partition(" (")[0], []).append(check)
    low = [name for name, found in canaries.items() if all(check.passed for check in found)]
    declared = [name for name, found in canaries.items() if any("unfit" in check.detail for check in found)]
    ranked = ", ".join(low) or "-"
    if declared:
        ranked += f"; declared unfit for floors: {', '.join(declared)}"
    failed = ", ".join(check.name for check in report.checks if check.passed is False)
    return [
        said("determinism"),
        said("batch independence", "order independence"),
        said("reads the prompt", "ignores the prompt"),
        said("more than half precision"),
        said("odd input gives a value or a reason", "a single picture"),
        ranked,
        f"failed: {failed}" if failed else "passed",
    ]


def _word(checks: list[Check]) -> str:
    if not checks or all(check.passed is None for check in checks):
        return "-"
    return "no" if any(check.passed is False for check in checks) else "yes"
