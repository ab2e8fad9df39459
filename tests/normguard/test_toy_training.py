"""Every method trains on a toy: a mixture of two points in the plane, whose flow has an exact velocity.

The policy is that velocity plus a network that starts at 0, as a LoRA does. The reward is 1 for the right-hand mode. In
two dimensions moving mass needs longer velocities, so that the guard has to be paid for in reward; what is held here is
that losses push the right way and that the hinge holds the norm.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from toy import SIGMAS, Toy, exact

from nbench.normguard.advantage import constant_groups, group_advantages
from nbench.normguard.guards import norm_hinge, ratio_norm
from nbench.normguard.losses import (
    awm_advantage,
    awm_log_prob,
    awm_loss,
    clipped_surrogate,
    dpo_loss,
    grpo_loss,
    nft_loss,
    old_policy_decay,
    optimality,
    sde_log_prob,
    sde_moments,
    sde_step,
)

BATCH, GROUP = 256, 8
STEPS = {"nft": 200, "awm": 200, "dpo": 200, "grpo": 80, "guard": 80}
SDE = {"eta": 0.7, "sigma_first": SIGMAS[1]}

Velocity = Callable[[Tensor, Tensor], Tensor]


def _steps(last: int | None = None) -> list[tuple[Tensor, Tensor]]:
    return list(itertools.pairwise(SIGMAS))[:last]


@torch.no_grad()
def _sample(velocity: Velocity, count: int) -> Tensor:
    x = torch.randn(count, 2)
    for t, t_next in _steps():
        x = x + (t_next - t) * velocity(x, t.expand(count))
    return x


def _reward(x: Tensor) -> Tensor:
    return (x[:, 0] > 0).float()


def _groups(rewards: Tensor) -> Tensor:
    return torch.arange(len(rewards)) // GROUP


def _on_rollouts(policy: Toy, old: Toy, method: str) -> tuple[Tensor, Tensor]:
    """NFT, AWM and DPO: (loss, hinge) on noised samples."""
    x0 = _sample(old if method == "nft" else policy, BATCH)
    rewards = _reward(x0)
    advantage = group_advantages(rewards, _groups(rewards))
    t, eps = 0.05 + 0.95 * torch.rand(BATCH), torch.randn(BATCH, 2)
    if method == "dpo":
        by_group = rewards.view(-1, GROUP)
        start = GROUP * torch.arange(len(by_group))
        pairs = torch.stack([start + by_group.argmax(1), start + by_group.argmin(1)], 1)
        x0 = x0[pairs.flatten()]
        t, eps = (value[: len(pairs)].repeat_interleave(2, 0) for value in (t, eps))  # shared by a pair
    x_t = (1 - t)[:, None] * x0 + t[:, None] * eps
    target, v, ref = eps - x0, policy(x_t, t), exact(x_t, t)
    hinge = norm_hinge(v, ref)
    if method == "nft":
        with torch.no_grad():
            v_old = old(x_t, t)
        return nft_loss(v, v_old, target, t, optimality(advantage)), hinge
    if method == "awm":
        log_prob = awm_log_prob(v, target, t)
        return awm_loss(log_prob, log_prob.detach(), awm_advantage(advantage), clip=1.0), hinge
    win_lose = [value[side::2] for value in (v, ref, target) for side in (0, 1)]
    return dpo_loss(*win_lose, beta=2.0), hinge


def _on_trajectories(policy: Toy, method: str) -> tuple[Tensor, Tensor]:
    """Flow-GRPO and GRPO-Guard: (loss, hinge) over the steps of stochastic trajectories, but the last."""
    states = []
    x = torch.randn(BATCH, 2)
    with torch.no_grad():
        for t, t_next in _steps(-1):
            step = sde_step(x, policy(x, t.expand(BATCH)), t, t_next, noise=torch.randn(BATCH, 2), **SDE)
            states.append((x, t, t_next, step))
            x = step.x_next
        x = x - SIGMAS[-2] * policy(x, SIGMAS[-2].expand(BATCH))
    rewards = _reward(x)
    advantage = group_advantages(rewards, _groups(rewards), clip=5.0)
    losses, hinges = [], []
    for x_t, t, t_next, old in states:
        v = policy(x_t, t.expand(BATCH))
        mean, std = sde_moments(x_t, v, t, t_next, **SDE)
        log_prob, log_prob_old = sde_log_prob(old.x_next, mean, std), sde_log_prob(*old)
        if method == "grpo":
            losses.append(grpo_loss(log_prob, log_prob_old, advantage, clip=1e-4))
        else:
            ratio = ratio_norm(log_prob, log_prob_old, mean, old.mean, std, t_next - t)
            losses.append(ratio.weight * clipped_surrogate(ratio.log_ratio, advantage, clip=2e-6))
        hinges.append(norm_hinge(v, exact(x_t, t.expand(BATCH))))
    return torch.stack(losses), torch.stack(hinges)


def _train(method: str, weight: float | None, steps: int | None = None) -> Toy:
    """A trained policy; weight is lambda of the hinge, None leaves the hinge out."""
    torch.manual_seed(0)
    policy, old = Toy(), Toy()
    old.load_state_dict(policy.state_dict())
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    for step in range(1, (STEPS[method] if steps is None else steps) + 1):
        on_trajectories = method in ("grpo", "guard")
        loss, hinge = _on_trajectories(policy, method) if on_trajectories else _on_rollouts(policy, old, method)
        total = loss.mean() if weight is None else loss.mean() + weight * hinge.mean()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(old.parameters(), policy.parameters(), strict=True):
                slow.lerp_(fast, 1 - old_policy_decay(step))
    return policy


def _mass(velocity: Velocity) -> float:
    """Share of samples in the rewarded mode; its standard error is below 0.008."""
    torch.manual_seed(99)
    return _reward(_sample(velocity, 4000)).mean().item()


@torch.no_grad()
def _norm_ratio(policy: Toy) -> float:
    """Mean over steps of the RMS of the policy's velocity over the base's, on the base's own trajectories."""
    torch.manual_seed(98)
    x = torch.randn(4000, 2)
    ratios = []
    for t, t_next in _steps():
        v_ref = exact(x, t.expand(4000))
        ratios.append(policy(x, t.expand(4000)).square().mean().sqrt() / v_ref.square().mean().sqrt())
        x = x + (t_next - t) * v_ref
    return torch.stack(ratios).mean().item()


