"""AUC by counting pairs, its interval's coverage, and reliability."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbench.scoring.realism.roc import auc, calibration_error, reliability

scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@given(scores, scores)
def test_auc_is_the_share_of_pairs_in_the_right_order_with_ties_half(real: list[float], fake: list[float]) -> None:
    pairs = [(a > b) + 0.5 * (a == b) for a in real for b in fake]
    assert auc(real, fake, resamples=1).value == pytest.approx(float(np.mean(pairs)))


@given(scores, scores)
def test_auc_of_the_negated_score_is_the_complement(real: list[float], fake: list[float]) -> None:
    turned = auc([-a for a in real], [-b for b in fake], resamples=1)
    assert turned.value == pytest.approx(1 - auc(real, fake, resamples=1).value)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(5)
    truth, covered = 0.7602499, 0  # Phi(1 / sqrt 2) for two unit normals one apart
    for trial in range(200):
        found = auc(draw.normal(1, 1, 60), draw.normal(0, 1, 60), resamples=300, seed=trial)
        covered += found.low <= truth <= found.high
    assert 180 <= covered <= 199


def test_pictures_of_one_group_do_not_count_as_independent() -> None:
    draw = np.random.default_rng(1)
    real, fake = draw.normal(1, 1, 20), draw.normal(0, 1, 20)
    alone = auc(real, fake)
    groups = np.repeat(np.arange(20), 8)
    copied = auc(np.repeat(real, 8), np.repeat(fake, 8), real_groups=groups, fake_groups=groups)
    naive = auc(np.repeat(real, 8), np.repeat(fake, 8))
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert naive.high - naive.low < 0.6 * (copied.high - copied.low)


def test_the_interval_is_repeatable_and_missing_for_a_single_group() -> None:
    assert auc([1, 2, 3], [0, 1.5], seed=3) == auc([1, 2, 3], [0, 1.5], seed=3)
    single = auc([1, 2], [0, 0], real_groups=["a", "a"])
    assert single.value == 1.0 and np.isnan(single.low) and np.isnan(single.high)


@pytest.mark.parametrize(("real", "fake"), [([], [1.0]), ([1.0], []), ([float("nan")], [1.0])])
def test_what_has_no_auc_is_refused(real: list[float], fake: list[float]) -> None:
    with pytest.raises(ValueError, match=r"an AUC needs|not finite"):
        auc(real, fake)


def test_honest_log_odds_have_a_small_calibration_error_and_doubled_ones_a_large_one() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 2, 20_000)
    truth = draw.random(20_000) < 1 / (1 + np.exp(-logits))
    assert calibration_error(reliability(logits, truth)) < 0.015
    assert calibration_error(reliability(2 * logits, truth)) > 0.05
    assert calibration_error(reliability(-logits, truth)) > 0.4


def test_bins_are_equally_full_and_ordered() -> None:
    bins = reliability(np.arange(-10, 11), np.arange(-10, 11) > 0, bins=4)
    assert [one.count for one in bins] == [6, 5, 5, 5]
    assert [one.predicted for one in bins] == sorted(one.predicted for one in bins)
    assert bins[0].observed == 0 and bins[-1].observed == 1
