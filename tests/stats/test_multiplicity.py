"""Family errors of max-T by simulation; Holm against published arithmetic."""

import math

import numpy as np
import pytest

from nbench.stats.multiplicity import holm, max_t
from nbench.stats.paired import Columns, bounds


def family(rng: np.random.Generator, prompts: int, columns: int, shared: float) -> Columns:
    common = rng.normal(size=(prompts, 1))
    values = math.sqrt(shared) * common + math.sqrt(1 - shared) * rng.normal(size=(prompts, columns))
    return Columns(values, np.ones_like(values))


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_the_family_error_is_the_stated_one(shared: float) -> None:
    rng, wrong = np.random.default_rng(1), np.zeros(3)
    experiments = 1200
    for _ in range(experiments):
        found = max_t(family(rng, 40, 6, shared), resamples=600)
        wrong += ((found.low > 0) | (found.high < 0)).any(), (found.lower > 0).any(), (found.upper < 0).any()
    assert ((wrong / experiments >= 0.03) & (wrong / experiments <= 0.07)).all(), wrong / experiments


def test_columns_that_say_the_same_cost_nothing() -> None:
    one = family(np.random.default_rng(0), 60, 1, 0.0)
    five = Columns(np.repeat(one.sums, 5, axis=1), np.repeat(one.counts, 5, axis=1))
    assert max_t(five).low == pytest.approx(np.repeat(max_t(one).low, 5))


def test_simultaneous_bounds_are_wider_than_each_for_itself() -> None:
    columns = family(np.random.default_rng(2), 60, 8, 0.0)
    low, _ = bounds(columns)
    together = max_t(columns)
    assert (together.low < low).all() and (together.low < together.lower).all()
    assert (together.lower < together.means).all() and (together.means < together.upper).all()


def test_few_clusters_fall_back_to_bonferroni_on_student_t() -> None:
    from scipy import stats

    columns = family(np.random.default_rng(3), 5, 3, 0.0)
    found = max_t(columns)
    reach = stats.t.ppf(1 - 0.05 / 6, 4) * stats.sem(columns.sums, axis=0)
    assert found.high - found.means == pytest.approx(reach)


def test_columns_without_spread() -> None:
    values = np.tile([0.0, 2.0], (20, 1))
    found = max_t(Columns(values, np.ones_like(values)))
    assert found.low.tolist() == found.high.tolist() == [0.0, 2.0]
    mixed = np.stack([np.zeros(20), np.arange(20.0)], axis=1)
    found = max_t(Columns(mixed, np.ones_like(mixed)))
    assert found.low[0] == 0.0 and found.low[1] < 9.5 < found.high[1]
    assert np.isnan(max_t(Columns(values[:1], np.ones((1, 2)))).low).all()
    with pytest.raises(ValueError, match="nothing to compare"):
        max_t(Columns(np.zeros((3, 0)), np.zeros((3, 0))))


def test_holm_by_hand() -> None:
    # Four sorted p-values are multiplied by 4, 3, 2, 1, and kept from falling.
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0] and holm([]).tolist() == []
    with pytest.raises(ValueError):
        holm([0.5, math.nan])
