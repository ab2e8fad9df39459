"""Confidence sequences hold under continuous looking, where a fixed interval does not."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from nbench.stats.sequential import FEWEST, confidence_sequence

DRAWS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "skewed": lambda rng, n: rng.exponential(size=n) - 1,
    "tied": lambda rng, n: rng.integers(-1, 2, n).astype(float),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_looking_after_every_prompt_errs_no_more_often_than_stated(kind: str) -> None:
    rng, experiments, wrong = np.random.default_rng(1), 1500, np.zeros(2)
    for _ in range(experiments):
        lower, upper = confidence_sequence(DRAWS[kind](rng, 400))
        wrong += (lower > 0).any(), (upper < 0).any()
    assert (wrong / experiments <= 0.06).all(), wrong / experiments


def test_looking_so_at_a_fixed_interval_errs_far_more_often() -> None:
    rng, experiments, wrong = np.random.default_rng(1), 300, 0
    n = np.arange(1, 401)
    for _ in range(experiments):
        values = rng.normal(size=400)
        means = np.cumsum(values) / n
        wrong += bool((means[FEWEST:] > stats.norm.ppf(0.95) / np.sqrt(n[FEWEST:])).any())
    assert wrong / experiments > 0.12


def test_the_price_is_stated_and_paid_least_at_the_tuned_number() -> None:
    values = np.random.default_rng(0).normal(size=2000)
    widths = {}
    for tuned in (60, 1000):
        lower, upper = confidence_sequence(values, tuned_for=tuned)
        widths[tuned] = upper - lower
    assert widths[60][59] < widths[1000][59] and widths[60][999] > widths[1000][999]
    fixed = 2 * stats.norm.ppf(0.95) * values[:1000].std() / math.sqrt(1000)
    assert 1.2 < widths[1000][999] / fixed < 2.0


def test_nothing_is_said_before_the_fewest_prompts() -> None:
    lower, upper = confidence_sequence(np.arange(60.0))
    assert np.isinf(lower[: FEWEST - 1]).all() and np.isinf(upper[: FEWEST - 1]).all()
    assert np.isfinite(lower[FEWEST - 1 :]).all()
    assert confidence_sequence([])[0].shape == (0,)


def test_equal_differences_are_certain() -> None:
    lower, upper = confidence_sequence(np.full(60, 0.25))
    assert lower[-1] == upper[-1] == 0.25


def test_a_gap_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        confidence_sequence([0.0, math.nan])
