"""NFT and AWM in a training: what is trained on, what it is compared with, and how the other roles follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from train_parts import NAN, bank_of, change, config, epoch_of, policy_of, velocities

from nbench.normguard.config import TrainConfig
from nbench.normguard.guards import reference_kl
from nbench.normguard.losses import awm_advantage, awm_log_prob, awm_loss, nft_loss, optimality
from nbench.normguard.losses.reduce import mse
from nbench.normguard.methods import Draw, Method, make_method
from nbench.normguard.policy import Policy
from nbench.testing import FakeFlowModel

REWARDS = [1.0, 2.0, 3.0, 0.5, 0.5, 0.5]
UNITS = [(0,), (1,), (2,), (3,), (4,), (5,)]


def prepared(folder: Path, settings: TrainConfig) -> tuple[Method, Policy, Draw]:
    """A method, its policy, and a draw of all pictures of an epoch."""
    method = make_method(settings)
    policy = policy_of(folder, (*method.roles, "ema"))
    view = policy.view(method.rollout_role)
    epoch = epoch_of(view, settings, REWARDS)
    assert method.units(epoch) == UNITS
    return method, policy, method.draw(epoch, UNITS, 0, bank_of(view))


def awm(updates: int = 1, **settings: Any) -> TrainConfig:
    return config({"name": "awm", **settings}, optim__updates_per_epoch=updates)


@pytest.mark.parametrize("name", ["nft", "awm"])
def test_constant_groups_stay_and_failed_pictures_do_not(name: str) -> None:
    settings = config(name)
    epoch = epoch_of(FakeFlowModel(), settings, [1.0, NAN, 3.0, 0.5, 0.5, NAN])
    assert make_method(settings).units(epoch) == [(0,), (2,), (3,), (4,)]
    assert epoch.advantages[[3, 4]].tolist() == [0, 0]


# NFT.


def test_nft_rolls_out_with_the_old_policy_and_compares_with_it() -> None:
    method = make_method(config("nft"))
    assert (method.roles, method.rollout_role, method.forwards) == (("old",), "old", ("old",))


def test_nft_is_its_pure_loss(sd3_folder: Path) -> None:
    settings = config({"name": "nft", "beta": 0.3, "adv_clip": 2.0, "adv_mode": "positive_only"})
    method, policy, draw = prepared(sd3_folder, settings)
    change(policy)
    v = velocities(policy, method, draw)
    result = method.loss(draw, v)
    r = optimality(draw.advantage, adv_clip=2.0, mode="positive_only")
    assert r[3:].tolist() == [0.5] * 3 and r[2] > 0.6
    wanted = nft_loss(v["policy"], v["old"], draw.target, draw.t, r, beta=0.3, adv_clip=2.0)
    assert torch.equal(result.rows, wanted)
    assert torch.equal(result.stats["old_distance"], mse(v["policy"].detach(), v["old"]))
    assert result.stats["old_distance"].min() > 0
    assert not any(value.requires_grad for value in result.stats.values())


def test_the_first_nft_step_pushes_by_advantage_and_constant_groups_do_not_push(sd3_folder: Path) -> None:
    method, policy, draw = prepared(sd3_folder, config("nft"))
    v = velocities(policy, method, draw)
    leaf = v["policy"].detach().requires_grad_()
    assert torch.equal(leaf, v["old"])
    method.loss(draw, {**v, "policy": leaf}).rows.sum().backward()
    gradient = leaf.grad
    assert gradient is not None
    assert gradient[3:].abs().max() == 0  # r = 1/2 at theta = old
    t = draw.t.double().view(-1, 1, 1, 1)
    error = (v["old"] - draw.target).double()
    width = (t * error.abs().flatten(1).mean(1).view(-1, 1, 1, 1)).clamp_min(1e-5)
    wanted = 2 * draw.advantage.view(-1, 1, 1, 1) * t**2 * error / (width * error[0].numel())
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("schedule", "step", "decay"), [(0, 100, 0.0), (1, 100, 0.1), (2, 100, 0.1875), (1, 900, 0.5)])
def test_the_old_policy_follows_after_an_epoch_by_its_schedule(
    sd3_folder: Path, schedule: int, step: int, decay: float
) -> None:
    method = make_method(config({"name": "nft", "old_decay": schedule}))
    policy = policy_of(sd3_folder)
    change(policy, "policy", seed=1)
    change(policy, "old", seed=2)
    before = {name: tensor.detach().clone() for name, tensor in policy.tensors("old").items()}
    method.before_updates(policy)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.tensors("old").items())
    method.after_epoch(policy, step)
    for name, tensor in policy.tensors("old").items():
        wanted = decay * before[name] + (1 - decay) * policy.tensors("policy")[name]
        torch.testing.assert_close(tensor, wanted, rtol=1e-6, atol=1e-7)


# AWM.


@pytest.mark.parametrize(
    ("updates", "anchor", "roles"),
    [(1, 0.0, ()), (2, 0.0, ("old",)), (1, 0.5, ("anchor",)), (3, 1.0, ("old", "anchor"))],
)
def test_awm_keeps_only_the_roles_that_it_needs(updates: int, anchor: float, roles: tuple[str, ...]) -> None:
    method = make_method(awm(updates, anchor_weight=anchor))
    assert method.roles == method.forwards == roles
    assert method.rollout_role == "policy"


def test_one_update_per_rollout_has_a_ratio_of_exactly_one(sd3_folder: Path) -> None:
    method, policy, draw = prepared(sd3_folder, awm())
    change(policy)
    result = method.loss(draw, velocities(policy, method, draw))
    assert result.stats["ratio_distance"].tolist() == [0] * 6
    assert torch.equal(result.rows.detach(), -awm_advantage(draw.advantage))
    assert result.rows.requires_grad


def test_awm_is_its_pure_loss(sd3_folder: Path) -> None:
    chosen: dict[str, Any] = {"weighting": "t2", "clip": 1e-3, "advantage_max": 2.0, "anchor_weight": 0.7}
    method, policy, draw = prepared(sd3_folder, awm(2, **chosen))
    change(policy, size=0.02)
    v = velocities(policy, method, draw)
    result = method.loss(draw, v)
    log_prob, old = (awm_log_prob(v[role], draw.target, draw.t, weighting="t2") for role in ("policy", "old"))
    advantage = awm_advantage(draw.advantage, advantage_max=2.0)
    anchor = reference_kl(v["policy"], v["anchor"], draw.t)
    assert torch.equal(result.rows, awm_loss(log_prob, old, advantage, clip=1e-3) + 0.7 * anchor)
    assert torch.equal(result.stats["anchor_distance"], anchor)
    assert result.stats["anchor_distance"].min() > 0
    assert torch.equal(result.stats["ratio_distance"], ((log_prob - old).exp() - 1).abs())


def test_several_updates_are_compared_with_the_weights_that_the_epoch_began_with(sd3_folder: Path) -> None:
    method, policy, draw = prepared(sd3_folder, awm(2))
    change(policy)
    start = {name: tensor.detach().clone() for name, tensor in policy.tensors("policy").items()}
    stale = method.loss(draw, velocities(policy, method, draw))
    assert stale.stats["ratio_distance"].max() > 1e-5  # "old" is still the base
    method.before_updates(policy)
    first = method.loss(draw, velocities(policy, method, draw))
    assert first.stats["ratio_distance"].tolist() == [0] * 6  # theta = old
    change(policy, seed=2)
    second = method.loss(draw, velocities(policy, method, draw))
    assert second.stats["ratio_distance"].max() > 1e-5
    assert all(torch.equal(tensor, start[name]) for name, tensor in policy.tensors("old").items())
    method.after_epoch(policy, 2)
    assert all(torch.equal(tensor, start[name]) for name, tensor in policy.tensors("old").items())
    method.before_updates(policy)  # of the next epoch
    source = policy.tensors("policy")
    assert all(torch.equal(tensor, source[name]) for name, tensor in policy.tensors("old").items())


@pytest.mark.parametrize(("step", "decay"), [(0, 0.0), (100, 0.1), (1000, 0.3)])
def test_the_anchor_follows_slowly(sd3_folder: Path, step: int, decay: float) -> None:
    method = make_method(awm(anchor_weight=1.0))
    policy = policy_of(sd3_folder, ("anchor",))
    change(policy)
    before = {name: tensor.detach().clone() for name, tensor in policy.tensors("anchor").items()}
    method.before_updates(policy)
    method.after_epoch(policy, step)
    for name, tensor in policy.tensors("anchor").items():
        wanted = decay * before[name] + (1 - decay) * policy.tensors("policy")[name]
        torch.testing.assert_close(tensor, wanted, rtol=1e-6, atol=1e-7)


def test_without_an_anchor_nothing_follows(sd3_folder: Path) -> None:
    policy = policy_of(sd3_folder, ("ema",))
    change(policy)
    before = {name: tensor.detach().clone() for name, tensor in policy.tensors("ema").items()}
    method = make_method(awm())
    method.before_updates(policy)
    method.after_epoch(policy, 5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.tensors("ema").items())
