import math

import pytest

from nbench.scoring.scorer import Score


def test_a_score_is_a_value_or_a_reason_never_both_or_neither() -> None:
    with pytest.raises(ValueError, match="either values or a reason"):
        Score()
    with pytest.raises(ValueError, match="either values or a reason"):
        Score(values={"": 1.0}, reason="why")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_refuses_numbers_that_are_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match="report a reason"):
        Score.of(value)


def test_a_failed_score_has_a_reason_and_no_value() -> None:
    score = Score.failed("the server was down")
    assert not score.ok
    assert score.values is None
    assert score.reason == "the server was down"
