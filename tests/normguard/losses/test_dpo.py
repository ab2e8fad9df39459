"""Flow DPO: value and gradients at the reference, symmetry, direction."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nbench.normguard.losses import dpo_loss, excess_error

SHAPE = (3, 4, 5, 6)
D = 4 * 5 * 6


def _draw(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)


@given(seed=st.integers(0, 1000), beta=st.sampled_from([1.0, 100.0, 2000.0]))
def test_value_and_gradients_at_the_reference(seed: int, beta: float) -> None:
    ref_win, ref_lose, target_win, target_lose = _draw(4, seed)
    win, lose = ref_win.clone().requires_grad_(), ref_lose.clone().requires_grad_()
    loss = dpo_loss(win, lose, ref_win, ref_lose, target_win, target_lose, beta=beta)
    torch.testing.assert_close(loss, torch.full((3,), math.log(2), dtype=torch.float64), rtol=1e-15, atol=0)
    loss.sum().backward()
    torch.testing.assert_close(win.grad, beta / 4 * 2 * (ref_win - target_win) / D, rtol=1e-12, atol=0)
    torch.testing.assert_close(lose.grad, -beta / 4 * 2 * (ref_lose - target_lose) / D, rtol=1e-12, atol=0)


@given(seed=st.integers(0, 1000), beta=st.sampled_from([0.1, 1.0, 5.0]))
def test_loss_equals_its_definition(seed: int, beta: float) -> None:
    win, lose, ref_win, ref_lose, target_win, target_lose = _draw(6, seed)
    margin = (_mse(win, target_win) - _mse(ref_win, target_win)) - (
        _mse(lose, target_lose) - _mse(ref_lose, target_lose)
    )
    expected = -torch.sigmoid(-beta / 2 * margin).log()
    found = dpo_loss(win, lose, ref_win, ref_lose, target_win, target_lose, beta=beta)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-14)


@given(seed=st.integers(0, 1000))
def test_swapping_winner_and_loser_flips_the_sign_of_the_margin(seed: int) -> None:
    win, lose, ref_win, ref_lose, target_win, target_lose = _draw(6, seed)
    loss = dpo_loss(win, lose, ref_win, ref_lose, target_win, target_lose, beta=2.0)
    swapped = dpo_loss(lose, win, ref_lose, ref_win, target_lose, target_win, beta=2.0)
    torch.testing.assert_close((-loss).exp() + (-swapped).exp(), torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)
    assert not torch.equal(loss, swapped)


def test_identical_pictures_teach_nothing() -> None:
    theta, ref, target = _draw(3)
    v = theta.requires_grad_()
    loss = dpo_loss(v, v, ref, ref, target, target, beta=2000.0)
    torch.testing.assert_close(loss, torch.full((3,), math.log(2), dtype=torch.float64), rtol=1e-15, atol=0)
    loss.sum().backward()
    assert torch.equal(v.grad, torch.zeros(SHAPE, dtype=torch.float64))


def test_fitting_the_winner_lowers_the_loss_and_fitting_the_loser_raises_it() -> None:
    ref_win, ref_lose, target_win, target_lose = _draw(4)
    towards_win = ref_win + 0.1 * (target_win - ref_win)
    towards_lose = ref_lose + 0.1 * (target_lose - ref_lose)
    rest = (ref_win, ref_lose, target_win, target_lose)
    assert (dpo_loss(towards_win, ref_lose, *rest, beta=1.0) < math.log(2)).all()
    assert (dpo_loss(ref_win, towards_lose, *rest, beta=1.0) > math.log(2)).all()


def test_only_the_policy_gets_a_gradient() -> None:
    tensors = [v.requires_grad_() for v in _draw(6)]
    dpo_loss(*tensors, beta=1.0).sum().backward()
    assert [v.grad is not None for v in tensors] == [True, True, False, False, False, False]


def test_a_large_margin_stays_finite() -> None:
    win, lose, ref_win, ref_lose, target_win, target_lose = _draw(6)
    win = (100 * win).requires_grad_()
    loss = dpo_loss(win, lose, ref_win, ref_lose, target_win, target_lose, beta=5000.0)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert win.grad.isfinite().all()
    assert (loss > 1e6).all()


def test_samples_do_not_see_each_other() -> None:
    tensors = _draw(6)
    together = dpo_loss(*tensors, beta=1.0)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(dpo_loss(*(v[order] for v in tensors), beta=1.0), together[order])
    tensors[0][1, 0, 0, 0] = float("nan")
    assert dpo_loss(*tensors, beta=1.0).isnan().tolist() == [False, True, False]


def test_excess_error_is_zero_at_the_reference_and_signed() -> None:
    ref, target = _draw(2)
    assert excess_error(ref, ref, target).tolist() == [0, 0, 0]
    torch.testing.assert_close(excess_error(target, ref, target), -_mse(ref, target), rtol=1e-14, atol=0)


def test_half_precision_is_computed_in_float32() -> None:
    halves = [v.bfloat16() for v in _draw(6)]
    assert torch.equal(dpo_loss(*halves, beta=1.0), dpo_loss(*(v.float() for v in halves), beta=1.0))


def test_bad_input_is_named() -> None:
    tensors = _draw(6)
    for beta in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="beta is"):
            dpo_loss(*tensors, beta=beta)
    with pytest.raises(ValueError, match="v_theta_lose has shape"):
        dpo_loss(tensors[0], tensors[1][:1], *tensors[2:], beta=1.0)
    with pytest.raises(ValueError, match="v_ref has shape"):
        dpo_loss(*tensors[:2], tensors[2][:1], *tensors[3:], beta=1.0)
