"""A board as JSON values and as a flat table, rounded so that a last bit of arithmetic does not change a file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nbench.leaderboard.board import Board, Standing
from nbench.leaderboard.figures import Figures, View
from nbench.stats.curves import Band, Estimate
from nbench.stats.paired import PairedDifference

if TYPE_CHECKING:
    import pyarrow as pa

_DIGITS = 9
FORMULAS = {
    "area": "mean over prompts of sum_s w_s (checkpoint - base), with the trapezoid's weights w over log2(steps), "
    "which sum to 1: the difference of the areas under the two curves, in the score's unit",
    "kind": "mean of area / sigma over the kind's measures; sigma is the standard deviation of the base's scores over "
    "prompts and seeds at full steps, held fixed while resampling",
    "overall": "mean over the kinds",
    "few, full": "mean paired difference from the base at that step count",
    "worst": "largest drop below the base over the step counts; negative where there is none; as every maximum's, its "
    "interval leans upwards",
    "match": "steps, interpolated over log2(steps), at which the curve first reaches the base's score at full steps",
    "retention": "score at few steps over its own at full steps; only of measures with a true zero",
    "norm": "mean velocity norm (RMS, over steps and pictures) over the base's at that step count",
    "intervals": "95 %, studentised bootstrap over prompts for means, percentile bootstrap for worst, match and "
    "retention; 10,000 resamples, fixed seed; each holds for itself, bands of curves for all step counts together",
    "rank": "by area; the interval is over resampled prompts",
    "group": "going down the ranks, a new group begins with the first checkpoint that is shown to be worse than the "
    "group's first; all differences are judged together (max-T, 95 %)",
}


def board_json(board: Board) -> dict[str, Any]:
    """Everything, as JSON values. What is not a number is null; `reached` tells "never" from "not known"."""
    definition = board.definition
    return {
        "format": 1,
        "name": definition.name,
        "title": definition.title,
        "label": definition.label,
        "description": definition.description,
        "definition": definition.model_dump(mode="json"),
        "prompts": {"name": board.prompt_set, "count": board.prompts, "hash": board.protocol["prompts"]},
        "seeds": board.seeds,
        "steps": list(definition.steps),
        "few": definition.few_steps,
        "full": definition.full_steps,
        "sigmas": {name: rounded(value) for name, value in board.sigmas.items()},
        "formulas": FORMULAS,
        "protocol": dict(board.protocol),
        "checkpoints": [_standing(one, definition.steps) for one in board.standings],
        "views": [_view(board, view) for view in board.views],
    }


def card_file(name: str) -> str:
    """Where the card of a checkpoint lies in a built board."""
    return f"cards/{name}.json"


def _standing(one: Standing, steps: tuple[int, ...]) -> dict[str, Any]:
    return {
        "name": one.name,
        "base": one.is_base,
        **one.about.model_dump(mode="json"),
        "trained_on_measures": list(one.trained_on),
        "run": one.run,
        "checkpoint": one.checkpoint,
        "submitted": one.submitted,
        "card": one.card_hash,
        "card_file": card_file(one.name),
        "tables": dict(sorted(one.tables.items())),
        "allowed_differences": list(one.allowed),
        "norm": {str(count): rounded(value) for count, value in zip(steps, one.norms, strict=True)},
    }


def _view(board: Board, view: View) -> dict[str, Any]:
    own = board.figures[view.name]
    return {
        "name": view.name,
        "level": view.level,
        "kind": view.kind or None,
        "unit": view.unit,
        "better": "higher" if view.sign > 0 else "lower",
        "measures": list(view.measures),
        "prompts": view.curves.shape[1],
        "prompts_left_out": view.dropped,
        "rows": [
            {"checkpoint": board.standings[i].name, **_figures(own[i], view.sign)} for i in board.ranked(view.name)
        ],
    }


def _figures(own: Figures, sign: int) -> dict[str, Any]:
    return {
        "rank": own.rank.rank,
        "rank_low": own.rank.low,
        "rank_high": own.rank.high,
        "group": own.rank.group,
        "area": _paired(own.area),
        "few": _paired(own.few),
        "full": _paired(own.full),
        "worst": _estimate(own.worst),
        "match": _estimate(own.match),
        "retention": _estimate(own.retention),
        "curve": _band(own.curve, sign),
        "difference": None if own.difference is None else _band(own.difference, 1),
    }


def _paired(one: PairedDifference | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {"mean": rounded(one.mean), "low": rounded(one.low), "high": rounded(one.high)}


def _estimate(one: Estimate | None) -> dict[str, Any] | None:
    if one is None:
        return None
    reached = None if math.isnan(one.value) else math.isfinite(one.value)
    return {"value": rounded(one.value), "low": rounded(one.low), "high": rounded(one.high), "reached": reached}


def _band(one: Band, sign: int) -> dict[str, Any]:
    low, high = (one.low, one.high) if sign > 0 else (-one.high, -one.low)
    return {name: [rounded(float(value)) for value in values]
            for name, values in (("mean", sign * one.means), ("low", low), ("high", high))}  # fmt: skip


def rounded(value: float) -> float | None:
    """To nine significant digits; None for what is not a number."""
    if not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}") + 0.0  # no -0.0


def board_table(board: Board) -> pa.Table:
    """A row per view and checkpoint, in order of rank."""
    import pyarrow as pa

    rows = []
    for view in board.views:
        for i in board.ranked(view.name):
            own, one = board.figures[view.name][i], board.standings[i]
            row: dict[str, Any] = {
                "board": board.definition.name, "view": view.name, "level": view.level, "kind": view.kind or None,
                "unit": view.unit, "checkpoint": one.name, "base": one.is_base, "run": one.run, "card": one.card_hash,
                "prompts": view.curves.shape[1], "rank": own.rank.rank, "rank_low": own.rank.low,
                "rank_high": own.rank.high, "group": own.rank.group,
            }  # fmt: skip
            for name, paired in (("area", own.area), ("few", own.few), ("full", own.full)):
                _add(row, name, None if paired is None else (paired.mean, paired.low, paired.high))
            for name, found in (("worst", own.worst), ("match", own.match), ("retention", own.retention)):
                _add(row, name, None if found is None else (found.value, found.low, found.high))
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, _type(name)) for name in rows[0]]))


def _add(row: dict[str, Any], name: str, values: tuple[float, float, float] | None) -> None:
    """Columns name, name_low, name_high; "never" stays infinite here."""
    for suffix, value in zip(("", "_low", "_high"), values or (math.nan,) * 3, strict=True):
        row[name + suffix] = None if math.isnan(value) else value if math.isinf(value) else rounded(value)


def _type(name: str) -> pa.DataType:
    import pyarrow as pa

    if name in ("prompts", "rank", "rank_low", "rank_high", "group"):
        return pa.int32()
    if name == "base":
        return pa.bool_()
    texts = ("board", "view", "level", "kind", "unit", "checkpoint", "run", "card")
    return pa.string() if name in texts else pa.float64()
