"""Many comparisons at once: simultaneous bounds by max-T, and Holm's adjustment of p-values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nbench.stats.bootstrap import RESAMPLES, Floats, studentised_draws
from nbench.stats.paired import Columns


@dataclass(frozen=True)
class Simultaneous:
    """Bounds that hold for all columns together, with the stated confidence.

    Attributes:
        means: [columns].
        low, high: two-sided band, [columns].
        lower, upper: one-sided bounds, each family at the level, [columns].
        level: of each of the three families.
    """

    means: Floats
    low: Floats
    high: Floats
    lower: Floats
    upper: Floats
    level: float


def max_t(columns: Columns, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Simultaneous:
    """Single-step max-T over columns that are resampled jointly (Westfall and Young 1993; Romano and Wolf 2005).

    Each resample's t statistics keep the correlation of the columns, so the bounds are no wider than they must be:
    columns that say the same cost nothing. A column without spread has bounds equal to its mean. Fewer than two
    clusters in any column give NaN for all.

    Raises:
        ValueError: there is no column.
    """
    if not columns.sums.shape[1]:
        raise ValueError("there is nothing to compare: no column")
    means = columns.means
    nothing = np.full_like(means, math.nan)
    if len(columns.sums) < 2 or ((columns.counts > 0).sum(axis=0) < 2).any():
        return Simultaneous(means, nothing, nothing, nothing, nothing, level)
    ratios, errors = studentised_draws(columns.residuals, columns.counts, resamples=resamples, seed=seed)
    moving = errors > 0
    if not moving.any():
        return Simultaneous(means, means, means, means, means, level)
    ratios = ratios[:, moving]

    two, below, above = (
        float(np.quantile(statistic.max(axis=1), level, method="higher"))
        for statistic in (np.abs(ratios), ratios, -ratios)  # where the mean overshoots, the truth lies below it
    )
    if not math.isfinite(two):  # too few clusters for a bootstrap: Bonferroni on Student's t
        from scipy.special import stdtrit

        k, count = len(columns.sums), int(moving.sum())
        two = float(stdtrit(k - 1, 1 - (1 - level) / (2 * count)))
        below = above = float(stdtrit(k - 1, 1 - (1 - level) / count))
    return Simultaneous(
        means, means - two * errors, means + two * errors, means - below * errors, means + above * errors, level
    )


def holm(p_values: npt.ArrayLike) -> Floats:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979); compare them with the family's level.

    Raises:
        ValueError: a p-value is not within 0 and 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p-values are numbers from 0 to 1")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
