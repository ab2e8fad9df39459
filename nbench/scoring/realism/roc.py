"""How well a score tells real from generated, and whether its log-odds are honest: pure functions on arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2_000
_BLOCK = 100  # resamples at a time: bounds the memory

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve with its interval.

    Attributes:
        value: share of (real, fake) pairs in which the real one scores higher; ties count half.
        low: lower bound of the 95 % interval; NaN where either side has only one group.
        high: upper bound; likewise.
        real: pictures on the real side.
        fake: pictures on the other.
    """

    value: float
    low: float
    high: float
    real: int
    fake: int


def auc(
    real: npt.ArrayLike,
    fake: npt.ArrayLike,
    *,
    real_groups: npt.ArrayLike | None = None,
    fake_groups: npt.ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Auc:
    """AUC of a score that is higher for real pictures, with a cluster-bootstrap percentile interval.

    Args:
        real: scores of real pictures, [n], finite.
        fake: scores of generated pictures, [m], finite.
        real_groups: what each real picture belongs to (a scene, a photographer); each by itself by default.
        fake_groups: likewise (a prompt).
        resamples: bootstrap resamples; groups of either side are resampled whole.
        seed: of the resampling: equal input gives equal output.

    Raises:
        ValueError: a side is empty, or a score is not finite.
    """
    above, other = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    if not above.size or not other.size:
        raise ValueError("an AUC needs at least one picture on either side")
    if not (np.isfinite(above).all() and np.isfinite(other).all()):
        raise ValueError("a score is not finite: leave failures out, and report coverage")
    order = np.argsort(above, kind="stable")
    ranked = above[order]
    left, right = np.searchsorted(ranked, other, "left"), np.searchsorted(ranked, other, "right")

    def area(weights: Floats, others: Floats) -> Floats:
        """AUC of each row of weights [b, n], [b, m]."""
        below = np.concatenate((np.zeros((len(weights), 1)), weights[:, order].cumsum(1)), 1)
        total = below[:, -1:]
        wins = total - 0.5 * (below[:, right] + below[:, left])
        result: Floats = (others * wins).sum(1) / (total[:, 0] * others.sum(1))
        return result

    value = float(area(np.ones((1, above.size)), np.ones((1, other.size)))[0])
    generator = np.random.default_rng([seed, above.size, other.size])
    sides = _Groups(real_groups, above.size), _Groups(fake_groups, other.size)
    if min(side.count for side in sides) < 2:
        return Auc(value, float("nan"), float("nan"), above.size, other.size)
    found = []
    for start in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - start)
        found.append(area(sides[0].draw(generator, rows), sides[1].draw(generator, rows)))
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return Auc(value, float(low), float(high), above.size, other.size)


class _Groups:
    """Draws how often each picture is in a resample of whole groups."""

    def __init__(self, labels: npt.ArrayLike | None, count: int) -> None:
        given = np.arange(count) if labels is None else np.asarray(labels)
        if given.shape != (count,):
            raise ValueError(f"{count} scores have {given.shape} group labels: give one label per score")
        names, self._index = np.unique(given, return_inverse=True)
        self.count = len(names)

    def draw(self, generator: np.random.Generator, resamples: int) -> Floats:
        """Weights, [resamples, pictures]."""
        times = generator.multinomial(self.count, np.full(self.count, 1 / self.count), size=resamples)
        return times.astype(np.float64)[:, self._index]


@dataclass(frozen=True)
class Bin:
    """Pictures of similar predicted probability.

    Attributes:
        predicted: their mean predicted probability of real.
        observed: the share that is real.
        count: how many.
    """

    predicted: float
    observed: float
    count: int


def reliability(logits: npt.ArrayLike, is_real: npt.ArrayLike, bins: int = 10) -> list[Bin]:
    """Predicted probability of real against the share that is real, in bins of equally many pictures.

    Args:
        logits: log-odds of real, [n], finite.
        is_real: whether each picture is, [n].
        bins: at most so many; empty ones are left out.
    """
    predicted = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    observed = np.asarray(is_real, np.float64)
    order = np.argsort(predicted, kind="stable")
    return [
        Bin(float(predicted[part].mean()), float(observed[part].mean()), len(part))
        for part in np.array_split(order, bins)
        if len(part)
    ]


def calibration_error(found: list[Bin]) -> float:
    """Mean distance of predicted from observed over bins, weighted by their pictures; 0 is honest, at most 1."""
    total = sum(one.count for one in found)
    return sum(one.count * abs(one.predicted - one.observed) for one in found) / total
