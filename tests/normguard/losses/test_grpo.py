"""Flow-GRPO: the stochastic step, its log-probability, marginals, and the clipped loss."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nbench.normguard.guards import state_kl
from nbench.normguard.losses import (
    clipped_surrogate,
    cps_log_prob,
    cps_step,
    grpo_loss,
    sde_log_prob,
    sde_moments,
    sde_step,
)

SHAPE = (3, 4, 5, 6)
FIRST = 0.96
T = torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64)
T_NEXT = torch.tensor([FIRST, 0.5, 0.0], dtype=torch.float64)


def _draw(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def _column(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


@given(seed=st.integers(0, 1000), eta=st.floats(0, 1))
def test_mean_equals_the_expanded_formula(seed: int, eta: float) -> None:
    x, v = _draw(2, seed)
    t, dt = _column(T), _column(T_NEXT - T)
    rate = eta**2 * t / (1 - torch.where(t == 1, FIRST, t))
    expected = x * (1 + rate * dt / (2 * t)) + v * (1 + rate * (1 - t) / (2 * t)) * dt
    mean, std = sde_moments(x, v, T, T_NEXT, eta=eta, sigma_first=FIRST)
    torch.testing.assert_close(mean, expected, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(std, (rate * -dt).sqrt().flatten(), rtol=1e-12, atol=0)


@given(seed=st.integers(0, 1000), eta=st.floats(0.01, 1))
def test_log_prob_equals_torch_distributions(seed: int, eta: float) -> None:
    x, v, other, noise = _draw(4, seed)
    step = sde_step(x, v, T, T_NEXT, eta=eta, sigma_first=FIRST, noise=noise)
    torch.testing.assert_close(step.x_next, step.mean + _column(step.std) * noise, rtol=1e-14, atol=1e-15)
    mean, std = sde_moments(x, v + 0.01 * other, T, T_NEXT, eta=eta, sigma_first=FIRST)
    assert torch.equal(std, step.std)
    normal = torch.distributions.Normal(mean, _column(std))
    expected = normal.log_prob(step.x_next).flatten(1).mean(1)
    torch.testing.assert_close(sde_log_prob(step.x_next, mean, std), expected, rtol=1e-11, atol=1e-11)


def test_log_prob_in_float32_is_good_to_six_digits() -> None:
    x, v, noise = _draw(3, dtype=torch.float32)
    step = sde_step(x, v, T, T_NEXT, eta=0.7, sigma_first=FIRST, noise=noise)
    assert step.mean.dtype == torch.float32
    wide = sde_step(x.double(), v.double(), T, T_NEXT, eta=0.7, sigma_first=FIRST, noise=noise.double())
    expected = torch.distributions.Normal(wide.mean, _column(wide.std)).log_prob(wide.x_next).flatten(1).mean(1)
    torch.testing.assert_close(sde_log_prob(*step), expected, rtol=0, atol=1e-6)


def test_no_noise_is_the_euler_step_bit_for_bit() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    x, v, noise = _draw(3, dtype=torch.float32)
    sigmas, first = scheduler.sigmas, scheduler.sigmas[1]
    for index, timestep in enumerate(scheduler.timesteps):
        stock = scheduler.step(v, timestep, x).prev_sample
        step = sde_step(x, v, sigmas[index], sigmas[index + 1], eta=0.0, sigma_first=first, noise=noise)
        assert torch.equal(step.x_next, stock)
        assert step.std.tolist() == [0, 0, 0]
        x = stock


def test_first_step_has_standard_deviation_eta() -> None:
    x, v = _draw(2)
    for first in (0.99, 0.9601, 0.5):
        for eta in (0.3, 0.7):
            std = sde_moments(x, v, 1.0, first, eta=eta, sigma_first=first)[1]
            assert std.tolist() == pytest.approx([eta] * 3, rel=1e-12)


# SD3.5 in 10 steps with eta 0.7: t, |dt|, sigma_t, s, dmu/dv, KL per MSE(dv), computed apart in Python floats.
TABLE = [
    (1, 0.03987, 3.506, 0.7, -0.03987, 0.001622),
    (0.9601, 0.04678, 3.435, 0.743, -0.05824, 0.003073),
    (0.9133, 0.05566, 2.273, 0.5362, -0.06929, 0.008352),
    (0.8577, 0.06732, 1.719, 0.4459, -0.08382, 0.01767),
    (0.7904, 0.08309, 1.359, 0.3918, -0.1034, 0.03486),
    (0.7073, 0.1051, 1.088, 0.3528, -0.1309, 0.06882),
    (0.6022, 0.1373, 0.8612, 0.3191, -0.1709, 0.1435),
    (0.4649, 0.1868, 0.6524, 0.282, -0.2326, 0.3401),
    (0.278, 0.2691, 0.4344, 0.2254, -0.3351, 1.105),
    (0.008929, 0.008929, 0.06644, 0.006278, -0.01112, 1.568),
]


@pytest.mark.parametrize("index", range(10))
def test_reference_table_of_sd3_in_ten_steps(index: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    t, t_next, first = scheduler.sigmas[[index, index + 1, 1]].double()
    x, v, change = _draw(3)
    mean, std = sde_moments(x, v, t, t_next, eta=0.7, sigma_first=first)
    moved = sde_moments(x, v + change, t, t_next, eta=0.7, sigma_first=first)[0]
    slope = (moved - mean) / change
    assert slope.std() < 1e-10
    kl = state_kl(moved, mean, std) / change.square().flatten(1).mean(1)
    dt = (t - t_next).item()
    found = [t.item(), dt, std[0].item() / math.sqrt(dt), std[0].item(), slope.mean().item(), kl[0].item()]
    assert found == pytest.approx(TABLE[index], rel=5.1e-4)  # four digits


def _gaussian_end(sigmas: Tensor, eta: float, start: tuple[float, float] | None = None) -> tuple[float, float]:
    """Mean and variance at the end, from the exact velocity of data N(1.5, 0.5^2); each step is affine in x."""
    data_mean, data_var = 1.5, 0.25
    mean, var = start or (0.0, 1.0)
    probe = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for t, t_next in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        slope = (t - (1 - t) * data_var) / ((1 - t) ** 2 * data_var + t**2)
        v = -data_mean + slope * (probe - (1 - t) * data_mean)
        step_mean, std = sde_moments(probe, v, t, t_next, eta=eta, sigma_first=sigmas[1])
        offset = step_mean[0].item()
        factor = step_mean[1].item() - offset
        mean, var = factor * mean + offset, factor**2 * var + std[0].item() ** 2
    return mean, var


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0])
def test_marginals_are_kept_on_a_gaussian(eta: float) -> None:
    """From the exact law at t = 0.9, the law at the end converges to the data's, N(1.5, 0.25), for any noise level."""
    start = (0.1 * 1.5, 0.01 * 0.25 + 0.81)
    errors = []
    for steps in (100, 200, 400):
        mean, var = _gaussian_end(torch.linspace(0.9, 0, steps + 1, dtype=torch.float64), eta, start)
        assert mean == pytest.approx(1.5, abs=1e-12)
        errors.append(abs(var - 0.25))
    assert errors[2] < 2.5e-3
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2, abs=0.1)  # first order in the step


