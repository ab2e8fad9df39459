"""What an evaluation during training found, as a rich table."""

from __future__ import annotations

import math
from dataclasses import replace

from rich import box
from rich.table import Table
from rich.text import Text

from nbench.normguard.evaluation import Comparison, Evaluation, NormRatio
from nbench.stats.bootstrap import Interval

_MOST_DIGITS = 5
_RATIO = "velocity-norm ratio"


def evaluation_table(evaluation: Evaluation) -> Table:
    """A row per checkpoint, metric and step count: base, checkpoint, and their paired difference.

    The velocity-norm ratio, whose base is 1 by definition, closes each checkpoint. A coverage column appears where it
    is not whole. A difference whose interval leaves out 0 is bold.
    """
    table = Table(
        title=f"{evaluation.run} against {evaluation.base}: {evaluation.prompts} held-out prompts x {evaluation.seeds} "
        "seeds, 95 % intervals over prompts",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for title in ("checkpoint", "metric"):
        table.add_column(title, no_wrap=True)
    for title in ("steps", "base mean", "own mean", "difference", "interval"):
        table.add_column(title, justify="right", no_wrap=True)
    entries: tuple[Comparison | NormRatio, ...] = (*evaluation.comparisons, *evaluation.norms)
    partial = any(entry.coverage < 1 for entry in entries)
    if partial:
        table.add_column("coverage", justify="right", no_wrap=True)
    for checkpoint in dict.fromkeys(entry.checkpoint for entry in entries):
        shown = (Text(checkpoint), Text(""))
        mine = [entry for entry in evaluation.comparisons if entry.checkpoint == checkpoint]
        by_metric = sorted(mine, key=lambda entry: [entry.metric for entry in mine].index(entry.metric))
        rows = [(_title(entry), entry.steps, *_compared(entry), entry.coverage) for entry in by_metric]
        norms = [entry for entry in evaluation.norms if entry.checkpoint == checkpoint]
        rows += [(_RATIO, entry.steps, *_inflated(entry), entry.coverage) for entry in norms]
        previous = None
        for i, (title, steps, base, mean, difference, interval, coverage) in enumerate(rows):
            name = Text(title if title != previous else "")
            previous = title
            cells = [shown[min(i, 1)], name, Text(str(steps)), Text(base), Text(mean), difference, Text(interval)]
            table.add_row(*cells, *([Text(_share(coverage))] if partial else []), end_section=i == len(rows) - 1)
    return table


def _title(entry: Comparison) -> str:
    """The metric, with its scorer where that has another name, and an arrow to where it is better."""
    name = entry.metric if entry.metric == entry.scorer else f"{entry.scorer} {entry.metric}"
    return name + {"higher": " ↑", "lower": " ↓"}.get(entry.orientation, "")


def _compared(entry: Comparison) -> tuple[str, str, Text, str]:
    if entry.difference is None or entry.base is None or entry.mean is None:
        return "no value", "no value", Text("no pair"), ""
    digits = _digits(entry.difference)
    return (
        f"{entry.base:.{digits}f}",
        f"{entry.mean:.{digits}f}",
        _difference(entry.difference, digits),
        _interval(entry.difference, digits),
    )


def _inflated(entry: NormRatio) -> tuple[str, str, Text, str]:
    if entry.ratio is None:
        return "1", "no value", Text("no value"), ""
    digits = _digits(entry.ratio)
    difference = replace(entry.ratio, mean=entry.ratio.mean - 1, low=entry.ratio.low - 1, high=entry.ratio.high - 1)
    mean = f"{entry.ratio.mean:.{digits}f}"
    return "1", mean, _difference(difference, digits), _interval(difference, digits)


def _difference(interval: Interval, digits: int) -> Text:
    apart = interval.low > 0 or interval.high < 0
    return Text(f"{interval.mean:+z.{digits}f}", style="bold" if apart else "")


def _interval(interval: Interval, digits: int) -> str:
    if math.isnan(interval.half_width):
        return "unknown (one prompt)"
    return f"[{interval.low:+z.{digits}f}, {interval.high:+z.{digits}f}]"


def _digits(interval: Interval) -> int:
    """Decimals, to the second digit of half the interval."""
    half = interval.half_width
    return 4 if math.isnan(half) or half <= 0 else min(max(1 - math.floor(math.log10(half)), 0), _MOST_DIGITS)


def _share(coverage: float) -> str:
    """Never rounded up to 100 %."""
    return f"{math.floor(coverage * 1000) / 10:g} %"
