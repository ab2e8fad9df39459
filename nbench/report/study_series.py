"""The lines that a claim carries for its own figure, as panels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nbench.report.page_charts import COLOURS, Line
from nbench.report.study_figures import step_ticks
from nbench.report.study_panels import Panel
from nbench.study.plan import BASE

Columns = Mapping[str, Sequence[float | None]]

_PATH = ("reward", "outcome")  # columns of a training's path through its epochs


def series_panels(series: Mapping[str, Columns], arms: Mapping[str, int], unit: str) -> tuple[Panel, ...]:
    """Panels of a claim's series, those with the same axes in one.

    A series called "PLACE ARM" is the line of an arm in a panel of its place.

    Args:
        series: name -> columns of equal length: the first is across, "mean" or the second is up; of a path, "reward"
            and "outcome".
        arms: arm -> colour.
        unit: of "mean".
    """
    lines: dict[tuple[str, str, str], list[Line]] = {}
    for name, columns in series.items():
        titles = [title for title in columns if title not in ("low", "high")]
        if len(titles) < 2 or "std" in titles:
            continue  # ratios by step have a figure of their own, where each kind stands on its own scale
        x, y = _PATH if set(_PATH) <= set(titles) else (titles[0], "mean" if "mean" in titles[1:] else titles[1])
        arm = next((arm for arm in arms if name.endswith(f" {arm}") and " - " not in name), "")
        place = name.removesuffix(arm).strip() if arm else ""
        mine = lines.setdefault((place, x, y), [])
        numbers = {
            title: [math.nan if value is None else float(value) for value in columns[title]]
            for title in (x, y, "low", "high")
            if title in columns
        }
        places = [math.log2(value) if value > 0 else math.nan for value in numbers[x]] if x == "steps" else numbers[x]
        colour = arms[arm] if arm else _colour(name, arms, len(mine))
        mine.append(Line(arm or name, colour, places, numbers[y], numbers.get("low"), numbers.get("high")))
    panels = []
    for (place, x, y), drawn in lines.items():
        counts = sorted({round(2**at) for line in drawn for at in line.x if math.isfinite(at)}) if x == "steps" else []
        across, up = "sampling steps" if x == "steps" else x, unit if y == "mean" else y
        level = 0.0 if y == "mean" else None
        panels.append(Panel(place, across, up, tuple(drawn), step_ticks(counts), level))
    return tuple(panels)


def _colour(name: str, arms: Mapping[str, int], number: int) -> int:
    """Of what is compared with the base, the arm's own; else one that no arm of the first three has."""
    arm = name.removesuffix(f" - {BASE}")
    known = {**arms, "guarded": 1, "unguarded": 2}
    return known[arm] if arm in known else 3 + number % (2 * COLOURS - 3)
