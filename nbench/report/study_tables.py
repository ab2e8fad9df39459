"""The tables of a study: claims, the paper-shaped main table, every step count, controls, and trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nbench.report.study_table import Cell, Column, Number, StudyTable
from nbench.report.study_values import (
    Mean,
    View,
    differences,
    make_views,
    means,
    shown_measures,
    trained_measures,
)
from nbench.runs.cube import Cube, Measure
from nbench.study.claims.claim import Claim, Effect
from nbench.study.evidence import Evidence
from nbench.study.plan import BASE, RunKind

_STAR = (
    "Differences are oriented, positive is better, but for the norm ratio's and others without an arrow. * and bold "
    "type: the 95 % interval leaves 0 out."
)
_OVER = "Intervals are over prompts, for these trainings; an arm is the mean over its training seeds."
_GROUP = (Column("base", "base"), Column("method", "method"), Column("reward", "reward"))


def study_tables(evidence: Evidence, claims: Sequence[Claim]) -> dict[str, StudyTable]:
    """The tables by name, in the order in which a page shows them."""
    views = list(make_views(evidence).values())
    made = (
        claims_table(claims), main_table(evidence, views), arms_table(evidence, views), trainings_table(evidence),
        steps_table(evidence, views),
    )  # fmt: skip
    return {table.name: table for table in made}


def of_effect(effect: Effect | None) -> Number:
    """An effect as a table's number."""
    if effect is None:
        return Number(None)
    return Number(effect.mean, effect.low, effect.high, signed=True)


