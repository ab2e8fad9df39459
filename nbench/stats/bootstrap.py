"""Cluster bootstrap over prompts for a mean.

Seeds of one prompt are correlated, so prompts are resampled, whole. The interval is the studentised one (bootstrap-t):
it keeps its coverage for few prompts and skewed values, where the percentile interval is too narrow (Efron and
Tibshirani 1993, chapter 12). SciPy's `bootstrap` has neither clusters nor the studentised interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
_HELD = 10_000_000  # weights that are kept as doubles between calls: 80 MB
_BLOCK = 2_000  # resamples at a time: bounds the memory at _BLOCK x clusters doubles
#: below so many prompts a resample is too often of equal clusters, and Student's t is used
_FEWEST_CLUSTERS = 8
_ROUNDING = 1e-10  # relative; of a variance, so a thousandth of a percent of a standard deviation

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and its interval.

    Attributes:
        mean: over all values.
        low: lower bound; NaN where there is only one cluster.
        high: upper bound; likewise.
        clusters: how many.
        values: how many.
    """

    mean: float
    low: float
    high: float
    clusters: int
    values: int

    @property
    def half_width(self) -> float:
        """Half of the interval's length."""
        return (self.high - self.low) / 2


def cluster_mean(
    values: npt.ArrayLike,
    clusters: npt.ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of `values` with its studentised cluster-bootstrap interval.

    Args:
        values: finite numbers, [n].
        clusters: which cluster (prompt) each belongs to, [n], any hashable labels.
        level: of the two-sided interval.
        resamples: bootstrap resamples.
        seed: of the resampling: equal input gives equal output.

    Raises:
        ValueError: no values, lengths differ, or a value is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    labels = np.asarray(clusters)
    if array.ndim != 1 or array.shape != labels.shape or not len(array):
        raise ValueError(f"values {array.shape} and clusters {labels.shape} must be non-empty and of one length")
    if not np.isfinite(array).all():
        raise ValueError("a value is not finite: leave failures out, and report coverage")
    _, index = np.unique(labels, return_inverse=True)
    counts = np.bincount(index).astype(np.float64)
    mean = float(array.mean())
    # Per cluster, the sum of its values' distances from the mean.
    residuals: Floats = np.bincount(index, weights=array - mean).astype(np.float64)
    low, high = ratio_interval(residuals[:, None], counts[:, None], level=level, resamples=resamples, seed=seed)
    return Interval(mean, mean + float(low[0]), mean + float(high[0]), len(counts), len(array))


def ratio_interval(
    residuals: Floats, counts: Floats, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Floats, Floats]:
    """Studentised bootstrap bounds, relative to the mean, for many columns over the same clusters at once.

    With clusters i = 1..k drawn with weights w, the mean moves by m* = sum w r / sum w n, its standard error is
    se* = sqrt(k/(k-1) sum w (r - m* n)^2) / sum w n, and the bounds are -q se with the quantiles q of m* / se*.

    Args:
        residuals: r, [k, columns]: per cluster, the sum of (value - mean).
        counts: n, [k, columns]: how many values the cluster has.
        level: of the two-sided interval.
        resamples: number of w.
        seed: of the resampling.

    Returns:
        Lower and upper bounds, [columns] each; NaN for fewer than two clusters. Student's t where the quantiles of
        m* / se* are infinite: too many resamples hold equal clusters only (few prompts, nearly all values tied).
    """
    return ratio_intervals(residuals, counts, levels=(level,), resamples=resamples, seed=seed)[0]


def ratio_intervals(
    residuals: Floats, counts: Floats, *, levels: Sequence[float], resamples: int = RESAMPLES, seed: int = 0
) -> list[tuple[Floats, Floats]]:
    """As `ratio_interval`, at several levels from one set of resamples."""
    k, columns = residuals.shape
    if k < 2:
        return [(np.full(columns, math.nan), np.full(columns, math.nan)) for _ in levels]
    errors = _standard_error(np.ones((1, k)), residuals, counts)[1][0]
    ratios = None
    if k >= _FEWEST_CLUSTERS:
        ratios, _ = studentised_draws(residuals, counts, resamples=resamples, seed=seed)
    return [_bounds(ratios, errors, k, (1 - level) / 2) for level in levels]


def _bounds(ratios: Floats | None, errors: Floats, k: int, tail: float) -> tuple[Floats, Floats]:
    bounds = np.full((2, len(errors)), math.nan)
    if ratios is not None:
        with np.errstate(invalid="ignore"):  # between two infinities there is no number, and Student's t steps in
            bounds = -np.quantile(ratios, [1 - tail, tail], axis=0) * errors
    broken = ~np.isfinite(bounds).all(axis=0)
    if broken.any():
        from scipy.special import stdtrit

        reach = float(stdtrit(k - 1, 1 - tail)) * errors[broken]
        bounds[:, broken] = -reach, reach
    return bounds[0], bounds[1]


def studentised_draws(
    residuals: Floats, counts: Floats, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Floats, Floats]:
    """m* / se* of every resample and column, [resamples, columns], and the columns' standard errors, [columns].

    One draw of clusters serves all columns, so a row keeps their correlation. Arguments as `ratio_interval`.
    """
    k = len(residuals)
    errors = _standard_error(np.ones((1, k)), residuals, counts)[1][0]
    if k < _FEWEST_CLUSTERS:
        return np.full((resamples, residuals.shape[1]), math.inf), errors
    draws = [_studentised(weights, residuals, counts) for weights in _weights(k, resamples, seed)]
    return np.concatenate(draws, axis=0), errors


def resampled_means(values: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Column means of resampled rows, [resamples, columns], for values [clusters, columns] without gaps.

    The resamples are those of `ratio_interval` at the same seed.
    """
    k = len(values)
    return np.concatenate([weights @ values / k for weights in _weights(k, resamples, seed)], axis=0)


def _standard_error(weights: Floats, residuals: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """(m*, se*) of each resample (row of weights) and column."""
    k = weights.shape[1]
    n = weights @ counts
    shift = (weights @ residuals) / n
    parts = (weights @ residuals**2, -2 * shift * (weights @ (residuals * counts)), shift**2 * (weights @ counts**2))
    squares = parts[0] + parts[1] + parts[2]
    squares[squares <= _ROUNDING * (parts[0] + parts[2])] = 0.0  # what is left of equal clusters is rounding
    return shift, np.sqrt(squares * k / (k - 1)) / n


def _studentised(weights: Floats, residuals: Floats, counts: Floats) -> Floats:
    """m* / se* of each resample; of equal clusters: 0 where the mean did not move, else infinite."""
    shift, error = _standard_error(weights, residuals, counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = shift / error
    scale = np.sqrt((residuals**2).sum(axis=0) / (counts**2).sum(axis=0))
    return np.where((error == 0) & (np.abs(shift) <= _ROUNDING * scale), 0.0, ratio)


@lru_cache(maxsize=4)
def _resamples(k: int, resamples: int, seed: int) -> npt.NDArray[np.uint16]:
    generator = np.random.default_rng([seed, k])
    return generator.multinomial(k, np.full(k, 1 / k), size=resamples).astype(np.uint16)


def _weights(k: int, resamples: int, seed: int) -> list[Floats]:
    if k * resamples <= _HELD:
        return _held_weights(k, resamples, seed)
    counts = _resamples(k, resamples, seed)
    return [counts[start : start + _BLOCK].astype(np.float64) for start in range(0, resamples, _BLOCK)]


@lru_cache(maxsize=1)
def _held_weights(k: int, resamples: int, seed: int) -> list[Floats]:
    """Kept as doubles: the rows of one comparison share them."""
    counts = _resamples(k, resamples, seed)
    return [counts[start : start + _BLOCK].astype(np.float64) for start in range(0, resamples, _BLOCK)]
