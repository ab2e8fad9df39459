"""A run as a page: what it says in words, tables, curves, norm profile, pair viewer, failures, card.

Pictures lie beside the page as thumbnails and are loaded as they come into view, so that a run of thousands opens at
once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbench.report import page_format as text
from nbench.report.page import render
from nbench.report.page_board import listed, tiny
from nbench.report.page_charts import COLOURS, Line, chart
from nbench.report.page_run_words import Against, compared, overview, told
from nbench.report.page_thumbnails import write_thumbnails
from nbench.report.summary import Column, Summary, summarise
from nbench.report.summary import Line as SummaryLine
from nbench.report.table import card_lines
from nbench.runs.card import card_hash
from nbench.runs.cube import Cube, Measure, make_cube
from nbench.runs.files import write_atomic
from nbench.runs.tables import RunTables
from nbench.stats.bootstrap import Floats
from nbench.stats.curves import band

PAGE = "index.html"
_DIGITS = 4
_OPENED = 3  # no more checkpoints than these are told of unfolded


def write_report(run: RunTables, out: Path, progress: Callable[[int], None] | None = None) -> Path:
    """Write the page and its thumbnails; the page last.

    Args:
        run: with tables.
        out: folder; thumbnails that are there already are kept.
        progress: is called with how many thumbnails are done.

    Returns:
        The page.

    Raises:
        StoreError: a picture cannot be read, or the disk refuses.
    """
    cube = make_cube(run)
    keys = [str(key) for key in cube.keys.flat if key is not None]
    made = write_thumbnails(keys, run.folder.images.read, out, progress)
    write_atomic(out / PAGE, run_page(run, cube, made).encode())
    return out / PAGE


def run_page(run: RunTables, cube: Cube, thumbnails: Mapping[str, str]) -> str:
    """The page.

    Args:
        run: with tables.
        cube: of the run.
        thumbnails: key -> path below the page's folder, for pictures that exist.
    """
    summary = summarise(run)
    reference = run.card.get("reference") or cube.checkpoints[0]
    against = compared(run, reference)
    colours = {name: i for i, name in enumerate([reference, *(c for c in cube.checkpoints if c != reference)])}
    judged = [measure for measure in cube.values if measure.kind != "statistics"]
    described = [measure for measure in cube.values if measure.kind == "statistics"]
    seen = sum(line.pictures for line in summary.lines)
    values = {
        "name": run.folder.name,
        "cells": sum(line.cells for line in summary.lines),
        "seen": seen,
        "prompts": len(cube.prompts),
        "seeds": cube.seeds,
        "steps": cube.steps,
        "steps_listed": listed(cube.steps),
        "checkpoints": cube.checkpoints,
        "reference": reference,
        "overview": overview(cube, summary),
        "told": [told(one.found, cube) for one in against if one.found is not None],
        "opened": sum(one.found is not None for one in against) <= _OPENED,
        "refused": [(one.candidate, one.refused) for one in against if one.refused],
        "tables": _tables(summary, against, reference, colours),
        "legend": [{"name": name, "colour": i % COLOURS} for name, i in colours.items()],
        "curves": [_curve(cube, measure, colours) for measure in judged if len(cube.steps) > 1],
        "described": [_curve(cube, measure, colours) for measure in described if len(cube.steps) > 1],
        "profiles": _profiles(run, cube, colours),
        "orders": _orders(cube, reference),
        "failures": summary.failures,
        "truncated": summary.truncated,
        "card": list(card_lines(run.card).items()),
        "card_hash": card_hash(run.card),
        "card_json": run.card,
    }
    return render("run.html", values, _data(run, cube, reference, thumbnails), beside=True)


def _data(run: RunTables, cube: Cube, reference: str, thumbnails: Mapping[str, str]) -> dict[str, Any]:
    """What the viewer shows."""
    shape = cube.keys.shape
    names = np.array([thumbnails.get(str(key), "") for key in cube.keys.flat], dtype=object).reshape(shape)
    return {
        "checkpoints": list(cube.checkpoints),
        "reference": cube.checkpoints.index(reference),
        "steps": list(cube.steps),
        "seeds": list(cube.seeds),
        "tiny": tiny(run.card),
        "prompts": [{"id": one, "text": cube.texts[one], "tags": list(cube.tags[one])} for one in cube.prompts],
        "measures": [
            {"name": measure.name, "sign": measure.sign, "values": _rounded(values)}
            for measure, values in cube.values.items()
        ],
        "pictures": _nested(names, lambda path: Path(path).stem if path else ""),
    }


def _rounded(values: Floats) -> Any:
    """To four digits, null for failures."""
    return _nested(values, lambda value: float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None)


def _nested(array: Any, told: Callable[[Any], Any]) -> Any:
    if array.ndim == 0:
        return told(array.item())
    if array.ndim == 1:
        return [told(one) for one in array.tolist()]
    return [_nested(one, told) for one in array]


def _tables(
    summary: Summary, against: Sequence[Against], reference: str, colours: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Means of every checkpoint and step count, with differences from the reference below; scores, then statistics."""
    groups = [("Scorers", [column for column in summary.columns if column.kind != "statistics"], True)]
    groups.append(("Statistics of the pictures", [one for one in summary.columns if one.kind == "statistics"], False))
    gaps = {(one.candidate, row.measure.scorer, row.measure.metric, row.steps): row
            for one in against if one.found is not None for row in one.found.rows}  # fmt: skip
    found = []
    for title, columns, telemetry in groups:
        if not columns:
            continue
        rows = [
            {
                "checkpoint": line.checkpoint,
                "colour": colours[line.checkpoint] % COLOURS,
                "steps": line.steps,
                "cells": [_cell(line, column, gaps) for column in columns],
                "norm": text.number(line.norm, 4) if telemetry else None,
                "pictures": f"{line.pictures}/{line.cells}" if telemetry else None,
            }
            for line in summary.lines
        ]
        found.append({"title": title, "heads": [one.title for one in columns], "telemetry": telemetry, "rows": rows})
    return found


