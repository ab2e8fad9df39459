"""Ranks that say how sure they are: an interval for each rank, and groups that share one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nbench.stats.bootstrap import RESAMPLES, Floats, resampled_means
from nbench.stats.multiplicity import max_t
from nbench.stats.paired import Columns


@dataclass(frozen=True)
class Rank:
    """Where one checkpoint stands.

    Attributes:
        mean: of its figure.
        rank: 1 for the highest mean; equal means share the better rank.
        low, high: interval of the rank over resampled prompts.
        group: 1 for the first group, and so on.
    """

    mean: float
    rank: int
    low: int
    high: int
    group: int


def rank(
    values: Floats, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0, names: Sequence[str] = ()
) -> list[Rank]:
    """Rank checkpoints by the mean of a figure over the same prompts.

    A checkpoint is in the group of the best one of which it is not shown to be worse: going down the ranks, a new group
    begins with the first checkpoint whose paired difference from the group's leader leaves 0 out. All differences are
    judged together (max-T), so the chance that any two equal checkpoints are told apart is 1 - level.

    Args:
        values: oriented so that more is better, [checkpoints, prompts].
        level: of the rank intervals and of the family of differences.
        resamples: bootstrap resamples.
        seed: of the resampling.
        names: of the checkpoints, to order equal means; by position where not given.

    Returns:
        One per checkpoint, in the order given.

    Raises:
        ValueError: there is no checkpoint or no prompt.
    """
    count, prompts = values.shape
    if not count or not prompts:
        raise ValueError(f"values {values.shape} must be [checkpoints, prompts], at least one of each")
    means = values.mean(axis=1)
    ranks = _ranks(means[None])[0]
    if prompts < 2:
        return [Rank(float(mean), int(place), 1, count, 1) for mean, place in zip(means, ranks, strict=True)]
    draws = _ranks(resampled_means(values.T, resamples=resamples, seed=seed))
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0, method="inverted_cdf").astype(int)
    labels = list(names) or [f"{i:09d}" for i in range(count)]
    order = sorted(range(count), key=lambda i: (-means[i], labels[i]))
    pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
    groups = [1] * count
    if pairs:
        differences = np.stack([values[a] - values[b] for a, b in pairs], axis=1)
        found = max_t(Columns(differences, np.ones_like(differences)), level=level, resamples=resamples, seed=seed)
        worse = {pair for pair, bound in zip(pairs, found.low, strict=True) if bound > 0}
        leader, group = order[0], 1
        for one in order[1:]:
            if (leader, one) in worse:
                leader, group = one, group + 1
            groups[one] = group
    return [
        Rank(float(means[i]), int(ranks[i]), min(int(low[i]), int(ranks[i])), max(int(high[i]), int(ranks[i])), group)
        for i, group in enumerate(groups)
    ]


def _ranks(means: Floats) -> Floats:
    """1 + how many are strictly higher, per row."""
    return np.asarray(1 + (means[:, None, :] > means[:, :, None]).sum(axis=2), dtype=np.float64)
