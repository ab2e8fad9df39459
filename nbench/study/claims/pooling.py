"""Effects with intervals: of one pair over its prompts, and pooled over pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nbench.stats.bootstrap import Floats, resampled_means
from nbench.stats.paired import paired_difference
from nbench.stats.pigeonhole import Pooled, pigeonhole_mean, pool
from nbench.study.claims.claim import Effect
from nbench.study.claims.scores import Scores, align, mean_over_seeds
from nbench.study.claims.wording import SD, number


@dataclass(frozen=True)
class Contrast:
    """One measure of two checkpoints, prompt by prompt.

    Attributes:
        name: of the pair or training.
        steps: step counts.
        prompts: ids.
        values: second minus first in `unit`, mean over seeds, [steps, prompts]; NaN where there is none.
        raw: mean difference in the measure's own unit (oriented), over prompts and step counts.
        noise: standard error that a judge's noise alone adds to the mean, in `unit`, [steps]; 0 without a judge.
        doubt: why a judge's numbers may be shown but not gated on; "" where they may.
        unit: of the values.
    """

    name: str
    steps: tuple[int, ...]
    prompts: tuple[str, ...]
    values: Floats
    raw: float = math.nan
    noise: Floats | None = None
    doubt: str = ""
    unit: str = SD

    @property
    def by_prompt(self) -> Floats:
        """Mean over step counts, [prompts]; NaN where a step count lacks a value."""
        return np.asarray(self.values.mean(axis=0))

    @property
    def error(self) -> float:
        """What a judge's noise adds to the mean over step counts."""
        return 0.0 if self.noise is None else math.sqrt(float((self.noise**2).sum())) / len(self.steps)

    def at(self, steps: int) -> Contrast:
        """The same at one step count."""
        i = self.steps.index(steps)
        noise = None if self.noise is None else self.noise[i : i + 1]
        return Contrast(
            self.name, (steps,), self.prompts, self.values[i : i + 1], math.nan, noise, self.doubt, self.unit
        )


def contrast(name: str, first: Scores, second: Scores) -> Contrast | None:
    """Second minus first in standard deviations of the base; None where the base's values have no spread."""
    spread = second.spread
    if not np.isfinite(spread).all():
        return None
    raw = second.own - first.own
    known = np.isfinite(raw)
    counts = known.sum(axis=(1, 2))
    with np.errstate(divide="ignore"):
        noise = second.noise * np.sqrt(2 / counts) / spread if second.noise else None
    by_steps = mean_over_seeds(raw)
    complete = np.isfinite(by_steps).all(axis=0)
    return Contrast(
        name=name,
        steps=second.steps,
        prompts=second.prompts,
        values=by_steps / spread[:, None],
        raw=float(by_steps[:, complete].mean()) if complete.any() else math.nan,
        noise=noise,
        doubt=second.doubt,
    )


def averaged(measures: Sequence[Sequence[Contrast]]) -> list[Contrast]:
    """The mean of several measures, for every pair that has them all; they share steps and prompts."""
    found = []
    for first in measures[0]:
        others = [next((one for one in more if one.name == first.name), None) for more in measures[1:]]
        mine = [first, *(one for one in others if one is not None)]
        if len(mine) == len(measures):
            noises = [np.zeros(len(one.steps)) if one.noise is None else one.noise for one in mine]
            found.append(
                Contrast(
                    name=first.name,
                    steps=first.steps,
                    prompts=first.prompts,
                    values=np.mean([one.values for one in mine], axis=0),
                    noise=np.sqrt(np.square(noises).sum(axis=0)) / len(mine),
                    doubt="; ".join(dict.fromkeys(one.doubt for one in mine if one.doubt)),
                    unit=first.unit,
                )
            )
    return found


def one_effect(found: Contrast) -> Effect | None:
    """Effect of a pair, averaged over step counts: studentised bootstrap over prompts, given these trainings."""
    values = found.by_prompt[np.isfinite(found.by_prompt)]
    if not len(values):
        return None
    interval = paired_difference(values, range(len(values)))
    return _effect(interval.mean, interval.low, interval.high, found.unit, len(values), 1, found.error)