def _cell(line: SummaryLine, column: Column, gaps: Mapping[tuple[str, str, str, int], Any]) -> dict[str, Any]:
    value = line.values.get((column.scorer, column.metric))
    if value is None or value.interval is None:
        return {"sort": "", "text": "no value", "interval": "", "gap": "", "side": ""}
    own = value.interval
    half = own.half_width
    decimals = text.places(half) if math.isfinite(half) and half > 0 else text.places(own.mean)
    coverage = "" if value.coverage == 1 else f", of {math.floor(value.coverage * 1000) / 10:g} %"
    row = gaps.get((line.checkpoint, column.scorer, column.metric, line.steps))
    gap, side = "", ""
    if row is not None and row.difference is not None:
        one = row.difference
        at = text.places(one.mean, one.low, one.high)
        gap = f"{text.signed(one.mean, at)} ({text.interval(one.low, one.high, at)})"
        side = ("up" if one.mean > 0 else "down") if row.measure.sign and one.significant else ""
    return {
        "sort": f"{own.mean:.9g}",
        "text": f"{own.mean:.{decimals}f}".replace("-", "−"),
        "interval": f"± {half:.{decimals}f}{coverage}" if math.isfinite(half) else coverage.removeprefix(", "),
        "gap": gap,
        "side": side,
    }


