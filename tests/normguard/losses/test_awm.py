"""Advantage Weighted Matching: weightings, their gradients, the clipped ratio."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nbench.normguard.losses import awm_advantage, awm_log_prob, awm_loss

SHAPE = (3, 4, 5, 6)
D = 4 * 5 * 6
T = torch.tensor([0.2, 0.55, 1.0], dtype=torch.float64)
A = torch.tensor([-0.7, 0.0, 1.3], dtype=torch.float64)

WEIGHTINGS = {  # W(l, t) and dW/dl
    "uniform": (lambda e, t: e, lambda e, t: torch.ones_like(e)),
    "t": (lambda e, t: t * e, lambda e, t: t),
    "t2": (lambda e, t: t**2 * e, lambda e, t: t**2),
    "huber": (lambda e, t: t * ((e + 1e-10).sqrt() - 1e-5), lambda e, t: t / (2 * (e + 1e-10).sqrt())),
    "ghuber": (lambda e, t: t / 0.25 * ((e + 1e-10) ** 0.25 - 1e-10**0.25), lambda e, t: t * (e + 1e-10) ** -0.75),
}


def _draw(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@given(seed=st.integers(0, 1000))
def test_log_prob_is_minus_the_weighted_error(weighting: str, seed: int) -> None:
    theta, target = _draw(2, seed)
    error = (theta - target).square().flatten(1).mean(1)
    expected = -WEIGHTINGS[weighting][0](error, T)
    torch.testing.assert_close(awm_log_prob(theta, target, T, weighting=weighting), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@given(seed=st.integers(0, 1000))
def test_first_pass_is_advantage_weighted_matching(weighting: str, seed: int) -> None:
    theta, target = _draw(2, seed)
    error = (theta - target).square().flatten(1).mean(1)
    theta.requires_grad_()
    log_prob = awm_log_prob(theta, target, T, weighting=weighting)
    loss = awm_loss(log_prob, log_prob.detach(), A, clip=1.0)
    assert torch.equal(loss, -A)  # rho is 1 to the last bit
    loss.sum().backward()
    slope = (A * WEIGHTINGS[weighting][1](error, T)).view(-1, 1, 1, 1)
    torch.testing.assert_close(theta.grad, slope * 2 * (theta.detach() - target) / D, rtol=1e-11, atol=1e-16)


@given(seed=st.integers(0, 1000), scale=st.floats(0, 10))
def test_ghuber_contains_huber_and_t(seed: int, scale: float) -> None:
    theta, target = _draw(2, seed)
    theta = target + scale * (theta - target)
    huber = awm_log_prob(theta, target, T, weighting="huber")
    torch.testing.assert_close(
        awm_log_prob(theta, target, T, weighting="ghuber", p=0.5), 2 * huber, rtol=1e-12, atol=1e-18
    )
    by_t = awm_log_prob(theta, target, T, weighting="t")
    torch.testing.assert_close(awm_log_prob(theta, target, T, weighting="ghuber", p=1.0), by_t, rtol=1e-12, atol=1e-24)


def test_ghuber_of_a_quarter_is_the_default() -> None:
    theta, target = _draw(2)
    assert torch.equal(awm_log_prob(theta, target, T), awm_log_prob(theta, target, T, weighting="ghuber", p=0.25))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_perfect_prediction_has_log_prob_zero_and_a_finite_gradient(weighting: str) -> None:
    (target,) = _draw(1)
    theta = target.clone().requires_grad_()
    log_prob = awm_log_prob(theta, target, T, weighting=weighting)
    assert log_prob.abs().max() < 1e-20
    log_prob.sum().backward()
    assert torch.equal(theta.grad, torch.zeros_like(target))


def test_the_target_and_the_old_policy_get_no_gradient() -> None:
    theta, target, old = (v.requires_grad_() for v in _draw(3))
    log_prob_old = awm_log_prob(old, target, T)
    awm_loss(awm_log_prob(theta, target, T), log_prob_old, A, clip=1.0).sum().backward()
    assert theta.grad is not None
    assert target.grad is None
    assert old.grad is None


@pytest.mark.parametrize(
    ("ratio", "advantage", "clip", "loss"),
    [
        (1.5, 2.0, 0.2, -2.4),  # good and already likelier: held at 1.2
        (0.5, 2.0, 0.2, -1.0),  # good but less likely: full pull
        (1.5, -2.0, 0.2, 3.0),  # bad but likelier: full push
        (0.5, -2.0, 0.2, 1.6),  # bad and already less likely: held at 0.8
        (1.5, 2.0, (0.1, 0.4), -2.8),
        (0.5, -2.0, (0.1, 0.4), 1.8),
        (1.5, 2.0, 1.0, -3.0),
        (0.01, -2.0, 1.0, 0.02),
    ],
)
def test_ratio_is_clipped_on_the_side_of_improvement(
    ratio: float, advantage: float, clip: float | tuple[float, float], loss: float
) -> None:
    log_prob = torch.tensor([math.log(ratio) - 3.0], dtype=torch.float64, requires_grad=True)
    found = awm_loss(log_prob, torch.tensor([-3.0]), torch.tensor([advantage]), clip=clip)
    assert found.item() == pytest.approx(loss, rel=1e-12)
    found.sum().backward()
    held = not math.isclose(loss, -advantage * ratio)
    assert log_prob.grad.item() == pytest.approx(0.0 if held else -advantage * ratio, rel=1e-12)


def test_awm_advantage_is_clipped_and_scaled() -> None:
    raw = torch.tensor([-9.0, -5.0, 1.0, 9.0])
    assert awm_advantage(raw).tolist() == pytest.approx([-1, -1, 0.2, 1])
    assert awm_advantage(raw, adv_clip=2.0, advantage_max=3.0).tolist() == [-3, -3, 1.5, 3]
    with pytest.raises(ValueError, match="adv_clip is 0"):
        awm_advantage(raw, adv_clip=0)


def test_samples_do_not_see_each_other() -> None:
    theta, target = _draw(2)
    together = awm_log_prob(theta, target, T)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(awm_log_prob(theta[order], target[order], T[order]), together[order])
    theta[1, 0, 0, 0] = float("nan")
    found = awm_loss(awm_log_prob(theta, target, T), together, A, clip=1.0)
    assert found.isnan().tolist() == [False, True, False]
    assert torch.equal(found[[0, 2]], -A[[0, 2]])


def test_log_prob_does_not_depend_on_packing_or_lose_half_precision() -> None:
    theta, target = _draw(2)
    packed = [v.permute(0, 2, 3, 1).reshape(3, 30, 4) for v in (theta, target)]
    torch.testing.assert_close(awm_log_prob(*packed, T), awm_log_prob(theta, target, T), rtol=1e-13, atol=0)
    halves = theta.half(), target.half()
    assert torch.equal(awm_log_prob(*halves, T), awm_log_prob(*(v.float() for v in halves), T))


def test_bad_input_is_named() -> None:
    theta, target = _draw(2)
    with pytest.raises(ValueError, match=r"Unknown weighting 'hubber'\. Known: uniform, t, t2, huber, ghuber"):
        awm_log_prob(theta, target, T, weighting="hubber")
    with pytest.raises(ValueError, match="p is 0"):
        awm_log_prob(theta, target, T, p=0)
    with pytest.raises(ValueError, match="v_target has shape"):
        awm_log_prob(theta, target[:2], T)
    with pytest.raises(ValueError, match=r"clip is -0\.1"):
        awm_loss(A, A, A, clip=-0.1)
    with pytest.raises(ValueError, match=r"log_prob_old \(1,\)"):
        awm_loss(A, A[:1], A, clip=1.0)
    with pytest.raises(ValueError, match=r"the advantage \(1,\)"):
        awm_loss(A, A, A[:1], clip=1.0)
