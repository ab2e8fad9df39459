"""The forest plot of a study's claims: every part's effect with its interval, the pooled one below them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nbench.report.page_charts import number_text
from nbench.report.plots import ticks_between
from nbench.report.study_drawing import Drawing
from nbench.report.study_table import Number
from nbench.study.claims.claim import Claim, Effect

_Row = tuple[str, Effect, bool]

_NAMES, _PLOT, _NUMBERS = 300, 330, 240
_LINE, _HEAD, _FOOT, _TOP = 17, 26, 30, 36
_VERDICTS = {"holds": "good", "does not hold": "bad", "cannot tell": "muted"}
_LONGEST = 46  # characters of a part's name


def draw_forest(claims: Sequence[Claim]) -> Drawing:
    """A block per claim with an effect; effects of one unit share a scale, which holds 0."""
    blocks = [(claim, _rows(claim)) for claim in claims]
    blocks = [(claim, scales) for claim, scales in blocks if scales]
    heights = [_HEAD + sum(_LINE * len(rows) + _FOOT for rows in scales.values()) for _, scales in blocks]
    made = Drawing(_NAMES + _PLOT + _NUMBERS, _TOP + max(sum(heights), _LINE), "The claims: effects, 95 % intervals")
    made.text(12, 22, made.title, ink="ink", size=14, bold=True)
    top = float(_TOP)
    for (claim, scales), height in zip(blocks, heights, strict=True):
        made.line([(12, top + 2), (made.width - 12, top + 2)], "grid")
        made.text(12, top + 16, f"{claim.number}  {claim.key.replace('-', ' ')}", ink="ink", size=12, bold=True)
        made.text(_NAMES, top + 16, claim.verdict, ink=_VERDICTS[claim.verdict], size=12, bold=True)
        first = top + _HEAD
        for unit, rows in scales.items():
            _scale(made, rows, unit, first)
            first += _LINE * len(rows) + _FOOT
        top += height
    return made


def _rows(claim: Claim) -> dict[str, list[_Row]]:
    """Unit -> name, effect, and whether it is pooled."""
    found: list[_Row] = [
        (part.name, part.effect, part.facts.get("scope") == "all") for part in claim.parts if part.effect is not None
    ]
    if claim.effect is not None and not any(pooled for _, _, pooled in found):
        found.append(("all", claim.effect, True))
    scales: dict[str, list[_Row]] = {}
    for row in found:
        if math.isfinite(row[1].mean):
            scales.setdefault(row[1].unit, []).append(row)
    return scales


def _scale(made: Drawing, rows: Sequence[_Row], unit: str, first: float) -> None:
    known = [end for _, one, _ in rows for end in (one.mean, one.low, one.high) if end is not None]
    bounds = [end for end in (*known, 0.0) if math.isfinite(end)]
    room = 0.05 * (max(bounds) - min(bounds)) or 1.0
    low, high = min(bounds) - room, max(bounds) + room

    def x_at(value: float) -> float:
        return _NAMES + min(1.0, max(0.0, (value - low) / (high - low))) * (_PLOT - 24)

    last = first + _LINE * len(rows)
    for tick in ticks_between(low, high):
        made.line([(x_at(tick), first), (x_at(tick), last)], "grid")
        made.text(x_at(tick), last + 13, number_text(tick), anchor="middle", size=10)
    made.line([(x_at(0), first), (x_at(0), last)], "axis", dashed=True)
    made.text(_NAMES + _PLOT, last + 13, unit, size=10)
    for i, (name, one, pooled) in enumerate(rows):
        y = first + _LINE * (i + 0.5)
        ink = "ink" if pooled else "muted"
        side = _side(one)
        made.text(_NAMES - 12, y + 4, _cut(name), ink=ink, anchor="end", bold=pooled)
        if one.low is not None and one.high is not None:
            made.line([(x_at(one.low), y), (x_at(one.high), y)], side, width=2.4 if pooled else 1.4)
        made.dot(x_at(one.mean), y, 4.2 if pooled else 2.8, side)
        made.text(_NAMES + _PLOT, y + 4, Number(one.mean, one.low, one.high, signed=True).words(), ink=ink, bold=pooled)


def _side(one: Effect) -> str:
    """Blue or orange where the interval leaves 0 out; whether that is good depends on the claim."""
    if one.low is None or one.high is None:
        return "c0"
    return "c1" if one.low > 0 else "c2" if one.high < 0 else "c0"


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