def pooled_effect(contrasts: Sequence[Contrast]) -> Effect | None:
    """Effect over pairs, averaged over step counts: the pigeonhole bootstrap over pairs and prompts."""
    if not contrasts:
        return None
    prompts, tables = align([(one.prompts, one.by_prompt) for one in contrasts])
    if not prompts:
        return None
    found = pigeonhole_mean(np.stack(tables))
    error = math.sqrt(sum(one.error**2 for one in contrasts)) / len(contrasts)
    return _of_pooled(found, contrasts[0].unit, error)


def series(contrasts: Sequence[Contrast]) -> dict[str, list[float | None]]:
    """The pooled effect at every step count that all pairs have, as columns for a figure."""
    shared = [] if not contrasts else [n for n in contrasts[0].steps if all(n in one.steps for one in contrasts)]
    columns: dict[str, list[float | None]] = {"steps": [], "mean": [], "low": [], "high": []}
    for count in shared:
        effect = pooled_effect([one.at(count) for one in contrasts])
        columns["steps"].append(float(count))
        columns["mean"].append(None if effect is None else effect.mean)
        columns["low"].append(None if effect is None else effect.low)
        columns["high"].append(None if effect is None else effect.high)
    return columns


#: a figure of means: [..., columns] -> [...]
Figure = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Figured:
    """A figure that is no mean, such as one after matching, of one pair.

    Attributes:
        name: of the pair or training.
        prompts: ids.
        columns: what the figure is made from, mean over seeds, [prompts, columns]; NaN where there is none.
        figure: of the columns' means over prompts; finite wherever they are.
    """

    name: str
    prompts: tuple[str, ...]
    columns: Floats
    figure: Figure


def figure_effects(pairs: Sequence[Figured], unit: str) -> tuple[Effect | None, list[Effect | None]]:
    """(pooled over pairs, of each pair): the figure is taken anew on every resample of prompts."""
    if not pairs:
        return None, []
    _, tables = align([(one.prompts, one.columns) for one in pairs])
    known = np.all([np.isfinite(table).all(axis=1) for table in tables], axis=0)
    count = int(known.sum())
    if not count:
        return None, [None] * len(pairs)
    points = np.array([float(one.figure(t[known].mean(axis=0))) for one, t in zip(pairs, tables, strict=True)])
    draws = np.stack([one.figure(resampled_means(t[known])) for one, t in zip(pairs, tables, strict=True)], axis=1)
    each = [
        _of_pooled(pool(points[i : i + 1], draws[:, i : i + 1], prompts=count), unit, 0.0) for i in range(len(pairs))
    ]
    return _of_pooled(pool(points, draws, prompts=count), unit, 0.0), each


def transformed(effect: Effect | None, function: Callable[[float], float], unit: str) -> Effect | None:
    """The effect on another scale, by an increasing function."""
    if effect is None:
        return None
    low, high = (None if bound is None else function(bound) for bound in (effect.low, effect.high))
    return Effect(function(effect.mean), low, high, unit, effect.prompts, effect.trainings)


def _of_pooled(found: Pooled, unit: str, error: float) -> Effect | None:
    return _effect(found.mean, found.low, found.high, unit, found.prompts, found.pairs, error)


def _effect(
    mean: float, low: float, high: float, unit: str, prompts: int, trainings: int, error: float
) -> Effect | None:
    """With bounds moved outwards by twice a judge's error, in quadrature, as `nbench compare` does."""
    if not math.isfinite(mean):
        return None
    below, above = mean - math.hypot(mean - low, 2 * error), mean + math.hypot(high - mean, 2 * error)
    if not error:
        below, above = low, high
    return Effect(mean, number(below), number(above), unit, prompts, trainings)


def pooling_caveats(effect: Effect | None) -> tuple[str, ...]:
    """How far a pooled interval reaches."""
    from nbench.stats.pigeonhole import FEWEST_PAIRS

    if effect is None:
        return ()
    if effect.trainings < FEWEST_PAIRS:
        return (
            f"With {effect.trainings} of them, the interval is over prompts alone: it holds for these trainings, and "
            "other training seeds may differ by more.",
        )
    return (
        "Pairs of all cells of the grid are resampled as if they were drawn alike; those of one cell differ in the "
        "training seed only.",
    )
