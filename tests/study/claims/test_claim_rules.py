"""From intervals to verdicts."""

from __future__ import annotations

import pytest

from nbench.study.claims.claim import Effect, Verdict
from nbench.study.claims.rules import agreed, all_hold, beyond, negligible, no_gain, non_inferior, superiority


def _effect(low: float | None, high: float | None) -> Effect:
    middle = 0.0 if low is None or high is None else (low + high) / 2
    return Effect(middle, low, high, "sd of the base", 48, 6)


@pytest.mark.parametrize(
    ("low", "high", "superior", "inferior", "gainless", "small"),
    [
        (0.2, 0.4, "holds", "holds", "does not hold", "does not hold"),
        (0.02, 0.08, "holds", "holds", "holds", "holds"),
        (0.05, 0.14, "holds", "holds", "does not hold", "cannot tell"),
        (-0.05, 0.05, "does not hold", "holds", "holds", "holds"),
        (-0.05, 0.15, "cannot tell", "holds", "cannot tell", "cannot tell"),
        (-0.15, 0.05, "does not hold", "cannot tell", "holds", "cannot tell"),
        (-0.4, -0.2, "does not hold", "does not hold", "holds", "does not hold"),
        (-0.14, -0.05, "does not hold", "cannot tell", "holds", "cannot tell"),
    ],
)
def test_each_rule_has_three_answers(
    low: float, high: float, superior: Verdict, inferior: Verdict, gainless: Verdict, small: Verdict
) -> None:
    effect = _effect(low, high)
    assert superiority(effect, 0.1) == superior
    assert non_inferior(effect, 0.1) == inferior
    assert no_gain(effect, 0.1) == gainless
    assert negligible(effect, 0.1) == small


@pytest.mark.parametrize("effect", [None, _effect(None, None)])
def test_without_an_interval_nothing_can_be_told(effect: Effect | None) -> None:
    assert {rule(effect, 0.1) for rule in (superiority, non_inferior, no_gain, negligible, beyond)} == {"cannot tell"}


def test_beyond_a_limit_on_either_side() -> None:
    assert beyond(_effect(1.6, 2.0), 1.5) == "holds"
    assert beyond(_effect(1.0, 1.4), 1.5) == "does not hold"
    assert beyond(_effect(1.4, 1.6), 1.5) == "cannot tell"
    assert beyond(_effect(-2.0, -1.0), 0.0, side=-1) == "holds"
    assert beyond(_effect(1.0, 2.0), 0.0, side=-1) == "does not hold"


def test_verdicts_together() -> None:
    assert all_hold(["holds", "holds"]) == agreed(["holds", "holds"]) == "holds"
    assert all_hold(["holds", "does not hold"]) == "does not hold"
    assert agreed(["holds", "does not hold"]) == "cannot tell"
    assert all_hold(["holds", "cannot tell"]) == agreed(["does not hold", "cannot tell"]) == "cannot tell"
    assert all_hold([]) == agreed([]) == "cannot tell"
