"""Draws of (t, eps): what NFT, AWM and DPO are trained at, whatever the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from train_parts import PROMPTS, bank_of, config, epoch_of, members

from nbench.errors import UsageError
from nbench.normguard.config import TimesConfig
from nbench.normguard.methods import Draw, Epoch, make_method
from nbench.normguard.methods.base import noised, times
from nbench.normguard.rollout import Sample
from nbench.testing import FakeFlowModel

CPU = torch.device("cpu")
REWARDS = [1.0, 2.0, 3.0, 0.5, 0.1, 0.9]
GRID = FakeFlowModel().sigmas(6, height=16, width=16)


@pytest.fixture
def epoch() -> Epoch:
    return epoch_of(FakeFlowModel(), config(), REWARDS)


def drawn(epoch: Epoch, units: list[tuple[int, ...]], index: int = 0, **changes: Any) -> Draw:
    return noised(epoch, units, index, bank_of(FakeFlowModel()), config(**changes), CPU)


def column(t: Tensor) -> Tensor:
    return t.view(-1, 1, 1, 1)


def test_states_are_on_the_line_from_the_picture_to_its_noise(epoch: Epoch) -> None:
    rows = [4, 0, 2]
    for index in range(3):
        draw = drawn(epoch, [(i,) for i in rows], index)
        clean = epoch.rollout.clean[rows]
        eps = torch.stack([epoch.samples[i].normal(0, f"eps/{index}", clean.shape[1:]) for i in rows])
        torch.testing.assert_close(draw.x, (1 - column(draw.t)) * clean + column(draw.t) * eps, rtol=0, atol=1e-6)
        assert torch.equal(draw.target, eps - clean)
        torch.testing.assert_close(draw.x - column(draw.t) * draw.target, clean, rtol=0, atol=2e-6)
        assert torch.equal(draw.advantage, epoch.advantages[rows])
        assert draw.advantage.dtype == torch.float64
        assert draw.x.dtype == draw.t.dtype == draw.target.dtype == torch.float32
        codes = FakeFlowModel().encode([epoch.samples[i].prompt.text for i in rows], guidance=1.0).tensors["code"]
        assert torch.equal(draw.cond.tensors["code"], codes)


def test_a_rows_draw_does_not_depend_on_its_batch(epoch: Epoch) -> None:
    whole = drawn(epoch, [(i,) for i in range(6)], 1)
    for i in range(6):
        alone = drawn(epoch, [(i,)], 1)
        for name in ("x", "t", "target", "advantage"):
            assert torch.equal(getattr(alone, name)[0], getattr(whole, name)[i])


def test_draws_leave_the_global_generator_alone_and_ignore_it(epoch: Epoch) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = drawn(epoch, [(0,), (1,)])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(drawn(epoch, [(0,), (1,)]).x, first.x)
    other = drawn(epoch, [(0,), (1,)], seed=1)
    assert not torch.equal(other.x, first.x)


def test_each_draw_of_a_picture_has_noise_and_time_of_its_own(epoch: Epoch) -> None:
    draws = [drawn(epoch, [(0,), (1,)], index) for index in range(3)]
    eps = [draw.target + epoch.rollout.clean[[0, 1]] for draw in draws]
    assert (eps[0] - eps[1]).abs().max() > 0.1 and (eps[0][0] - eps[0][1]).abs().max() > 0.1
    assert len({float(draw.t[0]) for draw in draws}) == 3
    later = [Sample(1, one.group, one.member, one.prompt) for one in epoch.samples]
    assert later[0].seed(0, "eps/0") != epoch.samples[0].seed(0, "eps/0")


# Times.


def test_times_of_the_rollout_are_the_samplers_own_without_repetition() -> None:
    law = TimesConfig(law="rollout", count=6)
    for sample in members():
        found = times(sample, law, GRID, seed=0)
        assert sorted(found, reverse=True) == GRID[:-1].tolist()
        fewer = times(sample, TimesConfig(law="rollout", count=2), GRID, seed=0)
        assert fewer == found[:2]
    orders = {tuple(times(sample, law, GRID, seed=0)) for sample in members(3, 8)}
    assert len(orders) > 12


def test_every_time_of_the_rollout_comes_equally_often() -> None:
    counts = dict.fromkeys(GRID[:-1].tolist(), 0)
    samples = [Sample(epoch, 0, member, PROMPTS[0]) for epoch in range(60) for member in range(10)]
    for sample in samples:
        for t in times(sample, TimesConfig(law="rollout", count=2), GRID, seed=0):
            counts[t] += 1
    assert sum(counts.values()) == 1200
    assert all(abs(count - 200) < 60 for count in counts.values())  # 5 standard deviations


@pytest.mark.parametrize("law", ["rollout", "logit_normal", "uniform"])
@pytest.mark.parametrize(("low", "high"), [(0.005, 1.0), (0.3, 0.8)])
def test_times_stay_within_their_bounds(law: Any, low: float, high: float) -> None:
    settings = TimesConfig(law=law, count=3, low=low, high=high)
    found = torch.tensor([times(sample, settings, GRID, seed=0) for sample in members(3, 60)])
    assert found.min() >= low - 1e-7 and found.max() <= high + 1e-7
    assert found.std() > 0.05


def test_rollout_times_outside_the_bounds_are_left_out_not_moved() -> None:
    settings = TimesConfig(law="rollout", count=3, low=0.3, high=0.999)
    allowed = {round(float(t), 6) for t in GRID if 0.3 <= t <= 0.999}
    assert 1.0 in {round(float(t), 6) for t in GRID} and len(allowed) >= 3
    for sample in members(3, 20):
        found = [round(t, 6) for t in times(sample, settings, GRID, seed=0)]
        assert len(set(found)) == 3 and set(found) <= allowed


def test_more_times_than_lie_between_the_bounds_are_refused() -> None:
    with pytest.raises(UsageError, match=r"times.count is 5, but \d of the rollout's times lie between"):
        times(members(1, 1)[0], TimesConfig(law="rollout", count=5, low=0.9, high=1.0), GRID, seed=0)


def test_laws_have_their_distributions() -> None:
    samples = [Sample(epoch, 0, member, PROMPTS[0]) for epoch in range(20) for member in range(10)]

    def found(law: Any, **bounds: float) -> Tensor:
        settings = TimesConfig(law=law, count=20, **bounds)
        return torch.tensor([times(sample, settings, GRID, seed=0) for sample in samples]).flatten()

    uniform = found("uniform", low=0.2, high=0.6)
    assert float(uniform.mean()) == pytest.approx(0.4, abs=0.01)
    assert float(uniform.var()) == pytest.approx(0.4**2 / 12, rel=0.1)
    logits = torch.logit(found("logit_normal").double().clamp(1e-6, 1 - 1e-6))
    assert float(logits.mean()) == pytest.approx(0, abs=0.08)
    assert float(logits.std()) == pytest.approx(1, abs=0.05)


# Epochs.


def test_failed_pictures_are_kept_by_no_method() -> None:
    nan = float("nan")
    for name in ("nft", "awm", "dpo", "grpo"):
        settings = config(name)
        epoch = epoch_of(FakeFlowModel(), settings, [1.0, nan, 3.0, nan, nan, nan, 0.5, 0.1, nan], groups=3)
        assert epoch.kept() == [0, 2, 6, 7]
        assert epoch.groups() == {0: [0, 2], 2: [6, 7]}
        units = make_method(settings).units(epoch)
        used = {i for unit in units for i in unit}
        assert used == {0, 2, 6, 7}


def test_an_epoch_in_which_all_failed_gives_no_units() -> None:
    for name in ("nft", "awm", "dpo", "grpo"):
        settings = config(name)
        epoch = epoch_of(FakeFlowModel(), settings, [1.0] * 6)
        epoch.rewards[:] = float("nan")
        assert epoch.instructive() == [] and epoch.groups() == {}
        assert make_method(settings).units(epoch) == []


def test_only_groups_whose_rewards_differ_are_instructive() -> None:
    nan = float("nan")
    epoch = epoch_of(FakeFlowModel(), config(), [2.0, 2.0, 2.0, 1.0, nan, nan, 1.0, nan, 2.0], groups=3)
    assert epoch.kept() == [0, 1, 2, 3, 6, 8]
    assert epoch.instructive() == [6, 8]  # one that is left over of its group has nothing to be compared with
    assert epoch.advantages[[0, 1, 2, 3]].tolist() == [0, 0, 0, 0]
