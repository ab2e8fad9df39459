"""The figures of a board: pure functions on curves, all paired with the base and resampled by prompt.

A *view* is one way to look at the checkpoints: a measure, a kind of scorers, or all of them. Its curves are scores by
checkpoint, prompt and step count, the base first, oriented so that more is better. A measure's view is in its own
unit. A kind's and the overall view are in standard deviations of the base: with sigma_m the standard deviation of
measure m over the base's prompts and seeds at full steps (held fixed while resampling), a kind's score is the mean of
score_m / sigma_m over its measures, and the overall score is the mean over kinds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nbench.stats.bootstrap import Floats
from nbench.stats.curves import (
    Band,
    Estimate,
    area_difference,
    area_weights,
    band,
    estimate,
    retention,
    steps_to_match,
    worst_drop,
)
from nbench.stats.paired import PairedDifference, paired_difference
from nbench.stats.ranks import Rank, rank

Level = Literal["overall", "kind", "measure"]
#: of the intervals on a board, and of the family of differences behind the rank groups
CONFIDENCE = 0.95


@dataclass(frozen=True)
class View:
    """One way to look at the checkpoints.

    Attributes:
        name: "overall", a kind, or a measure.
        level: which of these.
        kind: of the scorers; "" for the overall view.
        unit: of its scores.
        sign: -1 where lower is better and the scores are turned around; 1 otherwise.
        measures: that it rests on.
        curves: [checkpoints, prompts, steps], oriented, without gaps, the base first.
        true_zero: whether 0 means "none of it".
        dropped: prompts that were left out because a checkpoint has no value there.
    """

    name: str
    level: Level
    kind: str
    unit: str
    sign: int
    measures: tuple[str, ...]
    curves: Floats
    true_zero: bool
    dropped: int


@dataclass(frozen=True)
class Figures:
    """One checkpoint in one view. Differences are from the base, positive where better.

    Attributes:
        rank: where it stands by `area`, with its interval and group.
        curve: with a simultaneous 95 % band, oriented.
        difference: band of the paired difference; None for the base, as all that follows.
        area: difference of the areas under the curves, over log2(steps), in the view's unit.
        few, full: paired difference at few and at full steps.
        worst: largest paired drop over the step counts; negative where it never drops.
        match: steps at which it reaches the base's score at full steps.
        retention: score at few over score at full steps; None for views without a true zero. The base has one.
    """

    rank: Rank
    curve: Band
    difference: Band | None
    area: PairedDifference | None
    few: PairedDifference | None
    full: PairedDifference | None
    worst: Estimate | None
    match: Estimate | None
    retention: Estimate | None


@dataclass(frozen=True)
class Part:
    """What one measure gives to a combined view.

    Attributes:
        curves: [checkpoints, own prompts, steps], oriented, the base first.
        known: index of each own prompt among all prompts.
        sigma: that its scores are divided by.
    """

    curves: Floats
    known: npt.NDArray[np.intp]
    sigma: float


def combined(parts: Sequence[Part], prompts: int) -> Floats:
    """Mean of several measures' standardised curves, per prompt, where each measure may lack other prompts.

    With N_m of P prompts having measure m, a prompt's part is mean_m + (P / N_m) (value - mean_m), and mean_m where it
    has no value: the mean over prompts is the mean of the measures' means, and the spread over prompts is that of the
    mean (the linearised ratio estimator). Where nothing is missing it is the plain mean.

    Args:
        parts: of the measures.
        prompts: P.

    Returns:
        [checkpoints, P, steps]; the base's mean at the most steps is 0.
    """
    total = np.zeros(())
    for part in parts:
        centred = (part.curves - part.curves[:1, :, -1:].mean(axis=1, keepdims=True)) / part.sigma
        means = centred.mean(axis=1, keepdims=True)
        whole = np.repeat(means, prompts, axis=1)
        whole[:, part.known] += prompts / len(part.known) * (centred - means)
        total = total + whole
    return np.asarray(total / len(parts))


def figures(view: View, steps: Sequence[int], names: Sequence[str], *, few: int, full: int) -> list[Figures]:
    """All checkpoints of a view, in the order of its curves.

    Args:
        view: which.
        steps: step counts of the curves.
        names: of the checkpoints, to order equal ones.
        few: one of the steps.
        full: another.
    """
    at = list(steps)
    i, j = at.index(few), at.index(full)
    areas = view.curves @ area_weights(steps)
    ranks = rank(areas - areas[0], level=CONFIDENCE, names=names)
    found = []
    for number, place in enumerate(ranks):
        own, base = view.curves[number], view.curves[0]
        kept = _retention(own[:, [i, j]]) if view.true_zero else None
        if number == 0:
            found.append(Figures(place, band(own), None, None, None, None, None, None, kept))
            continue
        both = np.stack([base, own])
        gain = own - base
        found.append(
            Figures(
                rank=place,
                curve=band(own),
                difference=band(gain),
                area=area_difference(base, own, steps),
                few=paired_difference(gain[:, i], range(len(gain))),
                full=paired_difference(gain[:, j], range(len(gain))),
                worst=estimate(both, lambda means: worst_drop(means[..., 0, :], means[..., 1, :])),
                match=estimate(both, lambda means: steps_to_match(means[..., 1, :], means[..., 0, j], steps)),
                retention=kept,
            )
        )
    return found


def _retention(few_and_full: Floats) -> Estimate:
    return estimate(few_and_full[None], lambda means: retention(means[..., 0, :]))


def spread(values: Floats) -> float:
    """Sigma of a measure: the standard deviation over the base's known values at full steps; NaN for fewer than 2."""
    known = values[np.isfinite(values)]
    return float(known.std(ddof=1)) if len(known) > 1 else math.nan