def _curve(cube: Cube, measure: Measure, colours: Mapping[str, int]) -> dict[str, Any]:
    """All checkpoints on the prompts where every one has every value."""
    values = cube.values[measure]
    known = np.atleast_1d(np.isfinite(values).all(axis=(0, 1, 3)))
    places = [math.log2(count) for count in cube.steps]
    lines = []
    if known.sum() >= 2:
        for name, i in colours.items():
            own = values[cube.checkpoints.index(name)][:, known].mean(axis=2).T
            found = band(own)
            lines.append(Line(name, i, places, found.means.tolist(), found.low.tolist(), found.high.tolist()))
    left = len(known) - int(known.sum())
    return {
        "title": measure.name,
        "better": {1: "higher is better", -1: "lower is better"}.get(measure.sign, "has no better side"),
        "unit": measure.unit,
        "left_out": left,
        "svg": chart(
            f"{measure.name} by step count", lines, x_label="steps", y_label=measure.name,
            x_ticks=[(place, str(count)) for place, count in zip(places, cube.steps, strict=True)],
        ),
    }  # fmt: skip


def _profiles(run: RunTables, cube: Cube, colours: Mapping[str, int]) -> list[dict[str, Any]]:
    """Velocity norm, and its ratio to the reference where it was measured, over t, per step count."""
    wanted = [("norm", "mean"), ("sigma", "mean"), ("ratio", "mean")]
    grouped = run.norms.group_by(["checkpoint", "steps", "step", "prompt_id"]).aggregate(wanted).to_pydict()
    by_place: dict[tuple[str, str, int], dict[int, dict[str, tuple[float, float]]]] = {}
    columns = zip(*(grouped[name] for name in ("checkpoint", "steps", "step", "prompt_id")), strict=True)
    for i, (checkpoint, steps, step, prompt) in enumerate(columns):
        sigma = grouped["sigma_mean"][i]
        for what in ("norm", "ratio"):
            value = grouped[f"{what}_mean"][i]
            if value is not None:
                place = by_place.setdefault((what, checkpoint, steps), {}).setdefault(step, {})
                place[prompt] = (math.nan if sigma is None else float(sigma), float(value))
    found = []
    for what, label in (("norm", "velocity norm"), ("ratio", "ratio to the reference")):
        for steps in cube.steps:
            lines = [
                line
                for name, i in colours.items()
                if (line := _profile_line(name, i, by_place.get((what, name, steps), {}))) is not None
            ]
            if lines:
                with_t = all(math.isfinite(x) for line in lines for x in line.x)
                found.append({"title": f"{label}, {steps} steps", "svg": _profile(label, steps, lines, with_t)})
    return found


def _profile_line(name: str, colour: int, by_step: Mapping[int, Mapping[str, tuple[float, float]]]) -> Line | None:
    if not by_step:
        return None
    order = sorted(by_step)
    prompts = sorted(set.intersection(*(set(by_step[step]) for step in order)))
    if not prompts:
        return None
    values = np.array([[by_step[step][prompt][1] for step in order] for prompt in prompts])
    sigmas = [by_step[step][prompts[0]][0] for step in order]
    x = sigmas if all(map(math.isfinite, sigmas)) else [math.nan] * len(order)
    x = x if all(map(math.isfinite, x)) else [float(step) for step in order]
    if len(prompts) < 2:
        return Line(name, colour, x, values[0].tolist())
    around = band(values)
    return Line(name, colour, x, around.means.tolist(), around.low.tolist(), around.high.tolist())


def _profile(label: str, steps: int, lines: Sequence[Line], with_t: bool) -> Any:
    top = max(x for line in lines for x in line.x)
    on_t = with_t and top <= 1.0 + 1e-6
    ticks = [(t, f"{t:g}") for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    if not on_t:
        ticks = [(float(step), str(step)) for step in range(0, int(top) + 1, max(1, int(top) // 6))]
    return chart(
        f"{label} over t at {steps} steps", lines, x_label="t (1 is noise)" if on_t else "step", y_label=label,
        x_ticks=ticks, falling=on_t,
    )  # fmt: skip


def _orders(cube: Cube, reference: str) -> list[tuple[str, str]]:
    """Ways to order prompts in the viewer: by how much a checkpoint lost."""
    return [
        (f"{m}-{c}", f"{name}: {measure.name} lost most")
        for c, name in enumerate(cube.checkpoints)
        if name != reference
        for m, measure in enumerate(cube.values)
        if measure.sign
    ]