def testexact_samples_both_modes_alike() -> None:
    assert _mass(exact) == pytest.approx(0.5, abs=0.03)
    torch.manual_seed(0)
    policy = Toy()
    assert _norm_ratio(policy) == 1.0
    x, t = torch.randn(8, 2), torch.rand(8)
    assert torch.equal(policy(x, t), exact(x, t))
    assert norm_hinge(policy(x, t), exact(x, t)).tolist() == [0.0] * 8
    rewards = torch.tensor([1.0, 1.0, 0.0, 1.0])
    assert constant_groups(rewards, torch.tensor([0, 0, 1, 1])).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("method", "weight"), [("nft", 3.0), ("awm", 0.3), ("dpo", 1.0), ("grpo", 0.2), ("guard", 0.5)]
)
def test_method_raises_the_reward_and_the_hinge_holds_the_norm(method: str, weight: float) -> None:
    free = _train(method, None)
    guarded = _train(method, weight)
    assert _mass(free) > 0.7
    assert _norm_ratio(free) > 1.1
    assert _mass(guarded) > 0.56
    assert _norm_ratio(guarded) < 1.03


@pytest.mark.parametrize("method", ["nft", "awm", "dpo", "grpo", "guard"])
def test_lambda_zero_trains_to_the_same_weights(method: str) -> None:
    free, guarded = _train(method, None, steps=5), _train(method, 0.0, steps=5)
    for mine, other in zip(free.parameters(), guarded.parameters(), strict=True):
        assert torch.equal(mine, other)
    start = _train(method, None, steps=0)
    assert not torch.equal(next(start.parameters()), next(free.parameters()))
