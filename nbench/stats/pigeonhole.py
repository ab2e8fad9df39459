"""The pigeonhole bootstrap: an interval for a mean over trainings and prompts, both of which are samples.

A [pairs, prompts] table of paired differences has two sources of chance: other training seeds would give other rows,
other prompts other columns. Rows and columns are resampled, whole and independently of each other (Owen, "The
pigeonhole bootstrap", Annals of Applied Statistics 2007). Its variance is never too small by much and counts what
belongs to single cells up to three times, so the interval errs towards being wide.

A study has few pairs, and a percentile interval over few rows is too narrow. So the percentile interval is expanded
around its median (Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 2015): by
Student's t over the normal quantile, with Satterthwaite's degrees of freedom from both sources, and by the unbiased
standard error over the bootstrap's where that is larger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nbench.stats.bootstrap import RESAMPLES, Floats, cluster_mean, resampled_means

#: below so many pairs, how pairs differ cannot be told, and prompts alone are resampled
FEWEST_PAIRS = 3


@dataclass(frozen=True)
class Pooled:
    """A mean over pairs with its interval.

    Attributes:
        mean: over pairs; NaN where there is nothing.
        low, high: interval; NaN for fewer than two prompts.
        pairs: rows.
        prompts: columns that were used.
        dropped: columns left out, because a value was missing in some row.
        conditional: whether prompts alone were resampled, so that the interval holds for these trainings only.
    """

    mean: float
    low: float
    high: float
    pairs: int
    prompts: int
    dropped: int
    conditional: bool


def pigeonhole_mean(values: Floats, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Pooled:
    """Mean of a [pairs, prompts] table. A prompt that lacks a value in any row is left out of all, and counted.

    With fewer than `FEWEST_PAIRS` rows it is the studentised bootstrap over prompts of `cluster_mean`.

    Args:
        values: one number per pair and prompt; NaN where there is none.
        level: of the interval.
        resamples: bootstrap resamples.
        seed: of the resampling: equal input gives equal output.

    Raises:
        ValueError: the table has no row.
    """
    if values.ndim != 2 or not len(values):
        raise ValueError(f"values {values.shape} must be [pairs, prompts], at least one pair")
    known = np.isfinite(values).all(axis=0)
    table, dropped = values[:, known], int((~known).sum())
    pairs, prompts = table.shape
    if not prompts:
        return Pooled(math.nan, math.nan, math.nan, pairs, 0, dropped, pairs < FEWEST_PAIRS)
    if pairs < FEWEST_PAIRS:
        found = cluster_mean(table.mean(axis=0), np.arange(prompts), level=level, resamples=resamples, seed=seed)
        return Pooled(found.mean, found.low, found.high, pairs, prompts, dropped, True)
    draws = resampled_means(table.T, resamples=resamples, seed=seed)
    return pool(table.mean(axis=1), draws, prompts=prompts, dropped=dropped, level=level, seed=seed)


def pool(
    points: Floats, draws: Floats, *, prompts: int, dropped: int = 0, level: float = 0.95, seed: int = 0
) -> Pooled:
    """Mean over pairs of any figure of their prompts' means, such as one after matching.

    Args:
        points: the figure of each pair on all prompts, [pairs].
        draws: the same on resampled prompts, the same ones for all pairs, [resamples, pairs].
        prompts: how many were resampled.
        dropped: how many were left out before.
        level: of the interval.
        seed: of the resampling of pairs.

    Raises:
        ValueError: shapes do not fit.
    """
    pairs = len(points)
    if not pairs or draws.ndim != 2 or draws.shape[1] != pairs:
        raise ValueError(f"draws {draws.shape} must be [resamples, {pairs} pairs], at least one pair")
    mean = float(points.mean())
    conditional = pairs < FEWEST_PAIRS
    if prompts < 2 or not np.isfinite(points).all() or not np.isfinite(draws).all():
        return Pooled(mean, math.nan, math.nan, pairs, prompts, dropped, conditional)
    by_prompt = draws.mean(axis=1)
    of_prompts = float(by_prompt.var()) * prompts / (prompts - 1)
    of_pairs, resampled = 0.0, by_prompt
    if not conditional:
        of_pairs = float(points.var(ddof=1)) / pairs
        weights = np.random.default_rng([seed, pairs, 1]).multinomial(pairs, np.full(pairs, 1 / pairs), len(draws))
        resampled = (weights * draws).sum(axis=1) / pairs
    tail = (1 - level) / 2
    low, middle, high = (float(one) for one in np.quantile(resampled, [tail, 0.5, 1 - tail]))
    factor = _expansion((of_pairs, pairs), (of_prompts, prompts), float(resampled.std()), 1 - tail)
    return Pooled(
        mean,
        middle - factor * (middle - low),
        middle + factor * (high - middle),
        pairs,
        prompts,
        dropped,
        conditional,
    )


def _expansion(of_pairs: tuple[float, int], of_prompts: tuple[float, int], spread: float, quantile: float) -> float:
    """How much wider than the percentile interval: t over normal, and standard error over the bootstrap's `spread`."""
    from scipy.special import ndtri, stdtrit

    total = of_pairs[0] + of_prompts[0]
    if not total > 0 or not spread > 0:
        return 1.0
    parts = sum(variance**2 / (count - 1) for variance, count in (of_pairs, of_prompts) if count > 1)
    student = float(stdtrit(total**2 / parts, quantile)) / float(ndtri(quantile))
    return student * max(1.0, math.sqrt(total) / spread)
