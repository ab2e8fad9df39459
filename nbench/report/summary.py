"""A run's tables -> one line per checkpoint and step count, as numbers. What the renderings show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nbench.runs.tables import RunTables
from nbench.stats.bootstrap import Interval, cluster_mean

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """A metric.

    Attributes:
        scorer: that gives it.
        metric: its name in the scores table.
        orientation: "higher", "lower" or "none".
        kind: of the scorer.
        alone: whether it is the scorer's only metric.
    """

    scorer: str
    metric: str
    orientation: str
    kind: str
    alone: bool = True

    @property
    def title(self) -> str:
        """The metric, with an arrow to where it is better; of several judging ones, with its scorer's name."""
        name = self.metric if self.alone or self.kind == "statistics" else f"{self.scorer}.{self.metric}"
        return name + {"higher": " ↑", "lower": " ↓"}.get(self.orientation, "")


@dataclass(frozen=True)
class Value:
    """A mean with its interval and coverage.

    Attributes:
        interval: None where nothing has a value.
        coverage: share of the cells that have a value, 0 to 1.
    """

    interval: Interval | None
    coverage: float


@dataclass(frozen=True)
class Line:
    """One checkpoint at one step count.

    Attributes:
        checkpoint: its name.
        steps: step count.
        cells: pictures asked for.
        pictures: pictures made.
        values: by (scorer, metric).
        norm: mean RMS of the velocity over steps and pictures; NaN without pictures.
        ratio: mean ratio to the reference's at the same states; None where it was not measured.
        speed: pictures per second; None where this run made none.
    """

    checkpoint: str
    steps: int
    cells: int
    pictures: int
    values: Mapping[tuple[str, str], Value]
    norm: float
    ratio: float | None
    speed: float | None


@dataclass(frozen=True)
class Summary:
    """A run at a glance.

    Attributes:
        columns: its metrics.
        lines: checkpoints in order, steps ascending.
        failures: (count, reason), the commonest first: of pictures, of scores and of sets.
        truncated: (scorer, prompts cut to its text length, prompts scored), for scorers that cut any.
    """

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    failures: tuple[tuple[int, str], ...]
    truncated: tuple[tuple[str, int, int], ...] = ()


def summarise(run: RunTables) -> Summary:
    """Means over all cells of a checkpoint and step count, with 95 % intervals clustered by prompt."""
    columns = _columns(run.card)
    wanted = ("scorer", "metric", "value", "prompt_id")
    scores, sets = _by_place(run.scores, wanted), _by_place(run.sets, wanted)
    norm_rows = _by_place(run.norms, ("norm", "ratio"))
    lines = []
    for place, rows in _by_place(run.samples, ("path",)).items():
        found: dict[tuple[str, str], list[tuple[float | None, str]]] = {}
        for scorer, metric, value, prompt in [*scores.get(place, []), *sets.get(place, [])]:
            found.setdefault((scorer, metric), []).append((value, prompt))
        measured = norm_rows.get(place, [])
        ratios = [ratio for _, ratio in measured if ratio is not None]
        lines.append(
            Line(
                checkpoint=place[0],
                steps=place[1],
                cells=len(rows),
                pictures=sum(path is not None for (path,) in rows),
                values={column: _value(pairs) for column, pairs in found.items()},
                norm=float(np.mean([norm for norm, _ in measured])) if measured else math.nan,
                ratio=float(np.mean(ratios)) if ratios else None,
                speed=run.speed.get(place),
            )
        )
    return Summary(columns, tuple(lines), _failures(run), _truncated(run))


def _columns(card: Mapping[str, Any]) -> tuple[Column, ...]:
    return tuple(
        Column(name, metric["name"] or name, metric["orientation"], scorer["kind"], len(scorer["metrics"]) == 1)
        for name, scorer in card.get("scorers", {}).items()
        for metric in scorer["metrics"]
    )


def _by_place(table: pa.Table, names: Sequence[str]) -> dict[tuple[str, int], list[tuple[Any, ...]]]:
    """(checkpoint, steps) -> rows of the named columns, in order."""
    places: dict[tuple[str, int], list[tuple[Any, ...]]] = {}
    columns = table.select(
        ["checkpoint", "steps", *names]
    ).to_pydict()  # no other: norms has a row per picture and step
    rows = zip(*(columns[name] for name in names), strict=True)
    for checkpoint, steps, row in zip(columns["checkpoint"], columns["steps"], rows, strict=True):
        places.setdefault((checkpoint, steps), []).append(row)
    return places


def _value(pairs: Sequence[tuple[float | None, str]]) -> Value:
    known = [(value, prompt) for value, prompt in pairs if value is not None]
    if not known:
        return Value(None, 0.0)
    interval = cluster_mean([value for value, _ in known], [prompt for _, prompt in known])
    return Value(interval, len(known) / len(pairs))


def _failures(run: RunTables) -> tuple[tuple[int, str], ...]:
    counted: dict[str, int] = {}
    for reason in run.samples["reason"].to_pylist():
        if reason is not None:
            counted[f"no picture: {reason}"] = counted.get(f"no picture: {reason}", 0) + 1
    seen: set[tuple[str, str, str]] = set()  # a scorer of many metrics fails once per picture
    for table in (run.scores, run.sets):
        columns = table.select(["key", "scorer", "reason"]).to_pydict()
        for key, scorer, reason in zip(columns["key"], columns["scorer"], columns["reason"], strict=True):
            if reason is None or reason == "no picture" or (key, scorer, reason) in seen:
                continue
            seen.add((key, scorer, reason))
            counted[f"no {scorer} score: {reason}"] = counted.get(f"no {scorer} score: {reason}", 0) + 1
    return tuple(sorted(((count, reason) for reason, count in counted.items()), reverse=True))


def _truncated(run: RunTables) -> tuple[tuple[str, int, int], ...]:
    columns = run.scores.select(["scorer", "prompt_id", "truncated"]).to_pydict()
    cut: dict[str, dict[str, bool]] = {}
    for scorer, prompt, truncated in zip(*columns.values(), strict=True):
        if truncated is not None:
            cut.setdefault(scorer, {})[prompt] = truncated
    return tuple((scorer, sum(found.values()), len(found)) for scorer, found in cut.items() if any(found.values()))
