"""Group advantages: centring, the scope of the standard deviation, degenerate groups, bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbench.normguard.advantage import constant_groups, group_advantages

REWARDS = torch.tensor([0.1, 0.5, 0.3, 0.9, 0.7, 0.2, 0.4])
GROUPS = torch.tensor([7, 7, 3, 3, 3, 7, 3])

samples = st.lists(st.tuples(st.integers(-3, 3), st.floats(-100, 100, allow_subnormal=False)), min_size=1, max_size=40)


def _columns(drawn: list[tuple[int, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    groups, rewards = zip(*drawn, strict=True)
    return torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups)


def test_known_values_with_the_groups_own_std() -> None:
    found = group_advantages(torch.tensor([1.0, 3.0, 10.0, 10.0, 40.0]), torch.tensor([0, 0, 1, 1, 1]), std="group")
    spread = 200**0.5  # the population's of (10, 10, 40)
    expected = [-1 / 1.0001, 1 / 1.0001, -10 / (spread + 1e-4), -10 / (spread + 1e-4), 20 / (spread + 1e-4)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_global_std_is_the_populations_of_all_raw_rewards() -> None:
    r = REWARDS.double()
    means = {group: r[group == GROUPS].mean() for group in (3, 7)}
    expected = [
        (reward - means[group]) / (r.var(correction=0).sqrt() + 1e-4)
        for reward, group in zip(r, GROUPS.tolist(), strict=True)
    ]
    assert group_advantages(REWARDS, GROUPS).tolist() == pytest.approx([float(a) for a in expected], rel=1e-12)
    apart = REWARDS + 100 * (GROUPS == 3)  # the spread between prompts counts
    assert group_advantages(apart, GROUPS).abs().max() < 0.02
    assert group_advantages(apart, GROUPS, std="group").abs().max() > 1


@given(drawn=samples, std=st.sampled_from(["global", "group"]))
def test_every_group_has_mean_zero(drawn: list[tuple[int, float]], std: str) -> None:
    rewards, groups = _columns(drawn)
    found = group_advantages(rewards, groups, std=std)
    for group in groups.unique():
        assert abs(found[groups == group].mean().item()) < 1e-6


@given(drawn=samples, std=st.sampled_from(["global", "group"]), order=st.randoms(use_true_random=False))
def test_order_of_samples_and_names_of_groups_do_not_matter(
    drawn: list[tuple[int, float]], std: str, order: object
) -> None:
    shuffled = list(enumerate(drawn))
    order.shuffle(shuffled)
    rewards, groups = _columns(drawn)
    moved, moved_groups = _columns([sample for _, sample in shuffled])
    found = group_advantages(moved, moved_groups * 2**40 + 5, std=std)
    expected = group_advantages(rewards, groups, std=std)[[index for index, _ in shuffled]]
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@given(scale=st.floats(0.1, 100), shift=st.floats(-100, 100), std=st.sampled_from(["global", "group"]))
def test_scale_and_shift_of_the_reward_do_not_matter(scale: float, shift: float, std: str) -> None:
    rewards = REWARDS.double()
    found = group_advantages(scale * rewards + shift, GROUPS, std=std, delta=1e-12)
    torch.testing.assert_close(found, group_advantages(rewards, GROUPS, std=std, delta=1e-12), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("std", ["global", "group"])
def test_constant_groups_get_exactly_zero(std: str) -> None:
    rewards = torch.tensor([0.1] * 10 + [0.2, 0.9], dtype=torch.float64)  # 10 times 0.1 does not add up to 1
    groups = torch.tensor([0] * 10 + [1, 1])
    found = group_advantages(rewards, groups, std=std)
    assert found[:10].tolist() == [0.0] * 10
    assert found[10:].abs().min() > 0.5
    assert constant_groups(rewards, groups).tolist() == [True] * 10 + [False] * 2


@pytest.mark.parametrize("std", ["global", "group"])
def test_a_constant_epoch_and_groups_of_one_get_zero(std: str) -> None:
    assert group_advantages(torch.full((6,), 0.3), torch.tensor([0, 0, 0, 1, 1, 1]), std=std).tolist() == [0] * 6
    assert group_advantages(torch.tensor([0.3, 0.9, -4.0]), torch.tensor([0, 1, 2]), std=std).tolist() == [0] * 3
    assert group_advantages(torch.tensor([0.3]), torch.tensor([0]), std=std).tolist() == [0]


def test_clip_bounds_both_sides() -> None:
    rewards = torch.tensor([0.0] * 60 + [1.0] + [0.0] + [1.0] * 60)
    groups = torch.tensor([0] * 61 + [1] * 61)
    free = group_advantages(rewards, groups, std="group")
    clipped = group_advantages(rewards, groups, std="group", clip=5.0)
    assert free.max() > 7
    assert free.min() < -7
    assert torch.equal(clipped, free.clamp(-5, 5))


def test_rewards_of_any_dtype_are_taken_in_float64() -> None:
    assert group_advantages(torch.tensor([1, 2, 3]), torch.tensor([0, 0, 0])).dtype == torch.float64
    near = 1e4 + torch.tensor([0.0, 0.001, 0.002], dtype=torch.float64)
    found = group_advantages(near, torch.tensor([0, 0, 0]), delta=1e-12)
    assert found.tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5], abs=1e-6)


def test_large_group_ids_stay_apart() -> None:
    groups = torch.tensor([2**60, 2**60, 2**60 + 1, 2**60 + 1])  # one number in float32, and in float64
    assert group_advantages(torch.tensor([0.0, 0.0, 1.0, 1.0]), groups).tolist() == [0, 0, 0, 0]


def test_advantages_carry_no_graph() -> None:
    assert not group_advantages(REWARDS.clone().requires_grad_(), GROUPS).requires_grad


@pytest.mark.parametrize("function", [group_advantages, constant_groups])
def test_bad_samples_are_named(function: object) -> None:
    with pytest.raises(ValueError, match=r"rewards has shape \(2,\) and groups \(3,\)"):
        function(torch.zeros(2), torch.tensor([0, 0, 0]))
    with pytest.raises(ValueError, match="one of each per sample"):
        function(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="There are no rewards"):
        function(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    for dtype in (torch.float32, torch.float64, torch.bool):
        with pytest.raises(ValueError, match="integer id per prompt"):
            function(torch.zeros(2), torch.zeros(2, dtype=dtype))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="2 of 3 rewards are NaN or infinite"):
            function(torch.tensor([bad, 1.0, bad]), torch.tensor([0, 0, 0]))


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"Unknown scope 'prompt' .* Known: global, group"):
        group_advantages(REWARDS, GROUPS, std="prompt")
    for delta in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="delta is"):
            group_advantages(REWARDS, GROUPS, delta=delta)
    for clip in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="clip is"):
            group_advantages(REWARDS, GROUPS, clip=clip)
