"""Paired differences: coverage by simulation, bounds, shares; and joint columns with gaps."""

import math

import numpy as np
import pytest

from nbench.stats.bootstrap import cluster_mean, ratio_interval
from nbench.stats.paired import Columns, bounds, paired_difference

EXPERIMENTS = 2000


def experiments(kind: str, prompts: int, seeds: int) -> tuple[np.ndarray, float]:
    """Differences [prompts, experiments, seeds] and their true mean; seeds of a prompt are correlated."""
    rng = np.random.default_rng(11)
    shape = (prompts, EXPERIMENTS)
    if kind == "normal":
        return rng.normal(size=shape)[..., None] + rng.normal(size=(*shape, seeds)), 0.0
    if kind == "skewed":
        return rng.exponential(size=shape)[..., None] + rng.exponential(size=(*shape, seeds)), 2.0
    chance = rng.random(shape)[..., None]  # tied: each pair is better (1), equal (0) or worse (-1)
    drawn = rng.random((*shape, seeds))
    return (drawn < chance / 2) * 1.0 - (drawn > 1 - chance / 4), 0.125


@pytest.mark.parametrize("seeds", [1, 4])
@pytest.mark.parametrize("prompts", [30, 200])
@pytest.mark.parametrize("kind", ["normal", "skewed", "tied"])
def test_a_nominal_95_percent_interval_covers_93_to_97(kind: str, prompts: int, seeds: int) -> None:
    values, truth = experiments(kind, prompts, seeds)
    sums, counts = values.sum(axis=2), np.full((prompts, EXPERIMENTS), float(seeds))
    columns = Columns(sums, counts)
    low, high = ratio_interval(columns.residuals, counts, resamples=2000)
    covered = ((columns.means + low <= truth) & (truth <= columns.means + high)).mean()
    assert 0.93 <= covered <= 0.97


def test_bounds_and_interval_come_from_one_distribution() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 200)
    found = paired_difference(values, range(200))
    assert found.low < found.lower < found.mean < found.upper < found.high
    ninety = cluster_mean(values, range(200), level=0.9)
    assert (found.lower, found.upper) == pytest.approx((ninety.low, ninety.high))
    assert found.significant and found.prompts == found.pairs == 200


def test_improved_is_a_share_of_prompts_and_ties_count_half() -> None:
    found = paired_difference([1, 1, -3, 0, 0, 2], ["a", "a", "a", "b", "b", "c"])
    assert found.improved == pytest.approx((0 + 0.5 + 1) / 3)
    assert (found.prompts, found.pairs) == (3, 6)
    assert found.effect == pytest.approx((1 / 6) / np.std([-1 / 3, 0, 2], ddof=1))


def test_equal_checkpoints_differ_by_nothing_for_certain() -> None:
    found = paired_difference(np.zeros(40), range(40))
    assert (found.mean, found.low, found.high, found.lower, found.upper) == (0, 0, 0, 0, 0)
    assert not found.significant and math.isnan(found.effect) and found.improved == 0.5


def test_one_prompt_has_a_mean_and_no_bounds() -> None:
    found = paired_difference([1.0, 2.0], ["a", "a"])
    assert found.mean == 1.5 and all(map(math.isnan, (found.low, found.high, found.lower, found.upper)))


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [[1.0]]])
def test_what_is_no_difference_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError):
        paired_difference(bad, range(len(bad)))


def test_columns_with_gaps_equal_each_column_alone() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(60, 3))
    clusters = [f"p{i // 3}" for i in range(60)]
    values[0:3, 1] = np.nan  # a prompt without a value
    values[7, 2] = np.nan  # a pair without one
    columns = Columns.of(values, clusters)
    low, high = bounds(columns, resamples=20_000)
    for i in range(3):
        known = np.isfinite(values[:, i])
        alone = cluster_mean(values[known, i], np.array(clusters)[known], resamples=20_000)
        assert columns.means[i] == pytest.approx(alone.mean)
        # np.unique sorts clusters, and `Columns` keeps their order: resamples are not the same, intervals nearly so
        assert (low[i], high[i]) == pytest.approx((alone.low, alone.high), abs=0.03)


def test_a_column_of_one_cluster_has_no_bounds() -> None:
    values = np.array([[1.0, np.nan], [2.0, np.nan], [3.0, 4.0]])
    low, _ = bounds(Columns.of(values, "abc"), resamples=50)
    assert math.isfinite(low[0]) and math.isnan(low[1])
