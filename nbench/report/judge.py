"""The calibration card of a judge: rich tables, Markdown, JSON and a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbench.report.plots import Panel, Series, line_chart
from nbench.scoring.judge.calibration import JudgeCheck
from nbench.scoring.judge.calibration_pairs import PairCheck

if TYPE_CHECKING:
    from rich.table import Table

    from nbench.stats.bootstrap import Interval

Check = JudgeCheck | PairCheck
_ROW = tuple[str, ...]


def interval_words(one: Interval, form: str = ".3f") -> str:
    """A mean with its interval."""
    if math.isnan(one.mean):
        return "not measured"
    if math.isnan(one.low):
        return f"{one.mean:{form}}"
    return f"{one.mean:{form}} ({one.low:{form}} to {one.high:{form}})"


def following_rows(check: Check) -> tuple[_ROW, list[_ROW]]:
    """Headings and a row per degradation."""
    if isinstance(check, JudgeCheck):
        headings: _ROW = ("degradation", "metric", "Spearman with severity", "paired AUC", "AUC at 1 2 3 4 5")
        rows: list[_ROW] = [
            (
                one.kind,
                one.metric,
                interval_words(one.spearman, ".2f"),
                interval_words(one.auc, ".2f"),
                " ".join(f"{share:.2f}" for share in one.auc_at),
            )
            for one in check.following
        ]
        return headings, rows
    headings = ("degradation", "better copy preferred", "from severity 0 1 2 3")
    return headings, [
        (one.kind, interval_words(one.accuracy, ".2f"), " ".join(f"{share:.2f}" for share in one.accuracy_from))
        for one in check.following
    ]


def fact_rows(check: Check) -> list[tuple[str, str]]:
    """What else the card says."""
    mass = "not measured" if check.mass is None else f"mean {check.mass[0]:.3f}, least {check.mass[1]:.3f}"
    unit = "picture" if isinstance(check, JudgeCheck) else "pair"
    rows = [
        ("answered by", check.identity.get("backend", "")),
        ("originals", str(check.pictures)),
        ("coverage", f"{check.coverage:.1%} of {check.asked} {unit}s"),
        ("label mass", mass),
        ("time", f"{1000 * check.seconds:.0f} ms per {unit}"),
    ]
    if isinstance(check, PairCheck):
        rows += [
            ("right, all kinds", interval_words(check.accuracy)),
            ("swap consistency", interval_words(check.consistency)),
            ("order bias", interval_words(check.order_bias, "+.3f")),
            ("repeats", f"deviation {check.deviation:.2g}, of preferences 0 to 1"),
        ]
    elif check.repeatability is not None:
        noise = check.repeatability
        rows.append(
            (
                "repeats",
                f"{noise.metric} differs by up to {noise.alone:.2g} alone, {noise.loaded:.2g} under load; deviation "
                f"{noise.deviation:.2g} of a range of {noise.range:g}",
            )
        )
    if check.agreement is not None:
        rows.append(("agrees with people", interval_words(check.agreement)))
    rows += [("no score", f"{count}: {reason}") for reason, count in check.failures.items()]
    faults = check.faults
    rows.append(("verdict", "trusted" if not faults else "not trusted: " + "; ".join(faults)))
    return rows


def judge_tables(check: Check) -> list[Table]:
    """The card as two rich tables."""
    from rich.table import Table
    from rich.text import Text

    headings, rows = following_rows(check)
    table = Table(title=f"judge {check.judge}", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    weak = {one.kind for one in check.following if one.fault is not None}
    for row in rows:
        table.add_row(*row, style="red" if row[0] in weak else None)
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    for label, text in fact_rows(check):
        facts.add_row(label, Text(text))
    return [table, facts]


def judge_markdown(check: Check, title: str) -> str:
    """The card as Markdown."""
    headings, rows = following_rows(check)
    facts = "\n".join(f"- {label}: {text}" for label, text in fact_rows(check))
    marks = ["---"] * len(headings)
    table = "\n".join("| " + " | ".join(row) + " |" for row in (headings, marks, *rows))
    return f"# {title}\n\n{facts}\n\n{table}\n"


def judge_plot(check: Check) -> str:
    """Metric against severity, or share of right pairs against the better copy's severity, as a whole SVG document."""
    if isinstance(check, PairCheck):
        lines = tuple(
            Series(one.kind, [float(i) for i in range(len(one.accuracy_from))], one.accuracy_from)
            for one in check.following
        )
        panel = Panel(
            "copies two severities apart", "severity of the better copy", "better copy preferred", lines, level=0.5
        )
        return line_chart(f"judge {check.judge}", [panel])
    panels = []
    for metric in dict.fromkeys(one.metric for one in check.following):
        lines = tuple(
            Series(one.kind, [float(i) for i in range(len(one.means))], one.means, one.lows, one.highs)
            for one in check.following
            if one.metric == metric
        )
        panels.append(Panel(metric, "severity", f"mean {metric}", lines))
    return line_chart(f"judge {check.judge}", panels)


def judge_json(check: Check) -> dict[str, Any]:
    """The card as plain data; a number that is not finite is None."""
    import dataclasses

    found: dict[str, Any] = _plain(dataclasses.asdict(check))
    return {
        "kind": "pairs" if isinstance(check, PairCheck) else "pictures",
        **found,
        "coverage": check.coverage,
        "trusted": not check.faults,
        "faults": check.faults,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
