"""Flow-GRPO in a training: the steps it is trained at, and a log-ratio that is 0 until the policy changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from train_parts import NAN, SIZE, bank_of, change, config, epoch_of, members, policy_of, velocities

from nbench.normguard.config import TrainConfig
from nbench.normguard.guards import ratio_norm, state_kl
from nbench.normguard.losses import grpo_loss, sde_log_prob, sde_moments
from nbench.normguard.methods import Draw, Epoch, Method, make_method
from nbench.normguard.policy import Policy
from nbench.normguard.rollout import roll_out
from nbench.testing import FakeFlowModel

REWARDS = [1.0, 3.0, 2.5, 0.9, 0.1, 0.6]
UNITS = [(0,), (1,), (2,), (3,), (4,), (5,)]
GUARD, KL = {"name": "ratio_norm"}, {"name": "state_kl", "weight": 0.3}


def grpo(*guards: dict[str, Any], **settings: Any) -> TrainConfig:
    return config({"name": "grpo", **settings}, guards=list(guards))


def prepared(folder: Path, settings: TrainConfig) -> tuple[Method, Policy, Epoch]:
    method = make_method(settings)
    policy = policy_of(folder, ("ema",))
    change(policy, seed=7)  # the old policy is any policy, not the base
    return method, policy, epoch_of(policy.view(method.rollout_role), settings, REWARDS)


def draws(method: Method, policy: Policy, epoch: Epoch, units: list[tuple[int, ...]] = UNITS) -> list[Draw]:
    return [method.draw(epoch, units, index, bank_of(policy.view("policy"))) for index in range(3)]


# What is trained on.


def test_only_rewarded_pictures_of_groups_that_differ_are_trained_on() -> None:
    settings = grpo()
    epoch = epoch_of(FakeFlowModel(), settings, [1.0, NAN, 3.0, 2.0, 2.0, 2.0, 5.0, NAN, NAN], groups=3)
    assert make_method(settings).units(epoch) == [(0,), (2,)]


@pytest.mark.parametrize(("skip_last", "noisy"), [(0, 4), (1, 3), (3, 1)])
def test_every_noisy_step_of_a_picture_is_drawn_once(skip_last: int, noisy: int) -> None:
    settings = config({"name": "grpo", "skip_last": skip_last}, times__count=noisy)
    model = FakeFlowModel()
    epoch, method = epoch_of(model, settings, REWARDS), make_method(settings)
    paths = epoch.rollout.paths
    assert paths is not None
    steps: list[Tensor] = []
    for index in range(noisy):
        draw = method.draw(epoch, UNITS, index, bank_of(model))
        assert draw.step is not None
        steps.append(draw.step)
        for i, step in enumerate(draw.step.tolist()):
            assert torch.equal(draw.x[i], paths.states[step, i])
            assert torch.equal(draw.extra["next"][i], paths.states[step + 1, i])
            assert torch.equal(draw.extra["velocity"][i], paths.velocities[step, i])
            assert (draw.t[i], draw.extra["sigma_next"][i]) == (paths.sigmas[step], paths.sigmas[step + 1])
            assert draw.extra["sigma_first"][i] == paths.sigmas[1]
        assert torch.equal(draw.advantage, epoch.advantages)
    orders = torch.stack(steps)
    assert torch.equal(orders.sort(0).values, torch.arange(noisy).unsqueeze(1).expand(noisy, 6))
    if noisy > 2:
        assert len({tuple(order.tolist()) for order in orders.T}) > 1  # each picture has an order of its own


def test_a_rows_draw_does_not_depend_on_its_batch() -> None:
    model, settings = FakeFlowModel(), grpo()
    epoch, method = epoch_of(model, settings, REWARDS), make_method(settings)
    whole = method.draw(epoch, UNITS, 1, bank_of(model))
    alone = method.draw(epoch, UNITS[4:5], 1, bank_of(model))
    assert torch.equal(alone.x[0], whole.x[4]) and alone.t[0] == whole.t[4]
    assert torch.equal(alone.extra["next"][0], whole.extra["next"][4])


# The loss at theta = old. A training batch is made up otherwise than the rollout's, so that velocities of size 1 differ
# by rounding, about 1e-6; over a standard deviation of 0.2 or more and averaged over D that moves a log-probability by
# less than 1e-6, a hundredth of the smallest public clip of the plain ratio (1e-4).
TOLERANCE = 1e-6


@pytest.mark.parametrize("sampler", ["sde", "cps"])
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_the_log_ratio_is_zero_until_the_policy_changes(
    family: str, sampler: str, sd3_folder: Path, flux_folder: Path
) -> None:
    settings = grpo(sampler=sampler)
    method, policy, epoch = prepared({"sd3": sd3_folder, "flux": flux_folder}[family], settings)
    for units in (UNITS, UNITS[3:4]):  # the rollout's batch size, and another
        for draw in draws(method, policy, epoch, units):
            result = method.loss(draw, velocities(policy, method, draw))
            assert result.stats["log_ratio"].abs().max() < TOLERANCE
            assert result.stats["clipped"].tolist() == [0] * len(units)
            torch.testing.assert_close(result.rows.detach(), -draw.advantage, rtol=0, atol=5 * TOLERANCE)
            assert result.rows.requires_grad
    change(policy)
    moved = [method.loss(d, velocities(policy, method, d)).stats for d in draws(method, policy, epoch)]
    assert max(float(stats["log_ratio"].abs().max()) for stats in moved) > 1e-3
    assert max(float(stats["clipped"].max()) for stats in moved) == 1


def test_the_log_ratio_is_exactly_zero_without_rounding() -> None:
    for sampler in ("sde", "cps"):
        for guards in ([], [GUARD]) if sampler == "sde" else ([],):
            settings, model = grpo(*guards, sampler=sampler), FakeFlowModel()
            epoch, method = epoch_of(model, settings, REWARDS), make_method(settings)
            for index in range(3):
                draw = method.draw(epoch, UNITS[1:4], index, bank_of(model))
                v = model.velocity(draw.x, draw.t, draw.cond, guidance=1.0)
                assert method.loss(draw, {"policy": v}).stats["log_ratio"].tolist() == [0, 0, 0]


def test_mixed_precision_is_the_rollouts_too(sd3_folder: Path) -> None:
    settings = grpo()
    method, policy = make_method(settings), policy_of(sd3_folder, ("ema",))
    change(policy, seed=7)
    view = policy.view("policy")

    def autocast() -> Any:
        return torch.autocast("cpu", torch.bfloat16)

    def worst(**options: Any) -> float:
        made = roll_out(
            view, bank_of(view), members(), steps=4, guidance=1.0, size=SIZE, batch_size=6, seed=0,
            stochastic=settings.method, **options,
        )  # fmt: skip
        epoch = Epoch(made, torch.tensor(REWARDS), torch.ones(6, dtype=torch.float64), torch.ones(5))
        found = []
        for draw in draws(method, policy, epoch):
            with torch.no_grad(), autocast():
                v = view.velocity(draw.x, draw.t, draw.cond, guidance=1.0)
            found.append(method.loss(draw, {"policy": v}).stats["log_ratio"].abs().max())
        return float(torch.stack(found).max())

    assert worst(autocast=autocast) < TOLERANCE
    assert worst() > 1e-4  # a rollout in another precision is beyond the clip before anything was learned


# The loss after a change.


def moments(draw: Draw, v: Tensor) -> tuple[Tensor, Tensor]:
    after, first = draw.extra["sigma_next"], draw.extra["sigma_first"]
    return sde_moments(draw.x, v, draw.t, after, eta=0.7, sigma_first=first)


def test_grpo_is_its_pure_loss(sd3_folder: Path) -> None:
    method, policy, epoch = prepared(sd3_folder, grpo(clip=1e-3))
    change(policy)
    for draw in draws(method, policy, epoch):
        v = velocities(policy, method, draw)
        result = method.loss(draw, v)
        mean, std = moments(draw, v["policy"])
        mean_old, _ = moments(draw, draw.extra["velocity"])
        new, old = (sde_log_prob(draw.extra["next"], one, std) for one in (mean, mean_old))
        assert torch.equal(result.rows, grpo_loss(new, old, draw.advantage, clip=1e-3))
        ratio = (new - old).exp()
        grows = draw.advantage > 0
        stopped = torch.where(grows, ratio > 1 + 1e-3, ratio < 1 - 1e-3)
        assert torch.equal(result.stats["clipped"].bool(), stopped)
        leaf = v["policy"].detach().requires_grad_()
        method.loss(draw, {**v, "policy": leaf}).rows.sum().backward()
        assert leaf.grad is not None
        assert torch.equal(leaf.grad.flatten(1).any(1), ~stopped)  # what was clipped gives no gradient


@pytest.mark.parametrize("reweight", [True, False])
def test_grpo_guard_normalises_the_ratio_and_evens_out_the_steps(sd3_folder: Path, reweight: bool) -> None:
    method, policy, epoch = prepared(sd3_folder, grpo({**GUARD, "reweight": reweight}, clip=4e-6))
    change(policy)
    for draw in draws(method, policy, epoch):
        v = velocities(policy, method, draw)
        result = method.loss(draw, v)
        mean, std = moments(draw, v["policy"])
        mean_old, _ = moments(draw, draw.extra["velocity"])
        new, old = (sde_log_prob(draw.extra["next"], one, std) for one in (mean, mean_old))
        dt = draw.extra["sigma_next"] - draw.t
        guarded = ratio_norm(new, old, mean, mean_old, std, dt)
        z = (draw.extra["next"] - mean_old) / std.float().view(-1, 1, 1, 1)
        identity = (z * (mean - mean_old)).flatten(1).mean(1).double()
        torch.testing.assert_close(result.stats["log_ratio"], identity.detach(), rtol=1e-3, atol=1e-6)
        assert torch.equal(result.stats["log_ratio"], guarded.log_ratio.detach())
        plain = grpo_loss(guarded.log_ratio, torch.zeros(6, dtype=torch.float64), draw.advantage, clip=4e-6)
        torch.testing.assert_close(result.rows, plain * (1 / dt.abs().double() if reweight else 1), rtol=1e-6, atol=0)


def test_the_state_kl_is_added_to_the_rows(sd3_folder: Path) -> None:
    method, policy, epoch = prepared(sd3_folder, grpo(KL))
    assert method.forwards == ("reference",)
    assert make_method(grpo()).forwards == ()
    plain = make_method(grpo())
    for draw in draws(method, policy, epoch):
        v = velocities(policy, method, draw)
        result = method.loss(draw, v)
        (mean, std), (mean_ref, _) = moments(draw, v["policy"]), moments(draw, v["reference"])
        kl = state_kl(mean, mean_ref, std, draw.extra["sigma_next"] - draw.t)
        assert kl.min() > 0
        assert torch.equal(result.stats["state_kl"], kl.detach())
        torch.testing.assert_close(result.rows, plain.loss(draw, v).rows + 0.3 * kl, rtol=1e-12, atol=0)


@pytest.mark.parametrize("guards", [[], [GUARD], [KL]], ids=["plain", "guard", "kl"])
def test_a_step_raises_the_probability_of_what_was_better(sd3_folder: Path, guards: list[dict[str, Any]]) -> None:
    method, policy, epoch = prepared(sd3_folder, grpo(*guards, clip=0.2))
    (draw, *_) = draws(method, policy, epoch)
    optimizer = torch.optim.SGD(policy.tensors("policy").values(), lr=1.0)
    method.loss(draw, velocities(policy, method, draw)).rows.mean().backward()
    optimizer.step()
    log_ratio = method.loss(draw, velocities(policy, method, draw)).stats["log_ratio"]
    assert float((log_ratio * draw.advantage).mean()) > 1e-5


def test_a_picture_of_average_reward_is_never_clipped() -> None:
    settings, model = grpo(), FakeFlowModel()
    epoch, method = epoch_of(model, settings, [1.0, 3.0, 2.0] * 2), make_method(settings)
    assert epoch.advantages[2] == 0
    draw = method.draw(epoch, UNITS, 0, bank_of(model))
    v = 1.1 * model.velocity(draw.x, draw.t, draw.cond, guidance=1.0)
    clipped = method.loss(draw, {"policy": v}).stats["clipped"]
    assert clipped[[2, 5]].tolist() == [0, 0]
    assert clipped.sum() > 0
