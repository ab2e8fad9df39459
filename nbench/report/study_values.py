"""A study's runs as arrays by arm: what its tables and figures take their means and differences from.

Values of an arm are means over its training seeds, picture by picture, and intervals are over prompts: they are about
these trainings. What the claims say of trainings in general is worked out in `nbench.study.claims`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nbench.runs.cube import Cube, Measure, make_cube
from nbench.stats.bootstrap import Floats
from nbench.stats.paired import Columns, bounds
from nbench.study.plan import BASE, Group, RunKind, Training

if TYPE_CHECKING:
    from nbench.runs.tables import RunTables
    from nbench.study.evidence import Evidence

#: rms of the velocity over the base's at the same states, mean over the steps of a picture
NORM_RATIO = Measure("norm ratio", "norm ratio", "norm", "none", "ratio to the base's norm")


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float
    coverage: float = 1.0


@dataclass(frozen=True)
class View:
    """One run of a group as arrays.

    Attributes:
        group: whose.
        cube: of the run.
        values: by measure, [checkpoints, steps, prompts, seeds], the norm ratio among them where it was measured.
    """

    group: Group
    cube: Cube
    values: Mapping[Measure, Floats]

    def measure(self, name: str) -> Measure | None:
        """A measure by name."""
        return next((one for one in self.values if one.name == name), None)

    def of(self, measure: Measure | None, checkpoints: Sequence[str]) -> Floats | None:
        """Mean over checkpoints, [steps, prompts, seeds]; None where the run has not all of them."""
        if measure is None or not checkpoints or not set(checkpoints) <= set(self.cube.checkpoints):
            return None
        places = [self.cube.checkpoints.index(name) for name in checkpoints]
        return np.asarray(self.values[measure][places].mean(axis=0)) if measure in self.values else None

    def arm(self, measure: Measure | None, arm: str) -> Floats | None:
        """Mean over an arm's finished trainings that the run has, [steps, prompts, seeds]; None without any."""
        return self.of(measure, [one.checkpoint for one in self.present(arm)])

    def base(self, measure: Measure | None) -> Floats | None:
        """Values of the base, [steps, prompts, seeds]."""
        return self.of(measure, [BASE])

    def present(self, arm: str) -> tuple[Training, ...]:
        """An arm's trainings whose end the run has, by seed."""
        return tuple(one for one in self.group.of(arm) if one.checkpoint in self.cube.checkpoints)

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms of which the run has the end of a training, in the order of the grid."""
        return tuple(arm for arm in dict.fromkeys(one.arm for one in self.group.trainings) if self.present(arm))


def make_views(evidence: Evidence, kind: RunKind = "final") -> dict[str, View]:
    """Group -> its run of a kind, for the groups that have it, in the order of the grid."""
    found = {}
    for group in evidence.plan.groups:
        run = evidence.run(group, kind)
        if run is not None:
            cube = make_cube(run)
            ratios = _ratios(run, cube)
            values = dict(cube.values)
            if np.isfinite(ratios).any():
                values[NORM_RATIO] = ratios
            found[group.name] = View(group, cube, values)
    return found


def _ratios(run: RunTables, cube: Cube) -> Floats:
    names = ["checkpoint", "steps", "prompt_id", "seed"]
    found = np.full(cube.keys.shape, np.nan)
    table = run.norms.group_by(names).aggregate([("ratio", "mean")]).to_pydict()
    axes = (cube.checkpoints, cube.steps, cube.prompts, cube.seeds)
    places = [{value: i for i, value in enumerate(axis)} for axis in axes]
    for *cell, ratio in zip(*(table[name] for name in names), table["ratio_mean"], strict=True):
        if ratio is not None:
            found[tuple(place[value] for place, value in zip(places, cell, strict=True))] = ratio
    return found


def trained_measures(view: View, evidence: Evidence) -> tuple[Measure, ...]:
    """Measures of a group's run that its trainings were rewarded for."""
    found = []
    for term in evidence.plan.study.rewards[view.group.reward]:
        mine = [one for one in view.values if one.scorer == term.scorer]
        named = [one for one in mine if one.metric == term.metric] or [one for one in mine if one.sign][:1]
        found += named if term.metric else named[:1]
    return tuple(dict.fromkeys(found))


def shown_measures(views: Sequence[View], evidence: Evidence) -> tuple[Measure, ...]:
    """Oriented measures of the runs: what was trained on, quality, realism, the others; then the norm ratio."""
    claims = evidence.plan.study.claims
    every = list(dict.fromkeys(one for view in views for one in view.values if one.sign))
    trained = [one for view in views for one in trained_measures(view, evidence)]
    first = [one for name in (claims.quality, claims.realism) for one in every if one.name == name]
    diversity = [one for one in every if one.kind == "diversity"]
    ratio = [NORM_RATIO] if any(NORM_RATIO in view.values for view in views) else []
    return tuple(dict.fromkeys([*trained, *first, *(one for one in every if one not in diversity), *diversity, *ratio]))


def means(columns: Sequence[Floats], prompts: Sequence[str]) -> list[Mean]:
    """Means of several columns over the same prompts, with intervals over prompts.

    Args:
        columns: [prompts, seeds] each, all of one shape; NaN for what is missing.
        prompts: ids.
    """
    if not columns:
        return []
    table = np.stack([column.reshape(-1) for column in columns], axis=1)
    seeds = columns[0].shape[1]
    rows = Columns.of(table, [prompt for prompt in prompts for _ in range(seeds)])
    low, high = bounds(rows)
    coverage = np.isfinite(table).mean(axis=0)
    return [Mean(*map(float, one)) for one in zip(rows.means, low, high, coverage, strict=True)]


def differences(
    first: Floats | None, second: Floats | None, prompts: Sequence[str], measure: Measure
) -> tuple[list[Mean], Mean] | None:
    """Second minus first by step count, and averaged over step counts, oriented; None where one is missing.

    Args:
        first: [steps, prompts, seeds].
        second: likewise.
        prompts: ids.
        measure: of which.
    """
    if first is None or second is None:
        return None
    moved = (measure.sign or 1) * (second - first)
    found = means([*moved, moved.mean(axis=0)], prompts)
    return found[:-1], found[-1]
