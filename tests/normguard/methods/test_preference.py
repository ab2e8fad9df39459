"""DPO in a training: which pictures make a pair, that the pair shares its draw, and that its latents are the right."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from train_parts import NAN, PROMPTS, bank_of, change, config, epoch_of, policy_of, velocities

from nbench.normguard.losses import dpo_loss, excess_error
from nbench.normguard.methods import make_method
from nbench.normguard.rollout import Sample, decode
from nbench.testing import FakeFlowModel

REWARDS = [1.0, 3.0, 2.0, 0.9, 0.1, 0.5]
PAIRS = [(1, 0), (3, 4)]
DPO = config("dpo")


def test_the_best_and_the_worst_of_each_group_make_a_pair() -> None:
    assert make_method(DPO).units(epoch_of(FakeFlowModel(), DPO, REWARDS)) == PAIRS


@pytest.mark.parametrize(
    ("rewards", "gap", "pairs"),
    [
        ([2.0, 2.0, 2.0, 0.9, 0.1, 0.5], 0.0, [(3, 4)]),  # ties make no pair
        ([1.0, NAN, 2.0, 0.9, 0.1, 0.5], 0.0, [(2, 0), (3, 4)]),  # a failure is neither best nor worst
        ([1.0, NAN, NAN, 0.9, 0.1, 0.5], 0.0, [(3, 4)]),  # one left over makes no pair
        (REWARDS, 0.8, [(1, 0)]),
        (REWARDS, 2.0, []),
        ([1.0, 3.0, 3.0, 0.1, 0.1, 0.5], 0.0, [(1, 0), (5, 3)]),  # the first of equals
    ],
)
def test_groups_that_show_no_preference_are_left_out(
    rewards: list[float], gap: float, pairs: list[tuple[int, int]]
) -> None:
    settings = config({"name": "dpo", "min_gap": gap})
    assert make_method(settings).units(epoch_of(FakeFlowModel(), settings, rewards)) == pairs


def test_a_pair_shares_time_and_noise_and_each_member_keeps_its_own_latent() -> None:
    model = FakeFlowModel()
    epoch, method = epoch_of(model, DPO, REWARDS), make_method(DPO)
    for index in range(3):
        draw = method.draw(epoch, PAIRS, index, bank_of(model))
        assert len(draw.x) == 4
        assert torch.equal(draw.t[:2], draw.t[2:])
        rows = [1, 3, 0, 4]  # winners, then losers
        clean = epoch.rollout.clean[rows]
        eps = draw.target + clean
        torch.testing.assert_close(eps[:2], eps[2:], rtol=0, atol=1e-6)  # (eps - x0) + x0, rounded
        assert (eps[0] - eps[1]).abs().max() > 0.1  # pairs differ
        t = draw.t.view(-1, 1, 1, 1)
        torch.testing.assert_close(draw.x - t * draw.target, clean, rtol=0, atol=2e-6)
        assert (clean[:2] - clean[2:]).abs().max() > 0.1
        texts = [epoch.samples[i].prompt.text for i in rows]
        assert torch.equal(draw.cond.tensors["code"], model.encode(texts, guidance=1.0).tensors["code"])
        assert len({float(t) for t in draw.t}) == 2
    assert len({float(method.draw(epoch, PAIRS, index, bank_of(model)).t[0]) for index in range(3)}) == 3


def test_the_latents_of_a_pair_decode_to_the_pictures_that_were_rewarded(sd3_folder: Path) -> None:
    view = policy_of(sd3_folder, ()).view("policy")
    epoch, method = epoch_of(view, DPO, REWARDS), make_method(DPO)
    draw = method.draw(epoch, PAIRS, 0, bank_of(view))
    pair = [Sample(0, group, -1, PROMPTS[group]) for group in (0, 1)]  # the pair's own noise, neither member's
    drawn = torch.stack([one.normal(DPO.seed, "eps/0", draw.x.shape[1:]) for one in pair]).repeat(2, 1, 1, 1)
    clean = epoch.rollout.clean[[1, 3, 0, 4]]
    assert torch.equal(draw.target, drawn - clean)
    shown = np.stack([np.asarray(image) for image in decode(view, clean)]).astype(int)
    rewarded = np.stack([np.asarray(epoch.rollout.images[i]) for i in (1, 3, 0, 4)]).astype(int)
    assert abs(shown - rewarded).max() <= 1  # another batch: rounding
    assert abs(shown[:2] - shown[2:]).max() > 1


def test_a_pairs_draw_depends_neither_on_who_won_nor_on_its_batch() -> None:
    model = FakeFlowModel()
    epoch, method = epoch_of(model, DPO, REWARDS), make_method(DPO)
    whole = method.draw(epoch, PAIRS, 1, bank_of(model))
    alone = method.draw(epoch, PAIRS[1:], 1, bank_of(model))
    assert torch.equal(alone.x, whole.x[[1, 3]]) and torch.equal(alone.t, whole.t[[1, 3]])
    turned = method.draw(epoch, [(0, 1), (4, 3)], 1, bank_of(model))
    assert torch.equal(turned.x, whole.x[[2, 3, 0, 1]])
    assert torch.equal(turned.t, whole.t)


def test_dpo_is_log_two_at_the_base_and_its_pure_loss_after(sd3_folder: Path) -> None:
    method = make_method(DPO)
    policy = policy_of(sd3_folder, ("ema",))
    view = policy.view(method.rollout_role)
    epoch = epoch_of(view, DPO, REWARDS)
    draw = method.draw(epoch, PAIRS, 0, bank_of(view))
    start = method.loss(draw, velocities(policy, method, draw))
    assert start.rows.tolist() == pytest.approx([math.log(2)] * 4, abs=1e-12)
    assert start.stats["excess_winner"].tolist() == start.stats["excess_loser"].tolist() == [0] * 4

    change(policy)
    v = velocities(policy, method, draw)
    result = method.loss(draw, v)
    pairs = dpo_loss(
        v["policy"][:2], v["policy"][2:], v["reference"][:2], v["reference"][2:], draw.target[:2], draw.target[2:],
        beta=100.0,
    )  # fmt: skip
    assert torch.equal(result.rows, torch.cat([pairs, pairs]))
    assert (pairs - math.log(2)).abs().min() > 1e-3
    better = excess_error(v["policy"][:2], v["reference"][:2], draw.target[:2])
    worse = excess_error(v["policy"][2:], v["reference"][2:], draw.target[2:])
    assert torch.equal(result.stats["excess_winner"], torch.cat([better, better]).detach())
    assert torch.equal(result.stats["excess_loser"], torch.cat([worse, worse]).detach())
    assert result.stats["ranked_right"].tolist() == [float(b < w) for b, w in zip(better, worse, strict=True)] * 2
    assert not any(value.requires_grad for value in result.stats.values())


def test_a_step_along_the_gradient_ranks_the_pair_right(sd3_folder: Path) -> None:
    method = make_method(DPO)
    policy = policy_of(sd3_folder, ("ema",))
    view = policy.view("policy")
    draw = method.draw(epoch_of(view, DPO, REWARDS), PAIRS, 0, bank_of(view))
    optimizer = torch.optim.AdamW(policy.tensors("policy").values(), lr=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        method.loss(draw, velocities(policy, method, draw)).rows.mean().backward()
        optimizer.step()
    found = method.loss(draw, velocities(policy, method, draw))
    assert found.stats["ranked_right"].tolist() == [1] * 4
    assert found.rows.mean() < math.log(2)
