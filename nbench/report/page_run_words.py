"""What a run says, in sentences. Each has its numbers; none says more than its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nbench.compare import Comparison, Row, Side, compare
from nbench.errors import CardMismatchError
from nbench.report import page_format as text
from nbench.report.summary import Summary
from nbench.runs.cube import Cube
from nbench.runs.tables import RunTables


@dataclass(frozen=True)
class Against:
    """One checkpoint set against the reference.

    Attributes:
        candidate: its name.
        found: the comparison; None where it is refused.
        refused: why, "" otherwise.
    """

    candidate: str
    found: Comparison | None
    refused: str


def compared(run: RunTables, reference: str) -> list[Against]:
    """Every other checkpoint of the run against the reference."""
    found = []
    for name in run.card["checkpoints"]:
        if name == reference:
            continue
        try:
            found.append(Against(name, compare(Side(run, reference), Side(run, name)), ""))
        except CardMismatchError as error:
            found.append(Against(name, None, str(error)))
    return found


@dataclass(frozen=True)
class Told:
    """What is said of one checkpoint.

    Attributes:
        title: the checkpoint, and how many measures moved at the fewest and the most steps.
        sentences: with their numbers.
    """

    title: str
    sentences: tuple[str, ...]


def overview(cube: Cube, summary: Summary) -> list[str]:
    """What the run is, and what of it is missing."""
    made, wanted = sum(line.pictures for line in summary.lines), sum(line.cells for line in summary.lines)
    lost = f"; {wanted - made} could not be made" if made < wanted else ""
    found = [
        f"{_count(made, 'picture')}: {_count(len(cube.checkpoints), 'checkpoint')} at "
        f"{_count(len(cube.steps), 'step count')} on {_count(len(cube.prompts), 'prompt')} with "
        f"{_count(len(cube.seeds), 'seed')} each{lost}."
    ]
    partial = sorted(
        {column.title for line in summary.lines for column in summary.columns
         if (value := line.values.get((column.scorer, column.metric))) is not None and value.coverage < 1}
    )  # fmt: skip
    if partial:
        found.append(f"Not every picture has a value of {', '.join(partial)}; means are of those that have one.")
    return found


def told(found: Comparison, cube: Cube) -> Told:
    """A checkpoint against the reference, at the fewest and at the most steps; the table has all."""
    counts = sorted({row.steps for row in found.rows})
    ends = list(dict.fromkeys((counts[0], counts[-1])))
    short, sentences = [], []
    for steps in ends:
        sides = _sides(found.rows, steps)
        if any(sides.values()):
            counted = ", ".join(f"{len(own)} {side}" for side, own in sides.items())
            short.append(f"at {_count(steps, 'step')} {counted}")
            parts = [f"{side} on {'; '.join(own)}" for side, own in sides.items() if own]
            sentences.append(f"At {_count(steps, 'step')}: {', '.join(parts)}.")
    sentences += _matches(found, counts[-1])
    norms = _norms(cube, found, ends)
    if norms:
        sentences.append(f"Its velocity norm is {norms} that of {found.base}.")
    title = f"{found.candidate} against {found.base}"
    return Told(f"{title}, measures {'; '.join(short)}" if short else title, tuple(sentences))


def _sides(rows: Sequence[Row], steps: int) -> dict[str, list[str]]:
    sides: dict[str, list[str]] = {"better": [], "worse": [], "not told apart": []}
    for row in rows:
        if row.steps != steps or not row.measure.sign or row.difference is None:
            continue
        one = row.difference
        decimals = text.places(one.mean, one.low, one.high)
        own = (
            f"{row.measure.name} ({text.signed(one.mean, decimals)}, 95 % {text.interval(one.low, one.high, decimals)}"
        )
        if one.significant:
            sides["better" if one.mean > 0 else "worse"].append(f"{own})")
        else:
            sides["not told apart"].append(f"{own}; sees drops of {text.number(row.detectable)})")
    return sides


def _matches(found: Comparison, full: int) -> list[str]:
    """Steps to match, and what is never matched."""
    known = [(one.measure.name, one.match) for one in found.curves if one.match and not math.isnan(one.match.low)]
    reached = [
        f"{match.value:.3g} steps on {name} ({text.steps(match.low)} to {text.steps(match.high)})"
        for name, match in known
        if math.isfinite(match.value)
    ]
    never = [name for name, match in known if math.isinf(match.value)]
    told = []
    if reached:
        told.append(f"To score as {found.base} does at {full} steps it takes {'; '.join(reached)}.")
    if never:
        told.append(f"At no step count does it score as {found.base} does at {full} steps on {', '.join(never)}.")
    return told


def _norms(cube: Cube, found: Comparison, ends: Sequence[int]) -> str:
    parts = []
    for steps in ends:
        i = cube.steps.index(steps)
        own, base = (cube.norms[cube.checkpoints.index(name), i] for name in (found.candidate, found.base))
        known = np.isfinite(own) & np.isfinite(base)
        if known.any() and base[known].mean():
            parts.append(f"{own[known].mean() / base[known].mean():.3f} times at {_count(steps, 'step')}")
    return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
