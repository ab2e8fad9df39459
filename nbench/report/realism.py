"""Rendering of detector checks and trainings: rich tables, Markdown tables and a calibration chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbench.report.plots import Panel, Series, line_chart

if TYPE_CHECKING:
    from rich.table import Table

    from nbench.scoring.realism.check import DetectorCheck
    from nbench.scoring.realism.detector import DetectorConfig
    from nbench.scoring.realism.roc import Auc, Bin
    from nbench.stats.bootstrap import Interval


def auc_words(auc: Auc | None) -> str:
    """An AUC with interval and counts."""
    if auc is None:
        return "not measured: no real pictures"
    return f"{auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f}; {auc.real} real, {auc.fake} generated)"


def control_rows(check: DetectorCheck) -> list[tuple[str, str, str, str]]:
    """Control, mean rise, interval, share of pictures that rise."""
    return [
        (
            effect.name,
            f"{effect.rise.mean:+.3f}",
            f"{effect.rise.low:+.3f} to {effect.rise.high:+.3f}",
            f"{effect.share:.0%}",
        )
        for effect in check.controls
    ]


def control_table(check: DetectorCheck, claim: float | None) -> Table:
    """The controls as a rich table; those above the claim are red."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("control", no_wrap=True)
    for heading in ("rise of the log-odds", "95 % interval", "pictures that rise"):
        table.add_column(heading, justify="right")
    for effect, row in zip(check.controls, control_rows(check), strict=True):
        above = effect.rise.mean > (claim if claim is not None else float("inf"))
        table.add_row(*row, style="red" if above else None)
    return table


def check_json(check: DetectorCheck, claim: float | None, effect: Interval | None = None) -> dict[str, Any]:
    """A check as plain values; `effect` is the claim with its interval, where it was measured."""
    import math

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    fitness, reasons = check.verdict(claim, effect)
    auc = check.auc
    return {
        "detector": check.scorer,
        "claim": claim,
        "effect": None if effect is None else {name: number(getattr(effect, name)) for name in ("mean", "low", "high")},
        "verdict": fitness,
        "reasons": reasons,
        "auc": None if auc is None else {name: number(value) for name, value in vars(auc).items()},
        "mean_log_odds": {"real": check.real_mean, "generated": check.fake_mean},
        "biases": list(check.biases),
        "failures": dict(check.failures),
        "controls": {
            effect.name: {
                "rise": effect.rise.mean,
                "low": number(effect.rise.low),
                "high": number(effect.rise.high),
                "share": effect.share,
            }
            for effect in check.controls
        },
    }


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are right-aligned."""
    marks = ["---"] + ["---:"] * (len(headings) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (headings, marks, *rows))


def calibration_chart(title: str, sets: Mapping[str, Sequence[Bin]]) -> str:
    """Predicted probability of real against the share that is real, as a whole SVG document."""
    lines = [Series("honest", (0.0, 1.0), (0.0, 1.0), dashed=True)]
    for name, bins in sets.items():
        total = sum(one.count for one in bins)
        lines.append(
            Series(f"{name} ({total} pictures)", [one.predicted for one in bins], [one.observed for one in bins])
        )
    panel = Panel("equally filled bins", "predicted probability of real", "share that is real", tuple(lines))
    return line_chart(title, [panel])


def own_card(config: DetectorConfig, check: DetectorCheck, bins: Sequence[Bin]) -> str:
    """README.md of a detector that was trained on one's own pictures."""
    from nbench.scoring.realism.roc import calibration_error

    kind = "a conv net from scratch" if config.widths else f"a linear head on frozen {config.architecture}"
    biases = "".join(f"- The sides differ without looking: {bias}. The figures mean little.\n" for bias in check.biases)
    table = markdown_table(("control", "mean rise", "95 % interval", "pictures that rise"), control_rows(check))
    return f"""# {config.name}

{config.summary} It is {kind}; it sees {config.view.words}.

- Made by `{config.source}`.
- AUC on held-out groups, real against generated: {auc_words(check.auc)}.
- Calibration error there: {calibration_error(list(bins)):.3f} (see calibration.svg).
{biases}
It knows the generators that it was trained on. Before it supports a claim about another, check it on that one's
pictures: `nbench realism check FOLDER --fake ... --real ...`.

## Controls

Change of the log-odds of held-out generated pictures by harmless changes; above 0 they look more real.

{table}
"""
