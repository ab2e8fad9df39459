"""A board as one self-contained HTML page: tables, curves, pictures and cards inside, nothing fetched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nbench.leaderboard.board import Board, Standing
from nbench.leaderboard.figures import Figures, View
from nbench.leaderboard.rows import FORMULAS
from nbench.report import page_format as text
from nbench.report.page import render
from nbench.report.page_charts import COLOURS, Line, bar, chart, reach_of
from nbench.report.page_thumbnails import data_uri
from nbench.stats.curves import Band, Estimate
from nbench.stats.paired import PairedDifference

#: names of what `nbench.leaderboard.rows.FORMULAS` explains, as the page's table heads say them
_HEADS = {
    "area": "area",
    "kind": "area of a kind",
    "overall": "overall area",
    "few, full": "at few, at full steps",
    "worst": "worst drop",
    "match": "steps to match",
    "norm": "norm",
}
_TINY = 96  # pictures of no more pixels on a side are shown with their pixels


def board_page(board: Board) -> str:
    """The page."""
    definition = board.definition
    gallery = [
        [[None if picture is None else data_uri(picture) for picture in row] for row in prompt.pictures]
        for prompt in board.gallery
    ]
    retained = any(view.true_zero for view in board.views)
    formulas = [(_HEADS.get(name, name), body) for name, body in FORMULAS.items() if name != "retention" or retained]
    values = {
        "definition": definition,
        "standings": [_standing(one, definition.steps) for one in board.standings],
        "base": board.standings[0].name,
        "prompts": board.prompts,
        "seeds": board.seeds,
        "steps": definition.steps,
        "steps_listed": listed(definition.steps),
        "few": definition.few_steps,
        "full": definition.full_steps,
        "views": [_view(board, view) for view in board.views],
        "legend": [{"name": one.name, "colour": i % COLOURS} for i, one in enumerate(board.standings)],
        "gallery": [
            {"text": prompt.text, "few": [row[0] for row in pictures]}
            for prompt, pictures in zip(board.gallery, gallery, strict=True)
        ],
        "formulas": formulas,
        "sigmas": list(board.sigmas.items()),
        "protocol": _protocol(board),
        "protocol_json": board.protocol,
    }
    data = {"steps": list(definition.steps), "gallery": gallery, "tiny": tiny(board.standings[0].card)}
    return render("board.html", values, data, beside=False)


def listed(steps: Sequence[int]) -> str:
    """Step counts in words."""
    return ", ".join(map(str, steps))


def tiny(card: Mapping[str, Any]) -> bool:
    """Whether the pictures are so small that they are better shown with their pixels."""
    return bool(max(card["size"]) <= _TINY)


def _standing(one: Standing, steps: Sequence[int]) -> dict[str, Any]:
    rows = [
        ("run", f"{one.run}, checkpoint {one.checkpoint}" + (" (a submission)" if one.submitted else "")),
        ("card of the run", one.card_hash),
        ("weights", one.card["checkpoints"][one.checkpoint]["weights"]),
        *((name, digest) for name, digest in sorted(one.tables.items())),
        ("method", one.about.method),
        ("guard", one.about.guard),
        ("trained on", ", ".join(one.about.trained_on)),
        ("velocity norm over the base's", ", ".join(f"{text.number(value, 4)} at {count} steps"
                                                    for count, value in zip(steps, one.norms, strict=True))),
        ("differs from the base's card in", "; ".join(one.allowed)),
        ("notes", one.about.notes),
    ]  # fmt: skip
    return {
        "name": one.name,
        "is_base": one.is_base,
        "url": one.about.url,
        "card": one.card,
        "rows": [(name, value) for name, value in rows if value],
    }


def title_of(view: View) -> str:
    """A view's name as a heading."""
    if view.level == "overall":
        return "overall"
    return f"kind: {view.name}" if view.level == "kind" else f"measure: {view.name}"


def note_of(view: View) -> str:
    """What a view rests on."""
    own = f"{view.curves.shape[1]} prompts" + (f", {view.dropped} left out for lacking a value" if view.dropped else "")
    if view.level == "measure":
        turned = ". Lower is better; differences are turned around" if view.sign < 0 else ""
        return f"Unit: {view.unit}{turned}. {own}."
    return f"Mean over {', '.join(view.measures)}; unit: {view.unit}. {own}."


def _view(board: Board, view: View) -> dict[str, Any]:
    own = board.figures[view.name]
    kinds = [one for one in board.views if one.level == "kind"] if view.level == "overall" else []
    if len(kinds) < 2:
        kinds = []
    columns = [
        [figure.area for figure in own],
        *([figure.area for figure in board.figures[kind.name]] for kind in kinds),
        [figure.few for figure in own],
        [figure.full for figure in own],
    ]
    paired = [_paired_column(column, bars=not 0 < i <= len(kinds)) for i, column in enumerate(columns)]
    worst = _worst_column([figure.worst for figure in own])
    rows, previous = [], None
    for i in board.ranked(view.name):
        one, figure = board.standings[i], own[i]
        cells = [*(column[i] for column in paired), worst[i], _match(figure.match)]
        if view.true_zero:
            cells.append(_retention(figure.retention))
        few = one.norms[board.definition.steps.index(board.definition.few_steps)]
        cells.append({"sort": _sort(few), "text": text.number(few, 4), "bar": "", "interval": ""})
        sub = " · ".join(part for part in ("base" if one.is_base else "", one.about.method, one.about.guard) if part)
        rows.append(
            {
                "name": one.name,
                "colour": i % COLOURS,
                "sub": sub,
                "search": " ".join((one.name, sub, " ".join(one.about.trained_on), one.about.notes)),
                "rank": figure.rank.rank,
                "ranks": _ranks(figure),
                "group": figure.rank.group,
                "new_group": previous is not None and figure.rank.group != previous,
                "marked": ", ".join(name for name in one.trained_on if name in view.measures),
                "allowed": "; ".join(one.allowed),
                "cells": cells,
            }
        )
        previous = figure.rank.group
    return {
        "title": title_of(view),
        "note": note_of(view),
        "kinds": [kind.name for kind in kinds],
        "retention": view.true_zero,
        "rows": rows,
        "scores": _chart(board, view, differences=False),
        "differences": _chart(board, view, differences=True),
    }