def test_sde_and_ode_end_alike_from_noise() -> None:
    """From t = 1 the same holds, though the first step's surplus variance wears off slowly."""
    sigmas = torch.linspace(1, 0, 3001, dtype=torch.float64)
    ode = _gaussian_end(sigmas, 0.0)
    assert ode == pytest.approx((1.5, 0.25), abs=3e-4)
    for eta in (0.7, 1.0):
        assert _gaussian_end(sigmas, eta) == pytest.approx(ode, abs=1.2e-3)
    first_two = torch.tensor([1.0, 1 - 1e-9], dtype=torch.float64)
    assert _gaussian_end(first_two, 0.7)[1] == pytest.approx(1 + 0.7**4 / 4, abs=1e-6)


def test_log_prob_of_own_sample_has_the_policy_gradient() -> None:
    """x_next is held constant even when it was drawn from the same graph; else the gradient would vanish."""
    x, v, noise = _draw(3)
    v.requires_grad_()
    step = sde_step(x, v, T, T_NEXT, eta=0.7, sigma_first=FIRST, noise=noise)
    sde_log_prob(*step).sum().backward()
    dmu_dv = (T_NEXT - T) * (1 + 0.7**2 * (1 - T) / (2 * (1 - torch.where(T == 1, FIRST, T))))
    expected = noise * _column(dmu_dv / step.std) / noise[0].numel()
    torch.testing.assert_close(v.grad, expected, rtol=1e-10, atol=1e-14)