def claims_table(claims: Sequence[Claim]) -> StudyTable:
    """A line per claim."""
    columns = (
        Column("claim", "claim", numeric=True), Column("statement", "statement"), Column("verdict", "verdict"),
        Column("effect", "effect (95 % interval)", numeric=True, intervals=True), Column("unit", "unit"),
        Column("trainings", "trainings", numeric=True), Column("prompts", "prompts", numeric=True),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for one in claims:
        unit = "" if one.effect is None else one.effect.unit
        sizes = (None, None) if one.effect is None else (one.effect.trainings, one.effect.prompts)
        rows.append((one.number, one.statement, one.verdict, of_effect(one.effect), unit, *sizes))
    note = (
        "* and bold type: the 95 % interval leaves 0 out, which alone is no verdict: each claim has a rule of its own."
    )
    return StudyTable("claims", "The claims", note, columns, tuple(rows))


def main_table(evidence: Evidence, views: Sequence[View]) -> StudyTable:
    """Base, unguarded and guarded with their differences, at few and at full steps, group by group."""
    claims = evidence.plan.study.claims
    shown = shown_measures(views, evidence)
    rows: list[tuple[Cell, ...]] = []
    rules = []
    for view in views:
        trained = trained_measures(view, evidence)
        for count in dict.fromkeys((claims.few, claims.full)):
            if count not in view.cube.steps:
                continue
            at = view.cube.steps.index(count)
            rules.append(len(rows))
            head: tuple[Cell, ...] = (view.group.base, view.group.method, view.group.reward, count)
            arms = [arm for arm in (claims.unguarded, claims.guarded, claims.ratio_guarded) if arm in view.arms]
            for arm in (BASE, *arms):
                cells = [_level(view, measure, arm, at, measure in trained) for measure in shown]
                rows.append((*head, arm, *cells))
            for arm in arms:
                if arm != claims.unguarded and claims.unguarded in arms:
                    moved = [_moved(view, measure, (claims.unguarded, arm), at) for measure in shown]
                    rows.append((*head, f"{arm} minus {claims.unguarded}", *moved))
    columns = (*_GROUP, Column("steps", "steps", numeric=True), Column("arm", "arm"), *_columns(shown))
    note = (
        f"† the reward that was trained. {_STAR} {_OVER} Norm ratio: velocity norm over the base's at the same states."
    )
    return StudyTable(
        "main", "Unguarded and guarded, at few and at full steps", note, columns, tuple(rows), tuple(rules)
    )


def _columns(shown: Sequence[Measure]) -> tuple[Column, ...]:
    arrows = {"higher": " ↑", "lower": " ↓"}
    return tuple(
        Column(one.name, one.name + arrows.get(one.orientation, ""), numeric=True, intervals=True) for one in shown
    )


def _level(view: View, measure: Measure, arm: str, at: int, trained: bool) -> Number:
    values = view.base(measure) if arm == BASE else view.arm(measure, arm)
    if values is None or not np.isfinite(values[at]).any():
        return Number(None)
    return Number(float(np.nanmean(values[at])), mark="†" * trained, digits=4)


def _moved(view: View, measure: Measure, arms: tuple[str, str], at: int | None) -> Number:
    found = differences(view.arm(measure, arms[0]), view.arm(measure, arms[1]), view.cube.prompts, measure)
    return Number(None) if found is None else _number(found[1] if at is None else found[0][at], signed=True)


def _number(one: Mean, *, signed: bool) -> Number:
    return Number(one.value, one.low, one.high, signed=signed)


def arms_table(evidence: Evidence, views: Sequence[View]) -> StudyTable:
    """Every other arm, and rescaling while sampling, against the unguarded trainings, averaged over step counts."""
    unguarded = evidence.plan.study.claims.unguarded
    shown = shown_measures(views, evidence)
    kinds: tuple[RunKind, ...] = ("rescale-full", "rescale-one-sided")
    rescaled = {kind: make_views(evidence, kind) for kind in kinds}
    rows: list[tuple[Cell, ...]] = []
    rules = []
    for view in views:
        if unguarded not in view.arms:
            continue
        rules.append(len(rows))
        head: tuple[Cell, ...] = (view.group.base, view.group.method, view.group.reward)
        for arm in view.arms:
            if arm != unguarded:
                moved = [_moved(view, measure, (unguarded, arm), None) for measure in shown]
                rows.append((*head, arm, len(view.present(arm)), *moved))
        for kind, found in rescaled.items():
            other = found.get(view.group.name)
            steps = () if other is None else tuple(count for count in view.cube.steps if count in other.cube.steps)
            if other is not None and steps and _alike(view.cube, other.cube):
                moved = [_pulled(view, other, measure, steps, unguarded) for measure in shown]
                rows.append((*head, f"{unguarded}, {kind}", len(other.present(unguarded)), *moved))
    columns = (*_GROUP, Column("arm", "arm"), Column("trainings", "trainings", numeric=True), *_columns(shown))
    note = f"Each line minus {unguarded}, pair by pair, averaged over step counts. {_STAR} {_OVER}"
    return StudyTable("arms", "Every arm against the unguarded", note, columns, tuple(rows), tuple(rules))


def _alike(one: Cube, other: Cube) -> bool:
    return (one.prompts, one.seeds) == (other.prompts, other.seeds) and one.texts == other.texts


def _pulled(view: View, other: View, measure: Measure, steps: Sequence[int], arm: str) -> Number:
    names = [one.checkpoint for one in other.present(arm)]
    before, after = view.of(measure, names), other.of(measure, names)
    if before is None or after is None:
        return Number(None)
    rows = ([cube.steps.index(count) for count in steps] for cube in (view.cube, other.cube))
    before, after = (side[row] for side, row in zip((before, after), rows, strict=True))
    found = differences(before, after, view.cube.prompts, measure)
    return Number(None) if found is None else _number(found[1], signed=True)


def steps_table(evidence: Evidence, views: Sequence[View]) -> StudyTable:
    """Every checkpoint at every step count in every measure, and its difference from the base."""
    rows: list[tuple[Cell, ...]] = []
    rules = []
    for view in views:
        rules.append(len(rows))
        rows += _every(view)
    columns = (
        Column("group", "group"), Column("checkpoint", "checkpoint"), Column("measure", "measure"),
        Column("steps", "steps", numeric=True), Column("mean", "mean", numeric=True, intervals=True),
        Column("difference", "minus the base", numeric=True, intervals=True),
        Column("coverage", "coverage", numeric=True),
    )  # fmt: skip
    note = (
        f"Means in each measure's own direction. {_STAR} Intervals are over prompts; coverage: share of values there."
    )
    return StudyTable("steps", "Every checkpoint, step count and measure", note, columns, tuple(rows), tuple(rules))


def _every(view: View) -> Iterator[tuple[Cell, ...]]:
    prompts, steps = view.cube.prompts, view.cube.steps
    for measure in view.values:
        base = view.base(measure)
        for checkpoint in view.cube.checkpoints:
            values = view.of(measure, [checkpoint])
            if values is None:
                continue
            own = means(list(values), prompts)
            against = None if checkpoint == BASE else differences(base, values, prompts, measure)
            for i, count in enumerate(steps):
                moved: Cell = "" if against is None else _number(against[0][i], signed=True)
                shared = (view.group.name, checkpoint, measure.name, count)
                yield (*shared, _number(own[i], signed=False), moved, Number(own[i].coverage))


def trainings_table(evidence: Evidence) -> StudyTable:
    """A line per training, from its log."""
    columns = (
        Column("training", "training"), Column("epochs", "epochs", numeric=True),
        Column("guards", "guards and their weights"), Column("seconds", "seconds", numeric=True),
        Column("reward_first", "reward, first epoch", numeric=True),
        Column("reward_last", "reward, last epoch", numeric=True),
        Column("norm_ratio_last", "norm ratio, last epoch", numeric=True),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    rules = []
    group = ""
    for one in evidence.plan.trainings:
        log = evidence.logs.get(one.name, ())
        if not log:
            continue
        if one.group != group:
            rules.append(len(rows))
        group = one.group
        weights = log[-1].get("guards") or {}
        guards = ", ".join(_guard(name, weights.get(name)) for name in (guard.name for guard in one.config.guards))
        seconds = sum(number_in(record, "seconds", "epoch") or 0.0 for record in log)
        rewards = [Number(number_in(log[i], "reward", "mean"), digits=4) for i in (0, -1)]
        ratio = Number(number_in(log[-1], "stats", "norm_ratio", "mean"), digits=4)
        rows.append((one.name, len(log), guards or "none", Number(seconds), *rewards, ratio))
    note = "From the logs: rewards are those of the epoch's rollouts; the norm ratio is at the updates' draws."
    return StudyTable("trainings", "The trainings", note, columns, tuple(rows), tuple(rules))


def _guard(name: str, weight: float | None) -> str:
    return name if weight is None else f"{name} {weight:.3g}"


def number_in(record: Mapping[str, Any], *path: str) -> float | None:
    """A number of a log line; None where it has none there."""
    found: Any = record
    for key in path:
        if not isinstance(found, Mapping):
            return None
        found = found.get(key)
    return float(found) if isinstance(found, int | float) else None
