"""A study as one self-contained HTML page: verdicts, figures, pictures, claims, tables, and how it was run."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbench.report import page_format as text
from nbench.report.page import render
from nbench.report.page_charts import COLOURS, bar, reach_of
from nbench.report.study_facts import StudyFacts
from nbench.report.study_figures import arm_colours
from nbench.report.study_panels import Figure
from nbench.report.study_series import series_panels
from nbench.report.study_table import Cell, Number, StudyTable, words
from nbench.report.study_values import NORM_RATIO
from nbench.report.study_words import INTRO, anchor, run_lines, sizes
from nbench.study.claims.claim import Claim, Effect
from nbench.study.evidence import Evidence

_SIDES = {"holds": "up", "does not hold": "down", "cannot tell": "meta"}
_SHORT = {
    "steps": "Steps", "steps-by-group": "Groups", "norms": "Norms", "frontier": "Frontier", "training": "Training",
    "ratios": "Ratios",
}  # fmt: skip
_HEADS = ("arm", "training")  # columns that name their row
_PLAIN = (NORM_RATIO.name,)  # columns in which more is neither better nor worse
_IN_PAGE = ("main", "arms", "trainings")
_LIMITS = (
    "Figures and tables give intervals over prompts, for these trainings; only the claims' pooled effects also count "
    "how trainings differ.",
)


@dataclass(frozen=True)
class Strip:
    """A strip of pictures.

    Attributes:
        name: of its group.
        jpeg: its content.
        width, height: in pixels.
        alt: what it shows.
    """

    name: str
    jpeg: bytes
    width: int
    height: int
    alt: str


def study_page(
    evidence: Evidence,
    claims: Sequence[Claim],
    facts: StudyFacts,
    *,
    tables: Mapping[str, StudyTable],
    figures: Mapping[str, Figure],
    strips: Sequence[Strip],
) -> str:
    """The page.

    Args:
        evidence: of the study.
        claims: in order.
        facts: of how it was run.
        tables: by name; those that are too long for a page stay beside it.
        figures: by name.
        strips: pictures, by group.
    """
    study = evidence.plan.study
    runs, trainings = len(evidence.runs), sum(bool(log) for log in evidence.logs.values())
    prompts = evidence.plan.prompts
    values = {
        "name": study.name,
        "title": study.title or study.name,
        "label": study.label,
        "meta": f"{trainings} of {len(evidence.plan.trainings)} trainings, {runs} of {len(list(evidence.plan.runs()))} "
        f"runs; {len(prompts.prompts)} prompts × {study.evaluation.seeds} seeds at "
        f"{', '.join(map(str, study.evaluation.steps))} steps; nbench {facts.nbench}.",
        "intro": INTRO,
        "claims": [_claim(one, arm_colours(evidence)) for one in claims],
        "figures": [_figure(one) for one in figures.values()],
        "strips": [_strip(one) for one in strips],
        "tables": [_table(tables[name]) for name in _IN_PAGE if name in tables],
        "run": run_lines(facts),
        "notes": facts.notes,
        "commands": [one.command for one in facts.done],
        "hashes": list(facts.hashes.items()),
        "study_yaml": study.to_yaml(),
        "limits": [*facts.limits, *_LIMITS, *_missing(claims)],
    }
    return render("study.html", values, {}, beside=False)


def _missing(claims: Sequence[Claim]) -> list[str]:
    """What was not run, each once, with the claims that lack it."""
    found: dict[str, list[int]] = {}
    for one in claims:
        for missing in one.missing:
            found.setdefault(missing, []).append(one.number)
    return [f"Not run, for claim {', '.join(map(str, numbers))}: {what}" for what, numbers in found.items()]


def _claim(one: Claim, arms: Mapping[str, int]) -> dict[str, Any]:
    effects = [part.effect for part in one.parts]
    reach = _reach([*effects, one.effect])
    names = list(dict.fromkeys(name for part in one.parts for name in part.facts))
    spoken = {name for part in one.parts for name, value in part.facts.items() if isinstance(value, str)}
    rows = [
        ("effect", "not measured" if one.effect is None else f"{_words(one.effect)} ({sizes(one.effect)})"),
        ("rule", one.rule),
        ("source", one.source),
        *(("caveat", caveat) for caveat in one.caveats),
        *(("not run", missing) for missing in one.missing),
    ]
    panels = _series_panels(one, arms)
    return {
        "number": one.number,
        "anchor": anchor(one),
        "statement": one.statement,
        "verdict": one.verdict,
        "side": _SIDES[one.verdict],
        "summary": one.summary,
        "unit": "" if one.effect is None else one.effect.unit,
        "effect": _effect(one.effect, _reach([one.effect])),
        "rows": [(name, value) for name, value in rows if value],
        "facts": [(name, "" if name in spoken else "num") for name in names],
        "parts": [
            {
                "name": part.name,
                "verdict": part.verdict,
                "effect": _effect(part.effect, reach),
                "facts": [_cell(_fact(part.facts.get(name), name in spoken)) for name in names],
            }
            for part in one.parts
        ],
        **panels,
    }


def _fact(value: float | str | None, spoken: bool) -> Cell:
    """A fact of a part as a cell of its column, which holds words or numbers alone."""
    if isinstance(value, str) or (spoken and value is None):
        return value
    return Number(None if value is None else float(value))


def _words(effect: Effect) -> str:
    return f"{Number(effect.mean, effect.low, effect.high, signed=True).words()} {effect.unit}"


def _reach(effects: Sequence[Effect | None]) -> tuple[float, float]:
    return reach_of([end for one in effects if one for end in (one.mean, one.low, one.high) if end is not None])


def _effect(one: Effect | None, reach: tuple[float, float]) -> dict[str, Any]:
    if one is None or not math.isfinite(one.mean):
        return {"sort": "", "text": text.NONE, "bar": "", "interval": ""}
    low, high = (math.nan if end is None else end for end in (one.low, one.high))
    decimals = text.places(one.mean, low, high)
    return {
        "sort": f"{one.mean!r}",
        "text": text.signed(one.mean, decimals),
        "bar": bar(one.mean, low, high, reach),
        "interval": text.interval(low, high, decimals),
    }


def _series_panels(one: Claim, arms: Mapping[str, int]) -> dict[str, Any]:
    """Charts of a claim's series."""
    unit = one.effect.unit if one.effect is not None else ""
    figure = Figure(one.key, one.statement, "", (series_panels(one.series or {}, arms, unit),))
    charts = [chart for _, row in figure.charts() for chart in row]
    return {"charts": charts, "legend": _legend(figure)}


