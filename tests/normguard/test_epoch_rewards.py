"""Rewards of all processes become advantages by picture; failures stay out and are counted."""

from __future__ import annotations

import pytest
import torch

from nbench.errors import UsageError
from nbench.normguard.config import AdvantageConfig
from nbench.normguard.epoch_rewards import Row, advantages, term_means
from nbench.normguard.rewards import Rewards

NAN = float("nan")


def test_failed_pictures_get_no_advantage_and_are_counted_by_reason() -> None:
    rows: list[Row] = [(0, 0, 1.0, None), (0, 1, 3.0, None), (1, 0, NAN, "black"), (1, 1, NAN, "black")]
    found, facts = advantages(rows, AdvantageConfig(), first=True)
    assert found[0, 0] == -found[0, 1] != 0
    assert found[1, 0] == found[1, 1] == 0
    assert (facts["samples"], facts["failed"], facts["reasons"]) == (4, 2, {"black": 2})
    assert facts["reward"] == {"mean": 2.0, "std": 1.0}
    assert facts["constant_groups"] == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 0, NAN, "black"), (0, 1, NAN, "white")], "all 2 pictures of the first epoch failed .* because: black"),
        ([(0, 0, 0.5, None), (0, 1, 0.5, None)], r"the reward is the same for all pictures .* \(the first: 0\.5\)"),
    ],
)
def test_a_first_epoch_without_anything_to_learn_from_is_refused_a_later_one_is_not(
    rows: list[Row], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        advantages(rows, AdvantageConfig(), first=True)
    found, _ = advantages(rows, AdvantageConfig(), first=False)
    assert set(found.values()) == {0.0}


def test_term_means_are_those_of_all_processes() -> None:
    rewards = Rewards(torch.zeros(2), {"a": torch.tensor([1.0, NAN]), "b": torch.tensor([NAN, NAN])}, [None, None])
    other = [("a", [4.0, 4.0]), ("b", [])]
    assert term_means(rewards, lambda rows: rows + other) == {"a": 3.0, "b": None}