def test_first_inner_step_has_ratio_one() -> None:
    x, v, noise = _draw(3, dtype=torch.float32)
    step = sde_step(x, v, T, T_NEXT, eta=0.7, sigma_first=FIRST, noise=noise)
    old = sde_log_prob(*step)
    mean, std = sde_moments(x, v, T, T_NEXT, eta=0.7, sigma_first=FIRST)
    advantage = torch.tensor([-1.0, 0.0, 2.0])
    new = sde_log_prob(step.x_next, mean, std)
    assert torch.equal(new, old)
    assert grpo_loss(new, old, advantage, clip=1e-5).tolist() == [1.0, 0.0, -2.0]


def test_state_kl_has_its_closed_form_in_velocities() -> None:
    x, v, ref = _draw(3)
    distance = (v - ref).square().flatten(1).mean(1)
    t, t_next = torch.tensor([0.9, 0.6, 0.3], dtype=torch.float64), torch.tensor([0.8, 0.5, 0.1], dtype=torch.float64)
    dt = (t_next - t).abs()
    mean, std = sde_moments(x, v, t, t_next, eta=0.7, sigma_first=FIRST)
    mean_ref = sde_moments(x, ref, t, t_next, eta=0.7, sigma_first=FIRST)[0]
    rate = 0.7 * (t / (1 - t)).sqrt()
    expected = dt / 2 * (1 / rate + rate * (1 - t) / (2 * t)).square() * distance
    true = state_kl(mean, mean_ref, std)
    torch.testing.assert_close(true, expected, rtol=1e-11, atol=0)
    normal, normal_ref = (torch.distributions.Normal(m, _column(std)) for m in (mean, mean_ref))
    exact = torch.distributions.kl_divergence(normal, normal_ref).flatten(1).mean(1)
    torch.testing.assert_close(true, exact, rtol=1e-11, atol=0)
    as_in_code = (mean - mean_ref).square().flatten(1).mean(1) / (2 * rate.square())
    torch.testing.assert_close(state_kl(mean, mean_ref, std, t_next - t), as_in_code, rtol=1e-11, atol=0)
    torch.testing.assert_close(as_in_code, dt * true, rtol=1e-11, atol=0)