def _legend(figure: Figure) -> list[tuple[str, int, bool]]:
    return [(name, colour % COLOURS, colour >= COLOURS) for name, colour in figure.legend()]


def _figure(one: Figure) -> dict[str, Any]:
    return {
        "name": one.name,
        "title": one.title,
        "short": _SHORT.get(one.name, one.title),
        "caption": one.caption,
        "groups": one.charts(),
        "legend": _legend(one),
    }


def _strip(one: Strip) -> dict[str, Any]:
    source = f"data:image/jpeg;base64,{base64.b64encode(one.jpeg).decode('ascii')}"
    return {"name": one.name, "source": source, "width": one.width, "height": one.height, "alt": one.alt}


def _table(table: StudyTable) -> dict[str, Any]:
    return {
        "name": table.name,
        "title": table.title,
        "note": table.note,
        "heads": table.columns,
        "rows": [
            {
                "rule": number in table.rules and number > 0,
                "cells": [
                    {**_cell(cell, column.key not in _PLAIN), "head": column.key in _HEADS}
                    for column, cell in zip(table.columns, row, strict=True)
                ],
            }
            for number, row in enumerate(table.rows)
        ],
    }


def _cell(cell: Cell, oriented: bool = True) -> dict[str, Any]:
    if not isinstance(cell, Number):
        numeric = isinstance(cell, int)
        return {
            "text": words(cell),
            "sort": words(cell),
            "numeric": numeric,
            "apart": False,
            "interval": "",
            "head": False,
        }
    shown, _, interval = words(cell).partition(" (")
    return {
        "text": shown,
        "sort": f"{cell.value!r}" if cell.known else "",
        "numeric": True,
        "apart": cell.apart,
        "side": "" if not oriented else "up" if (cell.value or 0) > 0 else "down",
        "interval": interval.removesuffix(")"),
        "head": False,
    }
