"""Planned power is the power that gates have."""

import math

import numpy as np
import pytest

from nbench.stats.bootstrap import ratio_interval
from nbench.stats.power import Variances, detectable_drop, from_base, power, prompts_needed, variances


@pytest.mark.parametrize(("seeds", "margin", "drop"), [(1, 0.4, 0.0), (4, 0.25, 0.0), (2, 0.6, 0.2)])
def test_a_gate_has_the_power_that_was_planned(seeds: int, margin: float, drop: float) -> None:
    spread = Variances(between=0.6, within=1.0)
    prompts = prompts_needed(spread, margin, seeds=seeds, target=0.8, drop=drop)
    assert prompts is not None and 15 < prompts < 200
    rng, experiments = np.random.default_rng(0), 2500
    values = rng.normal(-drop, math.sqrt(spread.between), (prompts, experiments))
    values += rng.normal(0, math.sqrt(spread.within / seeds), (prompts, experiments))
    means = values.mean(axis=0)
    low, _ = ratio_interval(values - means, np.ones_like(values), level=0.9, resamples=1500)
    assert (means + low > -margin).mean() == pytest.approx(0.8, abs=0.05)


def test_the_number_is_the_least_that_is_enough() -> None:
    spread = Variances(1.0, 0.0)
    found = prompts_needed(spread, 0.3)
    assert found is not None
    assert power(spread.standard_error(found, 1), 0.3, prompts=found) >= 0.8
    assert power(spread.standard_error(found - 1, 1), 0.3, prompts=found - 1) < 0.8


def test_more_seeds_help_only_against_variance_within_prompts() -> None:
    assert prompts_needed(Variances(1.0, 0.0), 0.3, seeds=8) == prompts_needed(Variances(1.0, 0.0), 0.3)
    few, many = (prompts_needed(Variances(0.1, 1.0), 0.3, seeds=seeds) for seeds in (8, 1))
    assert few is not None and many is not None and few < many / 3


def test_what_cannot_be_planned() -> None:
    assert prompts_needed(Variances(1.0, 1.0), 1e-5, most=10_000) is None
    assert prompts_needed(Variances(0.0, 0.0), 0.1) == 2
    with pytest.raises(ValueError, match="can never be shown"):
        prompts_needed(Variances(1.0, 1.0), 0.1, drop=0.1)


def test_the_detectable_drop_is_detected_as_often_as_stated() -> None:
    error, prompts = 0.1, 40
    drop = detectable_drop(error, prompts=prompts)
    assert power(error, drop, prompts=prompts) == pytest.approx(0.8, abs=1e-6)
    assert detectable_drop(2 * error, prompts=prompts) == pytest.approx(2 * drop, rel=1e-6)
    assert detectable_drop(0.0, prompts=prompts) == 0.0 and math.isnan(detectable_drop(error, prompts=1))


def test_variances_are_found_again() -> None:
    rng = np.random.default_rng(4)
    sizes = rng.integers(1, 7, 3000)
    clusters = np.repeat(np.arange(3000), sizes)
    values = np.repeat(rng.normal(0, 1.5, 3000), sizes) + rng.normal(0, 0.7, len(clusters))
    found = variances(values, clusters.tolist())
    assert found.between == pytest.approx(2.25, rel=0.08) and found.within == pytest.approx(0.49, rel=0.08)


def test_one_seed_per_prompt_counts_as_between() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert variances(values, range(50)) == Variances(pytest.approx(values.var(ddof=1)), 0.0)


def test_equal_prompts_give_no_negative_variance() -> None:
    assert variances([1.0, -1.0, 1.0, -1.0], "aabb").between == 0.0


def test_a_plan_from_the_base_alone_scales_its_variance() -> None:
    rng = np.random.default_rng(0)
    scores, clusters = rng.normal(size=80), [i // 4 for i in range(80)]
    whole, half = variances(scores, clusters), from_base(scores, clusters)
    assert half == whole
    assert from_base(scores, clusters, correlation=1.0) == Variances(0.0, 0.0)
    assert from_base(scores, clusters, correlation=0.0).within == pytest.approx(2 * whole.within)
    with pytest.raises(ValueError, match="correlation"):
        from_base(scores, clusters, correlation=1.5)


@pytest.mark.parametrize("values", [[1.0], [1.0, math.nan], []])
def test_variances_of_too_little_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError):
        variances(values, range(len(values)))
