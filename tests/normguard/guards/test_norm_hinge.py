"""The norm hinge and its controls: where it is exactly zero, how it grows, which way it pushes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nbench.normguard.guards import norm_hinge, old_policy_hinge, symmetric_norm
from nbench.normguard.losses import nft_loss

SHAPE = (3, 4, 5, 6)
D = 4 * 5 * 6
MODES = ["rms", "l2", "ratio"]


def _draw(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def _rms(v: Tensor) -> Tensor:
    return v.square().flatten(1).mean(1).sqrt()


def _column(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [1.0, 0.99, 0.5, 0.0])
def test_value_and_gradient_are_exactly_zero_up_to_the_reference(
    mode: str, power: int, dtype: torch.dtype, share: float
) -> None:
    (ref,) = _draw(1)
    ref = ref.to(dtype)
    theta = (share * ref).requires_grad_()
    hinge = norm_hinge(theta, ref, mode=mode, power=power)
    hinge.sum().backward()
    assert hinge.tolist() == [0, 0, 0]
    assert torch.equal(theta.grad, torch.zeros_like(ref))


@given(seed=st.integers(0, 1000), turn=st.integers(0, 1000))
def test_a_shorter_velocity_in_another_direction_costs_nothing(seed: int, turn: int) -> None:
    (ref,), (other,) = _draw(1, seed), _draw(1, turn + 2000)
    theta = other * _column(0.999 * _rms(ref) / _rms(other))
    for mode in MODES:
        assert norm_hinge(theta, ref, mode=mode).tolist() == [0, 0, 0]


@given(seed=st.integers(0, 1000))
def test_ten_percent_longer_costs_a_tenth_of_the_reference(seed: int) -> None:
    (ref,) = _draw(1, seed)
    n_ref = _rms(ref)
    expected = {"rms": 0.1 * n_ref, "l2": 0.1 * n_ref * math.sqrt(D), "ratio": torch.full_like(n_ref, 0.1)}
    for mode in MODES:
        found = norm_hinge(1.1 * ref, ref, mode=mode)
        torch.testing.assert_close(found, expected[mode], rtol=1e-12, atol=0)
        squared = norm_hinge(1.1 * ref, ref, mode=mode, power=2)
        torch.testing.assert_close(squared, expected[mode].square(), rtol=1e-12, atol=0)
        within = norm_hinge(1.1 * ref, ref, mode=mode, margin=0.04)
        torch.testing.assert_close(within, 0.6 * expected[mode], rtol=1e-12, atol=0)
        assert norm_hinge(1.1 * ref, ref, mode=mode, margin=0.11).tolist() == [0, 0, 0]


@given(seed=st.integers(0, 1000), power=st.sampled_from([1, 2]), margin=st.sampled_from([0.0, 0.05]))
def test_gradient_shortens_and_does_not_turn(seed: int, power: int, margin: float) -> None:
    theta, ref = _draw(2, seed)
    theta = 2 * theta
    n_theta, n_ref = _rms(theta), _rms(ref)
    rms_slope = 1 / (D * n_theta)
    for mode, scale in (("rms", 1.0), ("l2", math.sqrt(D)), ("ratio", 1 / n_ref)):
        v = theta.clone().requires_grad_()
        norm_hinge(v, ref, mode=mode, power=power, margin=margin).sum().backward()
        excess = scale * (n_theta - (1 + margin) * n_ref)
        slope = scale * rms_slope * (1 if power == 1 else 2 * excess)
        torch.testing.assert_close(v.grad, _column(slope) * theta, rtol=1e-11, atol=0)


@given(seed=st.integers(0, 1000), scale=st.floats(0, 3), margin=st.sampled_from([0.0, 0.05]))
def test_hinge_is_bounded_by_the_velocity_rms_difference(seed: int, scale: float, margin: float) -> None:
    theta, ref = _draw(2, seed)
    theta = ref + scale * theta
    hinge = norm_hinge(theta, ref, margin=margin)
    assert (hinge >= 0).all()
    assert (hinge <= _rms(theta - ref) * (1 + 1e-14)).all()


def test_bound_is_tight_for_a_pure_stretch() -> None:
    (ref,) = _draw(1)
    torch.testing.assert_close(norm_hinge(1.3 * ref, ref), _rms(0.3 * ref), rtol=1e-13, atol=0)


def test_reference_gets_no_gradient() -> None:
    theta, ref = (v.requires_grad_() for v in _draw(2))
    for guard in (norm_hinge, old_policy_hinge, symmetric_norm):
        guard(3 * theta, ref, mode="ratio", margin=0.05).sum().backward()
    assert theta.grad is not None
    assert ref.grad is None


@pytest.mark.parametrize("guard", [norm_hinge, symmetric_norm])
@pytest.mark.parametrize("mode", MODES)
def test_samples_do_not_see_each_other(guard: object, mode: str) -> None:
    theta, ref = _draw(2)
    theta = 1.5 * theta
    together = guard(theta, ref, mode=mode)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(guard(theta[order], ref[order], mode=mode), together[order])
    for row in range(3):
        one = slice(row, row + 1)
        assert torch.equal(guard(theta[one], ref[one], mode=mode), together[one])
    theta[1, 0, 0, 0] = float("nan")
    theta.requires_grad_()
    spoilt = guard(theta, ref, mode=mode)
    assert spoilt.isnan().tolist() == [False, True, False]
    spoilt.sum().backward()
    assert theta.grad[[0, 2]].isfinite().all()


def test_hinge_does_not_depend_on_packing_or_size() -> None:
    theta, ref = _draw(2)
    theta = 1.5 * theta
    packed = [v.permute(0, 2, 3, 1).reshape(3, 30, 4) for v in (theta, ref)]
    torch.testing.assert_close(norm_hinge(*packed), norm_hinge(theta, ref), rtol=1e-13, atol=0)
    larger = [v.repeat(1, 1, 4, 4) for v in (theta, ref)]
    torch.testing.assert_close(norm_hinge(*larger), norm_hinge(theta, ref), rtol=1e-13, atol=0)
    torch.testing.assert_close(
        norm_hinge(*larger, mode="l2"), 4 * norm_hinge(theta, ref, mode="l2"), rtol=1e-13, atol=0
    )


def test_norms_are_taken_in_float64() -> None:
    ref = torch.full((1, 100_000), 300.0, dtype=torch.float16)  # its square overflows float16
    theta = torch.full((1, 100_000), 330.0, dtype=torch.float16)
    assert norm_hinge(theta, ref).dtype == torch.float64
    assert norm_hinge(theta, ref).item() == pytest.approx(30.0, rel=1e-12)


def test_a_zero_reference_gives_no_nan() -> None:
    zero = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    for mode in MODES:
        hinge = norm_hinge(zero, torch.zeros(2, 6), mode=mode)
        hinge.sum().backward()
        assert hinge.tolist() == [0, 0]
        assert zero.grad.tolist() == torch.zeros(2, 6).tolist()
    assert norm_hinge(torch.ones(1, 6), torch.zeros(1, 6), mode="ratio").item() > 1e30


@given(seed=st.integers(0, 1000), r=st.floats(0, 1), power=st.sampled_from([1, 2]))
def test_lambda_zero_is_bit_identical_to_the_base_loss(seed: int, r: float, power: int) -> None:
    theta, old, ref, target = _draw(4, seed)
    t = torch.tensor([0.2, 0.5, 1.0])
    state = torch.get_rng_state()
    gradients = []
    for guarded in (False, True):
        v = (2 * theta).float().requires_grad_()
        loss = nft_loss(v, old.float(), target.float(), t, r).mean()
        if guarded:
            assert norm_hinge(v, ref.float(), power=power).min() > 0
            total = loss + 0.0 * norm_hinge(v, ref.float(), power=power).mean()
            assert torch.equal(total, loss)
            loss = total
        loss.backward()
        gradients.append(v.grad)
    assert torch.equal(*gradients)
    assert torch.equal(torch.get_rng_state(), state)  # no guard draws random numbers


@given(seed=st.integers(0, 1000), scale=st.floats(0.3, 3))
def test_symmetric_penalty_counts_both_directions(seed: int, scale: float) -> None:
    (ref,) = _draw(1, seed)
    for mode, unit in (("rms", _rms(ref)), ("l2", math.sqrt(D) * _rms(ref)), ("ratio", torch.ones(3).double())):
        found = symmetric_norm(scale * ref, ref, mode=mode)
        torch.testing.assert_close(found, abs(scale - 1) * unit, rtol=1e-9, atol=1e-14)
        within = symmetric_norm(scale * ref, ref, mode=mode, power=2, margin=0.1)
        torch.testing.assert_close(within, max(0, abs(scale - 1) - 0.1) ** 2 * unit**2, rtol=1e-9, atol=1e-14)


def test_symmetric_penalty_equals_the_hinge_above_the_reference_only() -> None:
    (ref,) = _draw(1)
    assert torch.equal(symmetric_norm(1.2 * ref, ref, margin=0.05), norm_hinge(1.2 * ref, ref, margin=0.05))
    v = (0.8 * ref).requires_grad_()
    symmetric_norm(v, ref).sum().backward()
    assert ((v.grad * v).flatten(1).sum(1) < 0).all()  # lengthens a short velocity, where the hinge leaves it
    assert norm_hinge(0.8 * ref, ref).tolist() == [0, 0, 0]
    assert symmetric_norm(ref, ref).tolist() == [0, 0, 0]


def test_old_policy_hinge_compares_with_the_old_policy() -> None:
    theta, old = _draw(2)
    for options in ({}, {"mode": "l2", "power": 2, "margin": 0.1}):
        assert torch.equal(old_policy_hinge(2 * theta, old, **options), norm_hinge(2 * theta, old, **options))


@pytest.mark.parametrize("guard", [norm_hinge, old_policy_hinge, symmetric_norm])
def test_bad_input_is_named(guard: object) -> None:
    theta, ref = _draw(2)
    with pytest.raises(ValueError, match=r"Unknown norm mode 'rel'\. Known: rms, l2, ratio"):
        guard(theta, ref, mode="rel")
    for power in (0, 3, 1.5):
        with pytest.raises(ValueError, match="power is"):
            guard(theta, ref, power=power)
    for margin in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="margin is"):
            guard(theta, ref, margin=margin)
    with pytest.raises(ValueError, match="v_ref has shape"):
        guard(theta, ref[:1])
