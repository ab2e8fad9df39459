"""Gate verdicts, and how often a gate errs, by simulation."""

import math

import numpy as np
import pytest

from nbench.stats.bootstrap import ratio_interval
from nbench.stats.noninferiority import non_inferiority, overall


@pytest.mark.parametrize(
    ("lower", "upper", "margin", "wanted"),
    [
        (-0.5, 0.5, 1.0, "PASS"),
        (0.1, 0.5, 0.0, "PASS"),
        (-1.0, 0.5, 1.0, "INCONCLUSIVE"),  # exactly at the margin is not shown
        (-2.0, 0.5, 1.0, "INCONCLUSIVE"),
        (-3.0, -1.0, 1.0, "INCONCLUSIVE"),
        (-3.0, -1.1, 1.0, "BREACH"),
        (math.nan, math.nan, 1.0, "INCONCLUSIVE"),
        (0.0, 0.0, 0.0, "INCONCLUSIVE"),
    ],
)
def test_the_verdict_follows_from_the_bounds(lower: float, upper: float, margin: float, wanted: str) -> None:
    assert non_inferiority(lower, upper, margin) == wanted


@pytest.mark.parametrize("margin", [-0.1, math.nan, math.inf])
def test_a_margin_must_be_a_number_from_0_up(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        non_inferiority(0, 0, margin)


def test_the_whole_gate() -> None:
    assert overall(["PASS", "PASS"]) == "PASS"
    assert overall(["PASS", "INCONCLUSIVE"]) == "INCONCLUSIVE"
    assert overall(["INCONCLUSIVE", "BREACH", "PASS"]) == "BREACH"
    assert overall([]) == "INCONCLUSIVE"


@pytest.mark.parametrize("prompts", [30, 200])
@pytest.mark.parametrize("kind", ["normal", "skewed", "tied"])
def test_a_gate_passes_a_checkpoint_at_the_margin_in_at_most_6_percent(kind: str, prompts: int) -> None:
    rng, shape = np.random.default_rng(3), (prompts, 4000)
    noise = {
        "normal": lambda: rng.normal(size=shape),
        "skewed": lambda: 1 - rng.exponential(size=shape),
        "tied": lambda: rng.integers(-1, 2, shape).astype(float),
    }[kind]()
    margin = 0.5
    values = noise - margin  # the true drop is the margin itself
    means = values.mean(axis=0)
    low, high = ratio_interval(values - means, np.ones_like(values), level=0.9, resamples=2000)
    verdicts = [non_inferiority(a, b, margin) for a, b in zip(means + low, means + high, strict=True)]
    assert verdicts.count("PASS") / len(verdicts) <= 0.06
    assert verdicts.count("BREACH") / len(verdicts) <= 0.06