@given(seed=st.integers(0, 1000), eta=st.floats(0, 1))
def test_cps_keeps_the_noise_share(seed: int, eta: float) -> None:
    """With the exact prediction of a point x_0, x_next = (1 - t_next) x_0 + kept noise, kept^2 + s^2 = t_next^2."""
    x0, eps, noise = _draw(3, seed)
    x = (1 - _column(T)) * x0 + _column(T) * eps
    step = cps_step(x, eps - x0, T, T_NEXT, eta=eta, noise=noise)
    kept = ((step.mean - (1 - _column(T_NEXT)) * x0) / eps).flatten(1)
    torch.testing.assert_close(kept.mean(1).square() + step.std.square(), T_NEXT.square(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(step.std, T_NEXT * math.sin(eta * math.pi / 2), rtol=1e-14, atol=0)
    torch.testing.assert_close(step.x_next, step.mean + _column(step.std) * noise, rtol=1e-14, atol=1e-15)


def test_cps_without_noise_is_the_euler_step() -> None:
    x, v, noise = _draw(3)
    step = cps_step(x, v, T, T_NEXT, eta=0.0, noise=noise)
    torch.testing.assert_close(step.x_next, x + _column(T_NEXT - T) * v, rtol=1e-13, atol=1e-14)


def test_cps_log_prob_is_minus_the_squared_distance() -> None:
    x, v, noise = _draw(3)
    v.requires_grad_()
    step = cps_step(x, v, T, T_NEXT, eta=0.8, noise=noise)
    log_prob = cps_log_prob(step.x_next, step.mean)
    expected = -step.std.square() * noise.square().flatten(1).mean(1)
    torch.testing.assert_close(log_prob, expected, rtol=1e-12, atol=1e-15)
    log_prob.sum().backward()
    assert v.grad[0].abs().max() > 1e-4  # x_next is held constant


def test_loss_resolves_the_smallest_public_clip() -> None:
    """Clips go down to 2e-6, where float32 ratios would be held 6 % off."""
    log_prob_old = torch.tensor([1.25, 1.25])
    log_prob = torch.tensor([1.25 + 1e-5, 1.25 - 1e-5])
    found = grpo_loss(log_prob, log_prob_old, torch.tensor([1.0, -1.0]), clip=2e-6)
    assert (found + torch.tensor([1.0, -1.0])).tolist() == pytest.approx([-2e-6, -2e-6], rel=1e-9)


def test_surrogate_takes_the_pessimistic_side() -> None:
    log_ratio = torch.tensor([0.3, -0.3, 0.3, -0.3], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([2.0, 2.0, -2.0, -2.0])
    found = clipped_surrogate(log_ratio, advantage, clip=0.1)
    expected = [-2 * 1.1, -2 * math.exp(-0.3), 2 * math.exp(0.3), 2 * 0.9]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    found.sum().backward()
    assert log_ratio.grad.tolist() == pytest.approx([0, *expected[1:3], 0], rel=1e-12)


def test_clip_may_differ_below_and_above() -> None:
    log_ratio = torch.tensor([1.0, -1.0], dtype=torch.float64)
    found = clipped_surrogate(log_ratio, torch.tensor([1.0, -1.0]), clip=(0.1, 0.4))
    assert found.tolist() == pytest.approx([-1.4, 0.9], rel=1e-12)


def test_only_the_policy_gets_a_gradient() -> None:
    new, old, advantage = (torch.zeros(3, requires_grad=True) for _ in range(3))
    grpo_loss(new, old, advantage + 1, clip=0.1).sum().backward()
    assert new.grad.tolist() == [-1, -1, -1]
    assert old.grad is None
    assert advantage.grad is None


def test_samples_do_not_see_each_other() -> None:
    x, v, noise = _draw(3)
    together = sde_step(x, v, T, T_NEXT, eta=0.7, sigma_first=FIRST, noise=noise)
    for row in range(3):
        one = slice(row, row + 1)
        alone = sde_step(x[one], v[one], T[one], T_NEXT[one], eta=0.7, sigma_first=FIRST, noise=noise[one])
        assert torch.equal(alone.x_next, together.x_next[one])
        assert torch.equal(sde_log_prob(*alone), sde_log_prob(*together)[one])


def test_half_precision_is_computed_in_float32() -> None:
    x, v, noise = _draw(3, dtype=torch.bfloat16)
    step = sde_step(x, v, T, T_NEXT, eta=0.7, sigma_first=FIRST, noise=noise)
    wide = sde_step(x.float(), v.float(), T, T_NEXT, eta=0.7, sigma_first=FIRST, noise=noise.float())
    assert step.x_next.dtype == torch.float32
    assert torch.equal(step.x_next, wide.x_next)


def test_bad_input_is_named() -> None:
    x, v, noise = _draw(3)
    with pytest.raises(ValueError, match="v has shape"):
        sde_step(x, v[:1], T, T_NEXT, eta=0.7, sigma_first=FIRST, noise=noise)
    with pytest.raises(ValueError, match="noise has shape"):
        sde_step(x, v, T, T_NEXT, eta=0.7, sigma_first=FIRST, noise=noise[:1])
    with pytest.raises(ValueError, match="sigma_next has shape"):
        sde_step(x, v, T, _column(T_NEXT), eta=0.7, sigma_first=FIRST, noise=noise)
    with pytest.raises(ValueError, match="eta is -0"):
        sde_moments(x, v, T, T_NEXT, eta=-0.1, sigma_first=FIRST)
    with pytest.raises(ValueError, match="a CPS step takes"):
        cps_step(x, v, T, T_NEXT, eta=1.1, noise=noise)
    with pytest.raises(ValueError, match="mean has shape"):
        cps_log_prob(x, v[:1])
    with pytest.raises(ValueError, match="std has shape"):
        sde_log_prob(x, v, _column(T))
    with pytest.raises(ValueError, match="clip is"):
        clipped_surrogate(T, T, clip=(0.1, -0.1))
    with pytest.raises(ValueError, match="one number per sample"):
        clipped_surrogate(x, x, clip=0.1)
