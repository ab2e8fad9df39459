"""The figures of a board on curves whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbench.leaderboard.figures import Part, View, combined, figures
from nbench.stats.paired import paired_difference

STEPS = (2, 4, 8)


def view(curves: np.ndarray, *, true_zero: bool = False) -> View:
    return View("m", "measure", "reward", "unit", 1, ("m",), curves, true_zero, 0)


def curves(*shifts: tuple[float, float, float], prompts: int = 40, noise: float = 0.1) -> np.ndarray:
    """[1 + len(shifts), prompts, steps]: a base that rises from 1 to 3, and checkpoints shifted against it."""
    own = np.random.default_rng(0).normal(0, 0.3, (1, prompts, 1))
    base = np.array([1.0, 2.0, 3.0]) + own
    made = [base + np.array(shift) for shift in ((0.0, 0.0, 0.0), *shifts)]
    jitter = np.random.default_rng(1).normal(0, noise, (len(made), prompts, 3))
    return np.concatenate(made) + jitter


def test_area_weighs_step_counts_by_the_trapezoid_over_log2() -> None:
    found = figures(view(curves((1.0, 2.0, 4.0), noise=0.0)), STEPS, ["base", "x"], few=2, full=8)[1]
    assert found.area is not None and found.few is not None and found.full is not None
    assert found.area.mean == pytest.approx((1 + 2 * 2 + 4) / 4)
    assert (found.few.mean, found.full.mean) == pytest.approx((1.0, 4.0))


def test_worst_drop_and_steps_to_match_say_where_a_checkpoint_falls_behind() -> None:
    broken, better = figures(
        view(curves((-1.5, 0.0, 0.0), (1.0, 1.0, 1.0), noise=0.0)), STEPS, list("bxy"), few=2, full=8
    )[1:]
    assert broken.worst is not None and broken.worst.value == pytest.approx(1.5)
    assert better.worst is not None and better.worst.value == pytest.approx(-1.0)
    assert better.match is not None and better.match.value == pytest.approx(4.0)


def test_a_checkpoint_that_never_reaches_the_base_never_matches() -> None:
    found = figures(view(curves((-0.5, -0.5, -0.5), noise=0.0)), STEPS, list("bx"), few=2, full=8)[1]
    assert found.match is not None and math.isinf(found.match.value)


def test_ranks_have_groups_and_the_base_stands_among_them() -> None:
    made = figures(view(curves((1.0,) * 3, (1.001,) * 3, (-1.0,) * 3)), STEPS, list("bxyz"), few=2, full=8)
    base, first, second, last = (one.rank for one in made)
    assert base.mean == 0 and base.rank == 3
    assert first.group == second.group == 1
    assert base.group == 2 and last.group == 3 and last.rank == 4


def test_a_checkpoint_equal_to_the_base_shares_its_group_and_has_no_difference() -> None:
    values = curves((0.0, 0.0, 0.0))
    values[1] = values[0]
    base, same = figures(view(values), STEPS, list("bx"), few=2, full=8)
    assert same.area is not None and (same.area.mean, same.area.low, same.area.high) == (0, 0, 0)
    assert base.rank.group == same.rank.group == 1 and base.rank.rank == same.rank.rank == 1


def test_retention_is_few_over_full_of_itself_and_only_where_zero_means_none() -> None:
    values = curves((0.0, 0.0, 3.0), noise=0.0)
    assert figures(view(values), STEPS, list("bx"), few=2, full=8)[1].retention is None
    own = figures(view(values, true_zero=True), STEPS, list("bx"), few=2, full=8)[1].retention
    mean = values[1].mean(axis=0)
    assert own is not None and own.value == pytest.approx(mean[0] / mean[2])
    assert own.low < own.value < own.high


@given(st.integers(0, 10_000))
def test_a_combination_without_gaps_is_the_mean_of_standardised_curves(seed: int) -> None:
    generator = np.random.default_rng(seed)
    one, two = generator.normal(0, 1, (2, 3, 6, 3))
    everyone = np.arange(6)
    found = combined([Part(one, everyone, 0.5), Part(two, everyone, 2.0)], 6)
    expected = ((one - one[0, :, -1].mean()) / 0.5 + (two - two[0, :, -1].mean()) / 2.0) / 2
    assert found == pytest.approx(expected)


@given(st.integers(0, 10_000))
def test_a_combination_with_gaps_keeps_the_mean_of_the_measures_means(seed: int) -> None:
    generator = np.random.default_rng(seed)
    one, two = generator.normal(0, 1, (3, 8, 3)), generator.normal(5, 1, (3, 3, 3))
    found = combined([Part(one, np.arange(8), 1.0), Part(two, np.array([1, 4, 6]), 1.0)], 8)
    parts = [part - part[0, :, -1].mean() for part in (one, two)]
    assert found.mean(axis=1) == pytest.approx((parts[0].mean(axis=1) + parts[1].mean(axis=1)) / 2)


def test_a_combination_with_gaps_has_the_standard_error_of_the_mean_of_both() -> None:
    """A measure on 50 of 200 prompts has the interval of its 50 prompts, not a narrower one."""
    generator = np.random.default_rng(0)
    some = np.sort(generator.choice(200, 50, replace=False))
    gain = generator.normal(0.3, 1.0, 50)
    own = np.zeros((2, 50, 1))
    own[1, :, 0] = gain
    spread_out = combined([Part(own, some, 1.0)], 200)
    wide = paired_difference(spread_out[1, :, 0] - spread_out[0, :, 0], range(200))
    plain = paired_difference(gain, range(50))
    assert wide.mean == pytest.approx(plain.mean)
    assert wide.high - wide.low == pytest.approx(plain.high - plain.low, rel=0.1)
