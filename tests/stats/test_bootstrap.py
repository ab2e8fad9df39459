import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nbench.stats.bootstrap import cluster_mean, ratio_interval

DRAWS: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], np.ndarray], float]] = {
    "normal": (lambda rng, shape: rng.normal(size=shape), 0.0),
    "skewed": (lambda rng, shape: rng.exponential(size=shape), 1.0),
    "heavily tied": (lambda rng, shape: np.floor(rng.random(shape) * 5), 2.0),
}


@pytest.mark.parametrize("prompts", [30, 200])
@pytest.mark.parametrize("kind", DRAWS)
def test_nominal_95_percent_covers_93_to_97(kind: str, prompts: int) -> None:
    draw, truth = DRAWS[kind]
    values = draw(np.random.default_rng(7), (prompts, 3000))
    mean = values.mean(axis=0)
    low, high = ratio_interval(values - mean, np.ones_like(values), resamples=2000)
    covered = float(((mean + low <= truth) & (truth <= mean + high)).mean())
    assert 0.93 <= covered <= 0.97


def test_correlated_seeds_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)
    prompts = rng.normal(size=40)
    once = cluster_mean(prompts, np.arange(40))
    eight_times = cluster_mean(np.repeat(prompts, 8), np.repeat(np.arange(40), 8))
    assert eight_times.half_width == pytest.approx(once.half_width, rel=1e-9)
    as_if_independent = cluster_mean(np.repeat(prompts, 8), np.arange(320))
    assert as_if_independent.half_width < 0.5 * once.half_width


def test_many_normal_prompts_give_student_t() -> None:
    values = np.random.default_rng(3).normal(size=400)
    found = cluster_mean(values, np.arange(400))
    wanted = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(wanted, abs=0.05 * stats.sem(values))


def test_few_prompts_give_student_t_exactly() -> None:
    values = np.array([0.1, 0.4, 0.2, 0.9])
    found = cluster_mean(values, ["a", "b", "c", "d"])
    wanted = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(wanted)


def test_unequal_clusters_weigh_by_their_values() -> None:
    found = cluster_mean([1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"])
    assert (found.mean, found.clusters, found.values) == (2.0, 2, 4)


def test_one_prompt_has_no_interval() -> None:
    found = cluster_mean([1.0, 2.0], ["a", "a"])
    assert found.mean == 1.5
    assert math.isnan(found.low) and math.isnan(found.high)


def test_one_value_apart_from_ties_gives_a_wide_interval_and_no_nonsense() -> None:
    # Found by hypothesis: a resample without the outlier had a spread of 1e-9 from rounding, the bound was -1280662.
    values = np.array([0.0] * 7 + [-4.4375])
    found = cluster_mean(values, np.arange(8))
    wanted = stats.t.interval(0.95, 7, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(wanted)


def test_equal_values_have_an_interval_of_no_length() -> None:
    found = cluster_mean([0.25] * 20, list(range(20)))
    assert (found.low, found.mean, found.high) == (0.25, 0.25, 0.25)


def test_equal_input_gives_equal_output_whatever_the_order() -> None:
    rng = np.random.default_rng(1)
    values, labels = rng.normal(size=60), np.repeat(np.arange(20), 3)
    order = rng.permutation(60)
    assert cluster_mean(values, labels) == cluster_mean(values, labels)
    shuffled = cluster_mean(values[order], labels[order])
    assert (shuffled.low, shuffled.high) == pytest.approx(
        (cluster_mean(values, labels).low, cluster_mean(values, labels).high), rel=1e-9
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=8, max_size=20),
    st.floats(-1e3, 1e3),
    st.floats(0.01, 100),
)
def test_the_interval_moves_and_scales_with_the_values(values: list[float], shift: float, scale: float) -> None:
    array = np.round(np.array(values), 3)
    labels = np.arange(len(array))
    plain = cluster_mean(array, labels, resamples=500)
    moved = cluster_mean(array * scale + shift, labels, resamples=500)
    tolerance = 1e-6 * (1 + abs(shift) + scale * np.abs(array).max())
    # A single outlier can put a bound far outside the data: rounding is then relative to the bound.
    assert moved.low == pytest.approx(plain.low * scale + shift, rel=1e-6, abs=tolerance)
    assert moved.high == pytest.approx(plain.high * scale + shift, rel=1e-6, abs=tolerance)


def test_rounding_of_a_bound_far_outside_the_data_is_relative_to_the_bound() -> None:
    array = np.array([0.0, 0.015625, -169.0, 0.0, 0.0, 0.0, 0.0, 1.0])  # found by the test above
    plain = cluster_mean(array, np.arange(8), resamples=500)
    scaled = cluster_mean(array * 0.0234375, np.arange(8), resamples=500)
    assert scaled.low == pytest.approx(plain.low * 0.0234375, rel=1e-6)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_no_values_and_failures_in_disguise_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"must be non-empty|not finite"):
        cluster_mean(values, list(range(len(values))))
