"""GRPO-Guard's ratio: its closed form, its mean, and that each sample has its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nbench.normguard.guards import NormalizedRatio, ratio_norm
from nbench.normguard.losses import clipped_surrogate, sde_log_prob, sde_moments, sde_step

SHAPE = (3, 4, 5, 6)
FIRST = 0.96
T = torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64)
T_NEXT = torch.tensor([FIRST, 0.5, 0.01], dtype=torch.float64)
STEP = {"eta": 0.7, "sigma_first": FIRST}


def _draw(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def _ratio(
    x: Tensor, v: Tensor, v_old: Tensor, noise: Tensor, t: Tensor = T, t_next: Tensor = T_NEXT
) -> NormalizedRatio:
    old = sde_step(x, v_old, t, t_next, noise=noise, **STEP)
    mean, std = sde_moments(x, v, t, t_next, **STEP)
    new = sde_log_prob(old.x_next, mean, std)
    return ratio_norm(new, sde_log_prob(*old), mean, old.mean, std, t_next - t)


@given(seed=st.integers(0, 1000), change=st.floats(-1, 1))
def test_log_ratio_is_the_noise_along_the_change_of_mean(seed: int, change: float) -> None:
    x, v_old, other, noise = _draw(4, seed)
    v = v_old + change * other
    moved = sde_moments(x, v, T, T_NEXT, **STEP)[0] - sde_moments(x, v_old, T, T_NEXT, **STEP)[0]
    expected = (noise * moved).flatten(1).mean(1)
    torch.testing.assert_close(_ratio(x, v, v_old, noise).log_ratio, expected, rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 1000))
def test_log_ratio_has_mean_zero_where_the_plain_one_has_not(seed: int) -> None:
    """Over z and -z, so over every symmetric law of the noise."""
    x, v_old, other, noise = _draw(4, seed)
    v = v_old + other
    mean, std = sde_moments(x, v, T, T_NEXT, **STEP)
    plain = torch.zeros(3, dtype=torch.float64)
    normalised = torch.zeros(3, dtype=torch.float64)
    for z in (noise, -noise):
        old = sde_step(x, v_old, T, T_NEXT, noise=z, **STEP)
        new, before = sde_log_prob(old.x_next, mean, std), sde_log_prob(*old)
        found = ratio_norm(new, before, mean, old.mean, std, T_NEXT - T).log_ratio
        assert found.abs().min() > 1e-7
        plain += (new - before) / 2
        normalised += found / 2
    assert normalised.abs().max() < 1e-12
    assert (plain < -1e-4).all()


def test_same_parameters_give_ratio_one_exactly() -> None:
    x, v, noise = _draw(3, dtype=torch.float32)
    found = _ratio(x, v, v.clone(), noise)
    assert found.log_ratio.exp().tolist() == [1, 1, 1]


def test_weight_is_one_over_the_step() -> None:
    x, v, noise = _draw(3)
    for dt in (T_NEXT - T, T - T_NEXT):
        found = ratio_norm(torch.zeros(3), torch.zeros(3), x, v, 0.5, dt).weight
        torch.testing.assert_close(found, 1 / (T - T_NEXT), rtol=1e-14, atol=0)
    assert ratio_norm(torch.zeros(3), torch.zeros(3), x, noise, 0.5, -0.25).weight.tolist() == [4, 4, 4]


def test_samples_do_not_see_each_other() -> None:
    """Rejects the mean over the whole batch of the public script."""
    x, v, v_old, noise = _draw(4)
    together = _ratio(x, v, v_old, noise)
    order = torch.tensor([2, 0, 1])
    permuted = _ratio(*(value[order] for value in (x, v, v_old, noise, T, T_NEXT)))
    assert torch.equal(permuted.log_ratio, together.log_ratio[order])
    assert torch.equal(permuted.weight, together.weight[order])
    for row in range(3):
        one = slice(row, row + 1)
        alone = _ratio(*(value[one] for value in (x, v, v_old, noise, T, T_NEXT)))
        assert torch.equal(alone.log_ratio, together.log_ratio[one])
    v[1, 0, 0, 0] = float("nan")
    assert _ratio(x, v, v_old, noise).log_ratio.isnan().tolist() == [False, True, False]


def test_gradient_per_velocity_is_the_noise_whatever_the_step() -> None:
    """At theta = old the weighted loss has gradient -A z dmu/dv / (D |dt|), without 1 / s or |dt|."""
    x, v_old, noise = _draw(3)
    v = v_old.clone().requires_grad_()
    found = _ratio(x, v, v_old, noise)
    advantage = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (found.weight * clipped_surrogate(found.log_ratio, advantage, clip=2e-6)).sum().backward()
    rate = 0.7**2 * T / (1 - torch.where(T == 1, FIRST, T))
    slope = 1 + rate * (1 - T) / (2 * T)
    expected = (advantage * slope).view(-1, 1, 1, 1) * noise / noise[0].numel()
    torch.testing.assert_close(v.grad, expected, rtol=1e-9, atol=1e-13)


def test_old_policy_gets_no_gradient() -> None:
    x, v, v_old, noise = _draw(4)
    v.requires_grad_()
    v_old.requires_grad_()
    _ratio(x, v, v_old, noise).log_ratio.sum().backward()
    assert v.grad is not None
    mean_old, log_prob_old = v_old * 1.0, v_old.flatten(1).mean(1)
    ratio_norm(log_prob_old.detach(), log_prob_old, v, mean_old, 0.5, 0.1).log_ratio.sum().backward()
    assert v_old.grad is None


def test_bad_input_is_named() -> None:
    x, v = _draw(2)
    zero = torch.zeros(3)
    with pytest.raises(ValueError, match="mean_old has shape"):
        ratio_norm(zero, zero, x, v[:1], 0.5, 0.1)
    with pytest.raises(ValueError, match="log_prob has shape"):
        ratio_norm(x, zero, x, v, 0.5, 0.1)
    with pytest.raises(ValueError, match="log_prob_old has shape"):
        ratio_norm(zero, zero[0], x, v, 0.5, 0.1)
    with pytest.raises(ValueError, match="dt has shape"):
        ratio_norm(zero, zero, x, v, 0.5, zero.view(3, 1, 1, 1))
