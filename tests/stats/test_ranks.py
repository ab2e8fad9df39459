"""Ranks with intervals, and groups that share a rank."""

import numpy as np
import pytest

from nbench.stats.ranks import rank


def table(means: list[float], prompts: int = 80, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array(means)[:, None] + rng.normal(size=(1, prompts)) + 0.3 * rng.normal(size=(len(means), prompts))


def test_clear_differences_give_each_its_rank_and_group() -> None:
    found = rank(table([1.0, 3.0, 2.0]))
    assert [(one.rank, one.low, one.high, one.group) for one in found] == [(3, 3, 3, 3), (1, 1, 1, 1), (2, 2, 2, 2)]


def test_checkpoints_that_cannot_be_told_apart_share_a_group() -> None:
    found = rank(table([1.0, 1.01, 3.0]))
    assert found[2].group == 1 and found[0].group == found[1].group == 2
    assert {found[0].low, found[1].low} == {2} and {found[0].high, found[1].high} == {3}


def test_equal_checkpoints_are_told_apart_in_one_run_of_twenty_at_most() -> None:
    told = [max(one.group for one in rank(table([0.0] * 4, 40, seed), resamples=400)) > 1 for seed in range(400)]
    assert np.mean(told) <= 0.07


def test_identical_checkpoints_share_rank_and_group() -> None:
    found = rank(np.ones((3, 10)))
    assert {(one.rank, one.group) for one in found} == {(1, 1)}


def test_one_prompt_ranks_nothing_for_certain() -> None:
    found = rank(np.array([[1.0], [2.0]]))
    assert [(one.rank, one.low, one.high, one.group) for one in found] == [(2, 1, 2, 1), (1, 1, 2, 1)]


def test_one_checkpoint_is_first() -> None:
    (found,) = rank(table([1.0]))
    assert (found.rank, found.low, found.high, found.group) == (1, 1, 1, 1)


def test_nothing_cannot_be_ranked() -> None:
    with pytest.raises(ValueError):
        rank(np.zeros((0, 5)))
