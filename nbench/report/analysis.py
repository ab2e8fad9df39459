"""Results of the analyses as rich tables and SVG plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nbench.normguard.analysis.coherence import SensitivityLine
from nbench.normguard.analysis.inflation import NormLine
from nbench.normguard.analysis.ratios import RatioLine
from nbench.normguard.analysis.rescale import NONE, RescaleLine
from nbench.report.plots import Panel, Series, line_chart
from nbench.stats.bootstrap import Interval


def norms_table(found: Mapping[str, Sequence[NormLine]]) -> RenderableType:
    """The mean over steps per checkpoint and kind of states; steps are in the plot and the files."""
    table = _table(
        "norm ratio q = rms(v) / rms(v_ref), mean over steps, with 95 % interval (bootstrap over prompts)",
        ("checkpoint", "states"),
        ("q", "lowest step", "highest step", "samples with q > 1", "cosine", "samples"),
    )
    for name, lines in found.items():
        for line in (line for line in lines if line.step is None):
            steps = [other for other in lines if other.state == line.state and other.step is not None]
            least, most = (choose(steps, key=lambda other: other.ratio.mean) for choose in (min, max))
            table.add_row(
                Text(name),
                line.state,
                _interval(line.ratio),
                *(f"{other.ratio.mean:.4f} at t={other.sigma:.3f}" for other in (least, most)),
                _share(line.above.mean),
                f"{line.cosine.mean:.5f}",
                _count(line.ratio.values, line.failed),
            )
    return table


def norms_plot(found: Mapping[str, Sequence[NormLine]]) -> str:
    """q(t) with bands: a panel per kind of states, a line per checkpoint."""
    kinds = dict.fromkeys(line.state for lines in found.values() for line in lines)
    panels = []
    for kind in kinds:
        series = []
        for name, lines in found.items():
            steps = [line for line in lines if line.state == kind and line.step is not None]
            series.append(_banded(name, [(line.sigma or 0.0, line.ratio) for line in steps]))
        panels.append(Panel(f"{kind} states", "t", "rms(v) / rms(v_ref)", tuple(series), level=1.0, falling=True))
    return line_chart("Velocity-norm ratio to the base, mean and 95 % interval over prompts", panels)


def sensitivity_table(name: str, reward: str, lines: Sequence[SensitivityLine]) -> RenderableType:
    """A row per step and one for all steps scaled at once."""
    table = _table(
        f"{name}: change of {reward} per unit of log a_k, the scale of step k's velocity",
        ("step", "t"),
        ("mean", "mean size", "coherence", "random", "agreement", "random ", "samples"),
    )
    for line in lines:
        table.add_row(
            "all" if line.step is None else str(line.step),
            "" if line.sigma is None else f"{line.sigma:.4f}",
            _interval(line.mean),
            f"{line.spread:.3g}",
            _number(line.coherence.ratio),
            _number(line.control.ratio),
            _share(line.coherence.agreement),
            _share(line.control.agreement),
            _count(line.mean.values, line.failed),
        )
    return table


def sensitivity_plot(reward: str, found: Mapping[str, Sequence[SensitivityLine]]) -> str:
    """Mean sensitivity, and coherence beside that of random directions; a line per checkpoint."""
    means, ratios = [], []
    for name, lines in found.items():
        steps = [line for line in lines if line.step is not None]
        at = [line.sigma or 0.0 for line in steps]
        means.append(_banded(name, [(line.sigma or 0.0, line.mean) for line in steps]))
        ratios.append(Series(name, at, [line.coherence.ratio for line in steps]))
        ratios.append(Series(f"{name}, random directions", at, [line.control.ratio for line in steps], dashed=True))
    panels = [
        Panel("mean, 95 % interval over prompts", "t", f"d {reward} / d log a", tuple(means), level=0.0, falling=True),
        Panel("coherence", "t", "|mean| / standard error", tuple(ratios), level=1.96, falling=True),
    ]
    return line_chart("Sensitivity of the reward to the scale of one step's velocity", panels)


def ratio_table(name: str, lines: Sequence[RatioLine]) -> RenderableType:
    """A row per step and one for all; raw and normalised ratios beside each other."""
    table = _table(
        f"{name}: log-ratios on the base's SDE rollouts (gradients relative to the mean over steps)",
        ("step", "t"),
        (
            *("raw mean", "raw std", "raw outside", "raw gradient"),
            *("norm. mean", "norm. std", "norm. outside", "norm. gradient", "x 1/|dt|"),
        ),
    )
    raw = [line for line in lines if line.kind == "raw"]
    normalised = [line for line in lines if line.kind == "normalised"]
    scales = [_mean_of([line.gradient for line in kind]) for kind in (raw, normalised)]
    weighted = _mean_of([line.weighted for line in normalised])
    for one, two in zip(raw, normalised, strict=True):
        table.add_row(
            "all" if one.step is None else str(one.step),
            "" if one.sigma is None else f"{one.sigma:.4f}",
            *(f"{one.mean.mean:.2e}", f"{one.std:.2e}", _share(one.outside), _relative(one.gradient, scales[0])),
            *(f"{two.mean.mean:.2e}", f"{two.std:.2e}", _share(two.outside), _relative(two.gradient, scales[1])),
            _relative(two.weighted, weighted),
        )
    return table


def ratio_plot(found: Mapping[str, Sequence[RatioLine]]) -> str:
    """Mean in units of the standard deviation, spread, and gradient scale, by step; raw against normalised."""
    shifts, spreads, gradients = [], [], []
    for name, lines in found.items():
        for kind in ("raw", "normalised"):
            steps = [line for line in lines if line.kind == kind and line.step is not None]
            title, dashed, at = f"{name}, {kind}", kind == "raw", [line.sigma or 0.0 for line in steps]
            shift = [line.mean.mean / line.std if line.std > 0 else math.nan for line in steps]
            shifts.append(Series(title, at, shift, dashed=dashed))
            spreads.append(Series(title, at, [line.std for line in steps], dashed=dashed))
            scale = _mean_of([line.gradient if kind == "raw" else line.weighted for line in steps])
            used = [(line.gradient if kind == "raw" else line.weighted) or math.nan for line in steps]
            gradients.append(Series(title, at, [value / scale for value in used], dashed=dashed))
    panels = [
        Panel("shift of the log-ratio", "t", "mean / std", tuple(shifts), level=0.0, falling=True),
        Panel("spread of the log-ratio", "t", "std", tuple(spreads), falling=True, log=True),
        Panel("gradient with the weight", "t", "relative to the mean", tuple(gradients), falling=True, log=True),
    ]
    return line_chart("Flow-GRPO ratios by step, raw and normalised (GRPO-Guard)", panels)


def rescale_table(lines: Sequence[RescaleLine]) -> RenderableType:
    """A table per metric: rows checkpoint x steps x setting."""
    tables: list[RenderableType] = []
    for metric in dict.fromkeys((line.scorer, line.metric, line.orientation) for line in lines):
        arrow = {"higher": " ↑", "lower": " ↓"}.get(metric[2], "")
        table = _table(
            f"{metric[1]}{arrow}: mean, and paired difference to no rescale, with 95 % intervals",
            ("checkpoint", "steps", "setting"),
            ("mean", "difference", "pairs", "norm ratio before"),
        )
        for line in (line for line in lines if (line.scorer, line.metric, line.orientation) == metric):
            table.add_row(
                Text(line.checkpoint),
                str(line.steps),
                line.setting,
                "no value" if line.mean is None else _interval(line.mean),
                "" if line.setting == NONE else "no pair" if line.difference is None else _interval(line.difference),
                f"{line.pairs}/{line.cells}",
                "-" if line.ratio is None else f"{line.ratio:.4f}",
            )
        tables.append(table)
    return Group(*tables)


def rescale_plot(lines: Sequence[RescaleLine]) -> str:
    """Paired differences against step count: a panel per metric, a line per checkpoint and setting."""
    panels = []
    for metric in dict.fromkeys(line.metric for line in lines):
        series = []
        for place in dict.fromkeys((line.checkpoint, line.setting) for line in lines if line.setting != NONE):
            mine = [line for line in lines if (line.checkpoint, line.setting, line.metric) == (*place, metric)]
            points = [(float(line.steps), line.difference) for line in mine if line.difference is not None]
            series.append(_banded(f"{place[0]}, {place[1]}", points))
        panels.append(Panel(metric, "steps", "difference to no rescale", tuple(series), level=0.0))
    return line_chart("Inference-time rescale: paired difference, 95 % interval over prompts", panels)


def _table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _banded(name: str, points: Sequence[tuple[float, Interval]]) -> Series:
    return Series(
        name,
        [x for x, _ in points],
        [interval.mean for _, interval in points],
        [interval.low for _, interval in points],
        [interval.high for _, interval in points],
    )


def _interval(interval: Interval) -> str:
    """The mean and its bounds, to the digit where the interval begins to matter."""
    if math.isnan(interval.half_width):
        return f"{interval.mean:.4g} [one prompt]"
    digits = 5
    if interval.half_width > 0:
        digits = min(max(1 - math.floor(math.log10(interval.half_width)), 0), 8)
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _count(used: int, failed: int) -> str:
    return str(used) if not failed else f"{used} of {used + failed}"


def _mean_of(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def _relative(value: float | None, scale: float) -> str:
    return "" if value is None else f"{value / scale:.3g}"
