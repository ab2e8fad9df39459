"""The pigeonhole bootstrap: coverage over trainings and prompts, gaps, and few pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbench.stats.bootstrap import cluster_mean, resampled_means
from nbench.stats.pigeonhole import FEWEST_PAIRS, pigeonhole_mean, pool


def _table(rng: np.random.Generator, pairs: int, prompts: int, a: float, b: float, e: float) -> np.ndarray:
    rows, columns = rng.normal(0, a, (pairs, 1)), rng.normal(0, b, (1, prompts))
    return np.asarray(rows + columns + rng.normal(0, e, (pairs, prompts)))


@pytest.mark.parametrize("pairs", [4, 20])
@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_the_interval_covers_the_truth_for_other_trainings_and_prompts(pairs: int, a: float, b: float) -> None:
    rng, rounds, hits, width = np.random.default_rng(1), 250, 0, 0.0
    for i in range(rounds):
        found = pigeonhole_mean(_table(rng, pairs, 48, a, b, 1.0), resamples=500, seed=i % 3)
        hits += found.low < 0 < found.high
        width += (found.high - found.low) / rounds
    ideal = 2 * 1.96 * math.sqrt(a * a / pairs + b * b / 48 + 1 / (pairs * 48))
    assert 0.92 <= hits / rounds <= 1
    assert width < (1.75 if pairs == 4 else 1.2) * ideal  # covers, but not by saying nothing


def test_it_is_wider_than_one_over_prompts_alone_where_trainings_differ() -> None:
    table = _table(np.random.default_rng(0), 6, 200, 1.0, 0.1, 0.1)
    alone = cluster_mean(table.mean(axis=0), np.arange(200))
    found = pigeonhole_mean(table)
    assert found.mean == pytest.approx(alone.mean)
    assert found.high - found.low > 10 * (alone.high - alone.low)


def test_a_prompt_without_a_value_in_one_pair_is_left_out_of_all() -> None:
    table = _table(np.random.default_rng(0), 4, 12, 1.0, 1.0, 1.0)
    holed = np.concatenate([table, np.full((4, 2), 100.0)], axis=1)
    holed[1, 12] = holed[3, 13] = math.nan
    found, whole = pigeonhole_mean(holed), pigeonhole_mean(table)
    assert (found.mean, found.low, found.high) == (whole.mean, whole.low, whole.high)
    assert (found.prompts, found.dropped, whole.dropped) == (12, 2, 0)


@pytest.mark.parametrize("pairs", range(1, FEWEST_PAIRS))
def test_below_the_fewest_pairs_the_interval_is_over_prompts_and_says_so(pairs: int) -> None:
    table = _table(np.random.default_rng(0), pairs, 30, 5.0, 1.0, 1.0)
    alone, found = cluster_mean(table.mean(axis=0), np.arange(30)), pigeonhole_mean(table)
    assert (found.low, found.high, found.conditional) == (alone.low, alone.high, True)
    assert not pigeonhole_mean(_table(np.random.default_rng(0), FEWEST_PAIRS, 30, 5.0, 1.0, 1.0)).conditional


def test_equal_input_gives_equal_output_and_values_without_spread_a_point() -> None:
    table = _table(np.random.default_rng(0), 5, 20, 1.0, 1.0, 1.0)
    assert pigeonhole_mean(table) == pigeonhole_mean(table)
    flat = pigeonhole_mean(np.full((5, 20), 0.25))
    assert (flat.mean, flat.low, flat.high) == (0.25, 0.25, 0.25)


def test_a_figure_of_means_that_is_the_mean_has_the_interval_of_the_mean() -> None:
    table = _table(np.random.default_rng(0), 5, 20, 1.0, 1.0, 1.0)
    found, whole = pool(table.mean(axis=1), resampled_means(table.T), prompts=20), pigeonhole_mean(table)
    assert (found.mean, found.low, found.high) == pytest.approx((whole.mean, whole.low, whole.high))


def test_one_prompt_or_a_draw_that_is_no_number_has_no_interval() -> None:
    assert math.isnan(pigeonhole_mean(np.ones((4, 1))).low)
    draws = np.ones((10, 4))
    draws[3, 2] = math.nan
    found = pool(np.ones(4), draws, prompts=20)
    assert found.mean == 1.0
    assert math.isnan(found.low) and math.isnan(found.high)


def test_no_prompt_at_all_is_no_mean_and_no_pair_is_refused() -> None:
    found = pigeonhole_mean(np.full((4, 3), math.nan))
    assert math.isnan(found.mean) and found.prompts == 0 and found.dropped == 3
    with pytest.raises(ValueError, match="at least one pair"):
        pigeonhole_mean(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="draws"):
        pool(np.ones(4), np.ones((10, 3)), prompts=5)
