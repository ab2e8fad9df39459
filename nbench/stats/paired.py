"""Paired differences: the same prompt, seed and step count from two checkpoints.

Whatever is compared over several columns (step counts, scorers) is resampled jointly, one draw of prompts for all, so
that the columns' correlation is kept.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nbench.stats.bootstrap import RESAMPLES, Floats, ratio_intervals


@dataclass(frozen=True)
class PairedDifference:
    """Candidate minus base over pairs, oriented so that positive is better.

    Attributes:
        mean: over all pairs.
        low, high: two-sided interval at `level`.
        lower, upper: one-sided bounds, each at `level`: the mean is above `lower` (below `upper`) with that confidence.
        improved: share of prompts whose mean difference is above 0; ties count half.
        effect: mean over the standard deviation of prompts' mean differences; NaN for fewer than two prompts or where
            all are equal.
        prompts, pairs: how many.
        level: of the interval and of each bound.
    """

    mean: float
    low: float
    high: float
    lower: float
    upper: float
    improved: float
    effect: float
    prompts: int
    pairs: int
    level: float

    @property
    def significant(self) -> bool:
        """Whether the two-sided interval leaves 0 out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Columns:
    """Differences of several columns over the same clusters, ready for joint resampling.

    Attributes:
        sums: per cluster and column, the sum of differences, [k, columns].
        counts: how many there are, [k, columns]; 0 where a cluster has none.
    """

    sums: Floats
    counts: Floats

    @property
    def means(self) -> Floats:
        """Mean per column, [columns]; NaN for a column without a value."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.sums.sum(axis=0) / self.counts.sum(axis=0))

    @property
    def residuals(self) -> Floats:
        """Per cluster and column, the sum of (difference - the column's mean), [k, columns]."""
        return self.sums - self.counts * self.means

    @classmethod
    def of(cls, values: npt.ArrayLike, clusters: Sequence[Hashable]) -> Columns:
        """From one row per pair.

        Args:
            values: differences, [n, columns]; NaN where a pair has no value in a column.
            clusters: of each row, [n].

        Raises:
            ValueError: shapes do not fit, or there is no row.
        """
        array = np.atleast_2d(np.asarray(values, dtype=np.float64))
        if array.ndim != 2 or len(array) != len(clusters) or not len(array):
            raise ValueError(f"values {array.shape} need one row for each of {len(clusters)} clusters, at least one")
        number: dict[Hashable, int] = {}
        index = np.array([number.setdefault(label, len(number)) for label in clusters])
        known = np.isfinite(array)
        sums, counts = np.zeros((2, len(number), array.shape[1]))
        np.add.at(sums, index, np.where(known, array, 0.0))
        np.add.at(counts, index, known)
        return cls(sums, counts)


def paired_difference(
    differences: npt.ArrayLike,
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """Mean paired difference with its studentised cluster-bootstrap interval and one-sided bounds.

    Args:
        differences: candidate minus base, positive where the candidate is better, [n], finite.
        clusters: prompt of each, [n].
        level: of the interval and of each bound, 0 to 1.
        resamples: bootstrap resamples.
        seed: of the resampling: equal input gives equal output.

    Raises:
        ValueError: no values, lengths differ, or a value is not finite.
    """
    array = np.asarray(differences, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError("differences are one finite number per pair: leave failures out, and report coverage")
    columns = Columns.of(array[:, None], clusters)
    mean = float(columns.means[0])
    levels = (level, 2 * level - 1)
    (low, high), (lower, upper) = bounds_at(columns, levels=levels, resamples=resamples, seed=seed)
    by_prompt = columns.sums[:, 0] / columns.counts[:, 0]
    spread = float(by_prompt.std(ddof=1)) if len(by_prompt) > 1 else math.nan
    return PairedDifference(
        mean=mean,
        low=float(low[0]),
        high=float(high[0]),
        lower=float(lower[0]),
        upper=float(upper[0]),
        improved=float(((by_prompt > 0) + 0.5 * (by_prompt == 0)).mean()),
        effect=mean / spread if spread > 0 else math.nan,
        prompts=len(by_prompt),
        pairs=len(array),
        level=level,
    )


def bounds(
    columns: Columns, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Floats, Floats]:
    """Two-sided interval of each column's mean, for itself (not simultaneous): (low, high), [columns] each.

    A column of fewer than two clusters has NaN.
    """
    return bounds_at(columns, levels=(level,), resamples=resamples, seed=seed)[0]


def bounds_at(
    columns: Columns, *, levels: Sequence[float], resamples: int = RESAMPLES, seed: int = 0
) -> list[tuple[Floats, Floats]]:
    """As `bounds`, at several levels from one set of resamples."""
    found = np.full((len(levels), 2, columns.sums.shape[1]), math.nan)
    known = (columns.counts > 0).sum(axis=0) >= 2
    for pattern in {tuple(row) for row in (columns.counts > 0).T[known]}:  # columns that share their clusters
        rows = np.array(pattern)
        chosen = known & (rows == (columns.counts > 0).T).all(axis=1)
        place = np.ix_(rows, chosen)
        parts = ratio_intervals(
            columns.residuals[place], columns.counts[place], levels=levels, resamples=resamples, seed=seed
        )
        for i, part in enumerate(parts):
            found[i][:, chosen] = columns.means[chosen] + np.stack(part)
    return [(low, high) for low, high in found]