def _ranks(figure: Figures) -> str:
    low, high = figure.rank.low, figure.rank.high
    return f"{low}–{high}" if low != high else ""


def _sort(value: float) -> str:
    """What the page sorts by."""
    if math.isnan(value):
        return ""
    return "inf" if math.isinf(value) else f"{value:.9g}"


def _paired_column(column: Sequence[PairedDifference | None], *, bars: bool) -> list[dict[str, Any]]:
    known = [one for one in column if one is not None]
    decimals = text.places(*(bound for one in known for bound in (one.mean, one.low, one.high)))
    reach = reach_of([bound for one in known for bound in (one.mean, one.low, one.high)])
    return [
        {"sort": "0", "text": "0", "bar": "", "interval": ""}
        if one is None
        else {
            "sort": _sort(one.mean),
            "text": text.signed(one.mean, decimals),
            "bar": bar(one.mean, one.low, one.high, reach) if bars else "",
            "interval": text.interval(one.low, one.high, decimals),
        }
        for one in column
    ]


def _worst_column(column: Sequence[Estimate | None]) -> list[dict[str, Any]]:
    known = [one for one in column if one is not None]
    decimals = text.places(*(bound for one in known for bound in (one.value, one.low, one.high)))
    return [
        {"sort": "0", "text": "0", "bar": "", "interval": ""}
        if one is None
        else {
            "sort": _sort(one.value),
            "text": text.signed(one.value, decimals).removeprefix("+"),
            "bar": "",
            "interval": text.interval(one.low, one.high, decimals),
        }
        for one in column
    ]


def _match(one: Estimate | None) -> dict[str, Any]:
    if one is None:
        return {"sort": "", "text": text.NONE, "bar": "", "interval": ""}
    interval = "no interval" if math.isnan(one.low) else f"{text.steps(one.low)} to {text.steps(one.high)}"
    return {"sort": _sort(one.value), "text": text.steps(one.value), "bar": "", "interval": interval}


def _retention(one: Estimate | None) -> dict[str, Any]:
    if one is None:
        return {"sort": "", "text": text.NONE, "bar": "", "interval": ""}
    interval = "no interval" if math.isnan(one.low) else f"{one.low:.2f} to {one.high:.2f}"
    return {"sort": _sort(one.value), "text": f"{one.value:.2f}", "bar": "", "interval": interval}


def _chart(board: Board, view: View, *, differences: bool) -> Any:
    steps = board.definition.steps
    places = [math.log2(count) for count in steps]
    lines = []
    for i, (one, figure) in enumerate(zip(board.standings, board.figures[view.name], strict=True)):
        found: Band | None = figure.difference if differences else figure.curve
        if found is None:
            continue
        sign = 1 if differences else view.sign
        low, high = (found.low, found.high) if sign > 0 else (-found.high, -found.low)
        lines.append(Line(one.name, i, places, (sign * found.means).tolist(), low.tolist(), high.tolist()))
    unit = "sd of the base" if view.level != "measure" else view.name
    return chart(
        f"{title_of(view)}: {'difference from the base' if differences else 'score'} by step count",
        lines,
        x_label="steps",
        y_label=("difference" if view.level == "measure" else f"difference, {unit}") if differences else unit,
        x_ticks=[(place, str(count)) for place, count in zip(places, steps, strict=True)],
        level=0.0 if differences else None,
    )


def _protocol(board: Board) -> list[tuple[str, str]]:
    found = board.protocol
    sampler = found["sampler"]
    return [
        ("prompts", f"{board.prompt_set}, {board.prompts} prompts, {found['prompts']}"),
        ("seeds", f"{found['seeds']['count']} per prompt, run seed {found['seeds']['run_seed']}"),
        ("steps", listed(board.definition.steps)),
        ("sampler", f"{sampler['name']}, {sampler['grid']} grid" + (", rescaled" if sampler.get("rescale") else "")),
        ("guidance", "none" if found["guidance"] is None else f"{found['guidance']:g}"),
        ("size", " × ".join(map(str, found["size"]))),
        ("kernels", f"{found['dtype']} on {found['device']}, {found['kernels']['attention']} attention, "
                    f"batches of {found['batch_size']}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
        *((f"scorer {name}", identity) for name, identity in found["scorers"].items()),
        *([("may differ", ", ".join(board.definition.allow))] if board.definition.allow else []),
        *([("least coverage", f"{board.definition.coverage:g}")] if board.definition.coverage < 1 else []),
    ]  # fmt: skip
