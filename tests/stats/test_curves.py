"""Robustness curves: areas, bands, differences in differences, and figures that are no means."""

import math

import numpy as np
import pytest

from nbench.stats.curves import (
    area_difference,
    area_weights,
    band,
    check,
    difference_in_differences,
    estimate,
    retention,
    steps_to_match,
    worst_drop,
)

STEPS = (2, 4, 8, 16)


def curves(shift: float = 0.0, prompts: int = 60, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.log2(STEPS) + shift + rng.normal(0, 0.3, (prompts, 1)) + rng.normal(0, 0.2, (prompts, len(STEPS)))


def test_the_area_is_the_mean_over_log2_steps() -> None:
    assert area_weights(STEPS).tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 3, 1 / 6])
    line = 3 + 2 * np.log2(np.array([4, 10, 28]))
    assert line @ area_weights([4, 10, 28]) == pytest.approx(3 + 2 * (2 + math.log2(28)) / 2)
    assert area_weights([8]).tolist() == [1.0]


def test_the_area_difference_is_paired() -> None:
    base = curves()
    found = area_difference(base, base + 0.1, STEPS)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    apart = area_difference(base, curves(0.1, seed=1), STEPS)
    assert apart.high - apart.low > 0.05


def test_a_band_holds_for_the_whole_curve() -> None:
    truth, held, experiments = np.log2(STEPS), 0, 400
    for seed in range(experiments):
        found = band(curves(seed=seed), resamples=500)
        held += bool(((found.low <= truth) & (truth <= found.high)).all())
    assert 0.92 <= held / experiments <= 0.98


def test_a_gain_that_grows_at_few_steps_is_one_number() -> None:
    base = curves()
    gain = np.array([0.8, 0.5, 0.2, 0.1])
    noise = np.random.default_rng(9).normal(0, 0.1, base.shape)
    found = difference_in_differences(base, base + gain + noise, STEPS, few=2, full=16)
    assert found.mean == pytest.approx(0.7 + (noise[:, 0] - noise[:, 3]).mean())
    assert found.significant and found.high - found.low == pytest.approx(4 * 0.1 * np.sqrt(2 / 60), rel=0.2)
    other = np.random.default_rng(10).normal(0, 0.1, base.shape)
    none = difference_in_differences(base, base + 0.3 + other, STEPS, few=2, full=16)
    assert not none.significant
    with pytest.raises(ValueError):
        difference_in_differences(base, base, STEPS, few=3, full=16)


def test_retention_needs_a_true_zero() -> None:
    assert retention(np.array([1.0, 2.0, 4.0])) == 0.25
    assert np.isnan(retention(np.array([[1.0, 0.0], [1.0, -1.0]]))).all()


def test_the_worst_drop_is_over_step_counts() -> None:
    assert worst_drop(np.array([3.0, 3.0]), np.array([1.0, 4.0])) == 2.0
    assert worst_drop(np.array([3.0, 3.0]), np.array([3.5, 4.0])) == -0.5


@pytest.mark.parametrize(
    ("curve", "target", "wanted"),
    [
        ([1, 2, 3, 4], 2.5, 2**2.5),
        ([1, 2, 3, 4], 0.5, 2),
        ([1, 2, 3, 4], 4, 16),
        ([1, 2, 3, 4], 4.1, math.inf),
        ([1, 3, 2, 4], 2.5, 2**1.75),  # the first time
        ([2, 1, 1, 1], 2, 2),
    ],
)
def test_steps_to_match_interpolates_over_log2_steps(curve: list[float], target: float, wanted: float) -> None:
    found = steps_to_match(np.array([curve], float), np.array([target], float), STEPS)
    assert found[0] == pytest.approx(wanted)


def test_figures_have_intervals_over_prompts() -> None:
    values = np.stack([curves(), curves(0.5, seed=1)])

    def matched(means: np.ndarray) -> np.ndarray:
        return steps_to_match(means[..., 1, :], means[..., 0, -1], STEPS)

    found = estimate(values, matched, resamples=2000)
    assert found.low < found.value < found.high and found.low > 2**3 and found.high < 16
    never = estimate(np.stack([curves(9.0), curves()]), matched, resamples=200)
    assert never.value == never.low == never.high == math.inf


def test_an_interval_of_steps_to_match_covers() -> None:
    truth, covered, experiments = 2 ** (4 - 0.5), 0, 300

    def matched(means: np.ndarray) -> np.ndarray:
        return steps_to_match(means[..., 1, :], means[..., 0, -1], STEPS)

    for seed in range(experiments):
        values = np.stack([curves(seed=2 * seed), curves(0.5, seed=2 * seed + 1)])
        found = estimate(values, matched, resamples=400)
        covered += found.low <= truth <= found.high
    assert 0.91 <= covered / experiments <= 0.98


def test_a_figure_that_resamples_leave_undefined_has_no_interval() -> None:
    values = np.random.default_rng(0).normal(0, 1, (1, 30, 4))
    found = estimate(values, lambda means: retention(means[..., 0, :]), resamples=300)
    assert math.isnan(found.low) and math.isnan(found.high)
    alone = estimate(values[:, :1], lambda means: means[..., 0, 0], resamples=10)
    assert alone.value == values[0, 0, 0] and math.isnan(alone.low)


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        (np.zeros((1, 0, 2)), [2, 4]),
        (np.zeros((1, 3, 2)), [2, 4, 8]),
        (np.full((1, 3, 2), np.nan), [2, 4]),
        (np.zeros((1, 3, 2)), [4, 2]),
        (np.zeros((1, 3, 2)), [0, 2]),
    ],
)
def test_what_is_no_curve_is_refused(values: np.ndarray, steps: list[int]) -> None:
    check(np.zeros((1, 3, 2)), [2, 4])
    with pytest.raises(ValueError):
        check(values, steps)
