"""How many prompts and seeds decide a margin; what a given number could have seen.

All of it follows from two variances of the paired difference: between prompts, and between seeds of a prompt. They are
estimated from pairs, or, before any candidate exists, guessed from the base alone (`from_base`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Variances:
    """Variances of one pair's difference.

    Attributes:
        between: of prompts' true mean differences.
        within: of a seed's difference around its prompt's mean.
    """

    between: float
    within: float

    def standard_error(self, prompts: int, seeds: int) -> float:
        """Standard error of the mean difference over `prompts` x `seeds` pairs."""
        return math.sqrt((self.between + self.within / seeds) / prompts)


def variances(differences: npt.ArrayLike, clusters: Sequence[Hashable]) -> Variances:
    """One-way random-effects estimate (analysis of variance, unequal sizes; Searle et al. 1992, section 3.6).

    With one seed per prompt the two cannot be told apart, and everything counts as between.

    Raises:
        ValueError: fewer than two prompts, lengths differ, or a value is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    number: dict[Hashable, int] = {}
    index = np.array([number.setdefault(label, len(number)) for label in clusters])
    if values.ndim != 1 or len(values) != len(index) or len(number) < 2 or not np.isfinite(values).all():
        raise ValueError("variances need finite differences of at least two prompts, one label each")
    sizes = np.bincount(index).astype(np.float64)
    means = np.bincount(index, weights=values) / sizes
    n, k = len(values), len(sizes)
    between_square = float((sizes * (means - values.mean()) ** 2).sum()) / (k - 1)
    if n == k:
        return Variances(between_square, 0.0)
    within = float(((values - means[index]) ** 2).sum()) / (n - k)
    size = (n - float((sizes**2).sum()) / n) / (k - 1)
    return Variances(max(0.0, (between_square - within) / size), within)


def from_base(scores: npt.ArrayLike, clusters: Sequence[Hashable], *, correlation: float = 0.5) -> Variances:
    """What differences may vary like when only the base's scores are known.

    Two checkpoints whose scores have the base's variance and this correlation at equal prompt and seed differ by
    2 (1 - correlation) of it. A fine-tuned checkpoint is closer to its base than two unrelated ones: 0.5 is cautious.

    Raises:
        ValueError: as `variances`, or the correlation is not within -1 and 1.
    """
    if not -1 <= correlation <= 1:
        raise ValueError(f"a correlation lies from -1 to 1, not at {correlation}")
    found, factor = variances(scores, clusters), 2 * (1 - correlation)
    return Variances(found.between * factor, found.within * factor)


def power(standard_error: float, margin: float, *, prompts: int, drop: float = 0.0, level: float = 0.95) -> float:
    """Probability that a gate passes a checkpoint whose true drop is `drop`: the noncentral t of the one-sided test.

    Args:
        standard_error: of the mean difference.
        margin: of the gate, above `drop`.
        prompts: clusters, at least 2.
        drop: the candidate's true drop; 0 for one as good as the base.
        level: of the one-sided bound.
    """
    from scipy.special import nctdtr, stdtrit

    if standard_error == 0:
        return float(margin > drop)
    degrees = prompts - 1
    return 1.0 - float(nctdtr(degrees, (margin - drop) / standard_error, stdtrit(degrees, level)))


def prompts_needed(
    spread: Variances,
    margin: float,
    *,
    seeds: int = 1,
    target: float = 0.8,
    drop: float = 0.0,
    level: float = 0.95,
    most: int = 1_000_000,
) -> int | None:
    """The least number of prompts that reach a power; None where more than `most` would be needed.

    Args:
        spread: variances of a pair's difference.
        margin: of the gate.
        seeds: pictures per prompt.
        target: power, 0 to 1.
        drop: the candidate's true drop.
        level: of the one-sided bound.
        most: give up beyond it.

    Raises:
        ValueError: the margin is not above the drop, so that no number is enough.
    """
    if margin <= drop:
        raise ValueError(f"a margin of {margin:g} can never be shown where the true drop is {drop:g}")

    def enough(prompts: int) -> bool:
        error = spread.standard_error(prompts, seeds)
        return power(error, margin, prompts=prompts, drop=drop, level=level) >= target

    high = 2
    while not enough(high):
        high *= 2
        if high > most:
            return None
    low = high // 2
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def detectable_drop(standard_error: float, *, prompts: int, target: float = 0.8, level: float = 0.95) -> float:
    """The smallest true drop that a one-sided test at `level` finds with probability `target`.

    Solved from the noncentral t by bisection; NaN for fewer than two prompts.
    """
    if prompts < 2 or not math.isfinite(standard_error):
        return math.nan
    if standard_error == 0:
        return 0.0
    low, high = 0.0, standard_error
    while power(standard_error, high, prompts=prompts, level=level) < target:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if power(standard_error, middle, prompts=prompts, level=level) < target:
            low = middle
        else:
            high = middle
    return high
