"""Coherence: known values, clusters, and a batch that agrees against one that does not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbench.errors import UsageError
from nbench.normguard.analysis.adjoint import Sensitivity
from nbench.normguard.analysis.coherence import coherence, summarise_sensitivity


def test_with_one_value_per_prompt_it_is_the_t_statistic() -> None:
    values = np.array([1.0, 2.0, 4.0, -1.0, 3.0])
    found = coherence(values, list("abcde"))
    assert found.ratio == pytest.approx(values.mean() / (values.std(ddof=1) / math.sqrt(5)))
    assert found.agreement == 0.8


def test_repeating_a_prompt_adds_no_evidence() -> None:
    values, prompts = np.array([1.0, 2.0, 4.0, -1.0]), np.array(list("abcd"))
    assert coherence(np.repeat(values, 3), np.repeat(prompts, 3)).ratio == pytest.approx(
        coherence(values, prompts).ratio
    )


def test_the_sign_does_not_matter() -> None:
    values = [1.0, 2.0, -0.5, 0.1]
    assert coherence(values, range(4)) == coherence([-value for value in values], range(4))


def test_one_prompt_or_no_spread_has_no_ratio() -> None:
    assert math.isnan(coherence([1.0, 2.0], ["a", "a"]).ratio)
    assert math.isnan(coherence([1.0, 1.0], ["a", "b"]).ratio)
    with pytest.raises(ValueError, match="one length"):
        coherence([1.0], ["a", "b"])


def _sensitivity(shift: float, samples: int = 40, steps: int = 3) -> Sensitivity:
    generator = np.random.default_rng(0)
    values = shift + generator.standard_normal((samples, steps))
    controls = generator.standard_normal((16, samples, steps))
    ids = tuple(f"p{i}" for i in range(samples))
    return Sensitivity(np.linspace(1, 0.2, steps), ids, (0,) * samples, np.ones(samples), values, controls)


def test_a_common_direction_stands_out_from_random_directions() -> None:
    lines = summarise_sensitivity(_sensitivity(2.0))
    assert [line.step for line in lines] == [None, 0, 1, 2]
    for line in lines:
        assert line.coherence.ratio > 8 > 2 > line.control.ratio
        assert line.coherence.agreement > 0.9 > 0.65 > line.control.agreement
        assert line.mean.low > 0
    assert lines[0].mean.mean == pytest.approx(sum(line.mean.mean for line in lines[1:]))


def test_noise_looks_like_the_control() -> None:
    for line in summarise_sensitivity(_sensitivity(0.0)):
        assert line.coherence.ratio < 3.5 and line.control.ratio < 2


def test_failed_samples_are_left_out_and_counted() -> None:
    found = _sensitivity(2.0)
    found.rewards[:5], found.values[:5], found.controls[:, :5] = np.nan, np.nan, np.nan
    line = summarise_sensitivity(found)[0]
    assert line.failed == 5 and line.mean.values == 35 and math.isfinite(line.control.ratio)
    found.rewards[:] = np.nan
    with pytest.raises(UsageError, match="no sample"):
        summarise_sensitivity(found)
