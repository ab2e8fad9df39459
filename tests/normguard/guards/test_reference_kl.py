"""Distances to a reference: weights, zeros and gradients. losses/test_grpo.py has state_kl's closed form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nbench.normguard.guards import reference_kl, state_kl

SHAPE = (3, 4, 5, 6)
D = 4 * 5 * 6
T = torch.tensor([0.2, 0.55, 1.0], dtype=torch.float64)
ELBO = [1 / (2 * 0.49 * t / (1 - min(t, 0.99))) for t in (0.2, 0.55, 1.0)]


def _draw(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize(("weighting", "weights"), [("uniform", [1.0, 1.0, 1.0]), ("elbo", ELBO)])
@given(seed=st.integers(0, 1000))
def test_value_and_gradient(weighting: str, weights: list[float], seed: int) -> None:
    theta, ref = _draw(2, seed)
    theta.requires_grad_()
    weight = torch.tensor(weights, dtype=torch.float64)
    found = reference_kl(theta, ref, T, weighting=weighting)
    expected = weight * (theta.detach() - ref).square().flatten(1).mean(1)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=0)
    found.sum().backward()
    slope = 2 / D * weight.view(-1, 1, 1, 1) * (theta.detach() - ref)
    torch.testing.assert_close(theta.grad, slope, rtol=1e-12, atol=0)


@pytest.mark.parametrize("weighting", ["uniform", "elbo"])
def test_zero_at_the_start_of_training(weighting: str) -> None:
    (ref,) = _draw(1)
    theta = ref.clone().requires_grad_()
    found = reference_kl(theta, ref, T, weighting=weighting)
    found.sum().backward()
    assert found.tolist() == [0, 0, 0]
    assert torch.equal(theta.grad, torch.zeros(SHAPE, dtype=torch.float64))
    assert state_kl(ref, ref, 0.3).tolist() == [0, 0, 0]


def test_state_kl_with_and_without_the_step() -> None:
    mean, mean_ref = torch.full((1, 4), 1.0), torch.full((1, 4), 0.4)
    assert state_kl(mean, mean_ref, 0.3).item() == pytest.approx(0.36 / 0.18, rel=1e-6)
    for dt in (0.1, -0.1):
        assert state_kl(mean, mean_ref, 0.3, dt).item() == pytest.approx(0.1 * 0.36 / 0.18, rel=1e-6)


def test_reference_gets_no_gradient() -> None:
    theta, ref = (v.requires_grad_() for v in _draw(2))
    (reference_kl(theta, ref, T).sum() + state_kl(theta, ref, 0.3, 0.1).sum()).backward()
    assert theta.grad is not None
    assert ref.grad is None


def test_uniform_is_the_default() -> None:
    theta, ref = _draw(2)
    assert torch.equal(reference_kl(theta, ref, T), reference_kl(theta, ref, T, weighting="uniform"))


def test_samples_do_not_see_each_other() -> None:
    theta, ref = _draw(2)
    for guard in (lambda v, t: reference_kl(v, ref, t, weighting="elbo"), lambda v, t: state_kl(v, ref, t, t)):
        together = guard(theta, T)
        spoilt = theta.clone()
        spoilt[1, 0, 0, 0] = float("nan")
        assert guard(spoilt, T).isnan().tolist() == [False, True, False]
        assert torch.equal(guard(spoilt, T)[[0, 2]], together[[0, 2]])


def test_bad_input_is_named() -> None:
    theta, ref = _draw(2)
    with pytest.raises(ValueError, match=r"Unknown weighting 'snr'\. Known: uniform, elbo"):
        reference_kl(theta, ref, T, weighting="snr")
    with pytest.raises(ValueError, match="v_ref has shape"):
        reference_kl(theta, ref[:1], T)
    with pytest.raises(ValueError, match="t has shape"):
        reference_kl(theta, ref, T.view(3, 1, 1, 1))
    with pytest.raises(ValueError, match="std has shape"):
        state_kl(theta, ref, T.view(3, 1, 1, 1))
