"""Robustness curves: a score against log2(steps), for checkpoints over the same prompts.

Everything here works on `values [checkpoints, prompts, steps]`: each prompt's mean score over its seeds, oriented so
that more is better, without gaps (a prompt that lacks a value anywhere is left out beforehand and counted). Prompts are
resampled for all checkpoints and step counts at once, so every figure and every difference is paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nbench.stats.bootstrap import RESAMPLES, Floats, resampled_means
from nbench.stats.multiplicity import max_t
from nbench.stats.paired import Columns, PairedDifference, paired_difference


@dataclass(frozen=True)
class Band:
    """A curve of means with a band that holds at all its points together.

    Attributes:
        means, low, high: [steps].
    """

    means: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Estimate:
    """A figure that is no mean, with its percentile-bootstrap interval.

    Attributes:
        value: of the means as they are; NaN where it is not defined.
        low, high: interval; infinite where resamples leave it open, NaN where the figure is not defined for more than
            one resample in twenty.
    """

    value: float
    low: float
    high: float


def check(values: Floats, steps: Sequence[int]) -> None:
    """See that there is a curve.

    Raises:
        ValueError: shapes do not fit, a value is not finite, or steps do not ascend.
    """
    if values.ndim != 3 or not values.shape[1] or values.shape[2] != len(steps):
        raise ValueError(f"values {values.shape} must be [checkpoints, prompts, {len(steps)} step counts]")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite: leave the prompt out, and report coverage")
    if list(steps) != sorted(set(steps)) or min(steps) < 1:
        raise ValueError(f"step counts {list(steps)} must ascend from 1")


def area_weights(steps: Sequence[int]) -> Floats:
    """Weights of the mean over log2(steps) by the trapezoidal rule, [steps], summing to 1; [1] for one step count.

    The area under the curve over log2(steps), divided by the range, so that it has the score's unit.
    """
    if len(steps) == 1:
        return np.ones(1)
    place = np.log2(np.asarray(steps, dtype=np.float64))
    gaps = np.diff(place)
    weights = np.zeros(len(steps))
    weights[:-1] += gaps / 2
    weights[1:] += gaps / 2
    return np.asarray(weights / (place[-1] - place[0]))


def band(values: Floats, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Band:
    """Simultaneous band (max-T over step counts) around one checkpoint's curve, or around a difference of two.

    Args:
        values: [prompts, steps].
        level: that the whole band holds.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """
    found = max_t(Columns(values, np.ones_like(values)), level=level, resamples=resamples, seed=seed)
    return Band(found.means, found.low, found.high)


def area_difference(base: Floats, candidate: Floats, steps: Sequence[int], *, level: float = 0.95) -> PairedDifference:
    """Difference of the areas under two curves over log2(steps), in the score's unit; arguments [prompts, steps]."""
    weights = area_weights(steps)
    return paired_difference((candidate - base) @ weights, range(len(base)), level=level)


def difference_in_differences(
    unguarded: Floats, guarded: Floats, steps: Sequence[int], *, few: int, full: int, level: float = 0.95
) -> PairedDifference:
    """(guarded - unguarded) at few steps minus the same at full steps: do a guard's gains grow at few steps?

    Args:
        unguarded: [prompts, steps].
        guarded: likewise.
        steps: step counts.
        few: one of `steps`.
        full: another.
        level: of the interval.

    Raises:
        ValueError: `few` or `full` is not among the steps.
    """
    at = list(steps)
    gain = guarded - unguarded
    return paired_difference(gain[:, at.index(few)] - gain[:, at.index(full)], range(len(gain)), level=level)


def retention(means: Floats) -> Floats:
    """Score at the fewest steps over that at the most, [...], of curves [..., steps]; for scores with a true zero.

    NaN where the full-step score is not above 0.
    """
    full = means[..., -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(full > 0, means[..., 0] / full, math.nan)


def worst_drop(base: Floats, candidate: Floats) -> Floats:
    """Largest drop from base to candidate over step counts, [...], of curves [..., steps]; negative where none drops.

    Its bootstrap interval is biased upwards, as that of every maximum is: read the curve's band beside it.
    """
    return np.asarray((base - candidate).max(axis=-1))


def steps_to_match(curve: Floats, target: Floats, steps: Sequence[int]) -> Floats:
    """Fewest steps, interpolated over log2(steps), from which `curve` first reaches `target`; [...].

    Args:
        curve: [..., steps].
        target: the score to be reached, e.g. the base's at full steps, [...].
        steps: step counts.

    Returns:
        The first step count where it is reached at once; infinity where it is never reached.
    """
    place = np.log2(np.asarray(steps, dtype=np.float64))
    reached = curve >= target[..., None]
    found = np.full(target.shape, math.inf)
    found[reached[..., 0]] = steps[0]
    for i in range(1, len(steps)):
        first = reached[..., i] & ~reached[..., :i].any(axis=-1)
        below, above = curve[..., i - 1][first], curve[..., i][first]  # below the target, and not below it
        share = (target[first] - below) / (above - below)
        found[first] = 2 ** (place[i - 1] + share * (place[i] - place[i - 1]))
    return found


def estimate(
    values: Floats,
    figure: Callable[[Floats], Floats],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """A figure of mean curves with its percentile interval over resampled prompts.

    Args:
        values: [checkpoints, prompts, steps].
        figure: mean curves [..., checkpoints, steps] -> [...].
        level: of the interval.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """
    checkpoints, prompts, steps = values.shape
    flat = values.transpose(1, 0, 2).reshape(prompts, checkpoints * steps)
    value = float(figure(flat.mean(axis=0).reshape(checkpoints, steps)))
    draws = resampled_means(flat, resamples=resamples, seed=seed).reshape(-1, checkpoints, steps)
    found = figure(draws)
    known = found[~np.isnan(found)]
    if prompts < 2 or len(known) < 0.95 * len(found):
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return Estimate(value, float(low), float(high))
