"""DiffusionNFT: values, gradients and the identities of its definition, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nbench.normguard.losses import eval_ema_decay, nft_loss, old_policy_decay, optimality

SHAPE = (3, 4, 5, 6)
D = 4 * 5 * 6
T = torch.tensor([0.2, 0.55, 1.0], dtype=torch.float64)


def _draw(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)


def _gradient(v_theta: Tensor, *arguments: Tensor | float, **options: float) -> Tensor:
    v = v_theta.clone().requires_grad_()
    nft_loss(v, *arguments, **options).sum().backward()
    assert v.grad is not None
    return v.grad


def _column(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


@given(
    seed=st.integers(0, 1000),
    r=st.floats(0, 1),
    beta=st.sampled_from([0.1, 1.0, 2.0]),
    adv_clip=st.sampled_from([1.0, 5.0]),
)
def test_loss_equals_the_form_on_clean_latents(seed: int, r: float, beta: float, adv_clip: float) -> None:
    theta, old, x0, eps = _draw(4, seed)
    t = _column(T)
    x_t = (1 - t) * x0 + t * eps
    expected = torch.zeros(3, dtype=torch.float64)
    for share, v in ((r, beta * theta + (1 - beta) * old), (1 - r, (1 + beta) * old - beta * theta)):
        error = (x_t - t * v) - x0
        weight = error.abs().flatten(1).mean(1).clamp_min(1e-5)
        expected += adv_clip / beta * share * error.square().flatten(1).mean(1) / weight
    found = nft_loss(theta, old, eps - x0, T, r, beta=beta, adv_clip=adv_clip)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("r", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("beta", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("adv_clip", [1.0, 5.0])
def test_value_at_the_old_policy_is_the_matching_error_for_every_r(r: float, beta: float, adv_clip: float) -> None:
    old, target = _draw(2)
    found = nft_loss(old, old, target, T, r, beta=beta, adv_clip=adv_clip, self_normalize=False)
    torch.testing.assert_close(found, adv_clip / beta * T.square() * _mse(old, target), rtol=1e-13, atol=0)
    weight = T * (old - target).abs().flatten(1).mean(1)
    found = nft_loss(old, old, target, T, r, beta=beta, adv_clip=adv_clip)
    torch.testing.assert_close(found, adv_clip / beta * T.square() * _mse(old, target) / weight, rtol=1e-13, atol=0)


@given(seed=st.integers(0, 1000), advantage=st.floats(-1, 1))
def test_gradient_at_the_old_policy_is_advantage_weighted_matching(seed: int, advantage: float) -> None:
    old, target = _draw(2, seed)
    weight = T * (old - target).abs().flatten(1).mean(1)
    expected = 2 * advantage * _column(T.square() / weight) * (old - target) / D
    for beta in (0.1, 1.0, 2.0):
        for adv_clip in (1.0, 5.0):
            r = optimality(torch.full((3,), advantage, dtype=torch.float64), adv_clip=adv_clip)
            found = _gradient(old, old, target, T, r, beta=beta, adv_clip=adv_clip)
            torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-15)


def test_gradient_at_the_old_policy_is_zero_without_advantage() -> None:
    old, target = _draw(2)
    for beta in (0.1, 1.0, 2.0):
        assert _gradient(old, old, target, T, 0.5, beta=beta).abs().max() < 1e-15
    assert _gradient(old, old, target, T, 0.6).abs().max() > 1e-4


@given(seed=st.integers(0, 1000), r=st.floats(0, 1), beta=st.sampled_from([0.1, 0.5, 1.0, 2.0]))
def test_loss_expands_into_a_proximal_and_a_linear_term(seed: int, r: float, beta: float) -> None:
    theta, old, target = _draw(3, seed)
    linear = ((old - target) * (theta - old)).flatten(1).mean(1)
    expected = _mse(old, target) + beta**2 * _mse(theta, old) + 2 * beta * (2 * r - 1) * linear
    found = nft_loss(theta, old, target, T, r, beta=beta, adv_clip=1.0, self_normalize=False)
    torch.testing.assert_close(beta * found, T.square() * expected, rtol=1e-11, atol=1e-13)


@given(seed=st.integers(0, 1000), r=st.floats(0, 1), beta=st.sampled_from([0.1, 0.5, 1.0, 2.0]))
def test_stationary_point_lies_on_the_line_through_old_and_target(seed: int, r: float, beta: float) -> None:
    old, target, other = _draw(3, seed)
    best = old + (2 * r - 1) / beta * (target - old)
    options = {"beta": beta, "self_normalize": False}
    assert _gradient(best, old, target, T, r, **options).abs().max() < 1e-12
    at_best = nft_loss(best, old, target, T, r, **options)
    assert (nft_loss(best + 0.1 * other, old, target, T, r, **options) > at_best).all()


def test_beta_one_and_r_one_is_plain_matching() -> None:
    theta, old, target = _draw(3)
    found = nft_loss(theta, old, target, T, 1.0, beta=1.0, adv_clip=1.0, self_normalize=False)
    torch.testing.assert_close(found, T.square() * _mse(theta, target), rtol=1e-13, atol=0)


@given(seed=st.integers(0, 1000), r=st.floats(0, 1), beta=st.sampled_from([0.1, 1.0, 2.0]))
def test_weights_get_no_gradient(seed: int, r: float, beta: float) -> None:
    theta, old, target = _draw(3, seed)
    plus, minus = old + beta * (theta - old) - target, old - beta * (theta - old) - target
    w_plus, w_minus = (T * e.abs().flatten(1).mean(1) for e in (plus, minus))
    expected = 2 * 5 / D * _column(T.square()) * (r * plus / _column(w_plus) - (1 - r) * minus / _column(w_minus))
    torch.testing.assert_close(_gradient(theta, old, target, T, r, beta=beta), expected, rtol=1e-9, atol=1e-14)


def test_only_the_policy_gets_a_gradient() -> None:
    theta, old, target = (v.requires_grad_() for v in _draw(3))
    nft_loss(theta, old, target, T, 0.7).sum().backward()
    assert theta.grad is not None
    assert old.grad is None
    assert target.grad is None


def test_weight_has_a_floor() -> None:
    (target,) = _draw(1)
    old = target + 1e-7
    found = nft_loss(old, old, target, 1.0, 0.5, adv_clip=1.0)
    torch.testing.assert_close(found, torch.full((3,), 1e-14 / 1e-5, dtype=torch.float64), rtol=1e-6, atol=0)
    assert nft_loss(target, target, target, 1.0, 0.5).tolist() == [0, 0, 0]


def test_samples_do_not_see_each_other() -> None:
    theta, old, target = _draw(3)
    r = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
    together = nft_loss(theta, old, target, T, r)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(nft_loss(theta[order], old[order], target[order], T[order], r[order]), together[order])
    for row in range(3):
        alone = nft_loss(*(v[row : row + 1] for v in (theta, old, target, T, r)))
        assert torch.equal(alone, together[row : row + 1])
    theta[1, 0, 0, 0] = float("nan")
    assert nft_loss(theta, old, target, T, r).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    halves = _draw(3, dtype=dtype)
    found = nft_loss(*halves, T.float(), 0.7, beta=0.1)
    assert found.dtype == torch.float64
    assert torch.equal(found, nft_loss(*(v.float() for v in halves), T.float(), 0.7, beta=0.1))
    exact = nft_loss(*(v.double() for v in halves), T.float(), 0.7, beta=0.1)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=0)
    assert not torch.equal(found, exact)  # float64 in stays float64


def test_loss_does_not_depend_on_packing() -> None:
    vectors = _draw(3)
    packed = [v.permute(0, 2, 3, 1).reshape(3, 30, 4) for v in vectors]
    torch.testing.assert_close(nft_loss(*packed, T, 0.7), nft_loss(*vectors, T, 0.7), rtol=1e-13, atol=0)


def test_bad_input_is_named() -> None:
    theta, old, target = _draw(3)
    with pytest.raises(ValueError, match="v_old has shape"):
        nft_loss(theta, old[:1], target, T, 0.5)
    with pytest.raises(ValueError, match="t has shape"):
        nft_loss(theta, old, target, _column(T), 0.5)
    for name in ("beta", "adv_clip"):
        for value in (0.0, -1.0, float("nan")):
            with pytest.raises(ValueError, match=f"{name} is"):
                nft_loss(theta, old, target, T, 0.5, **{name: value})


def test_optimality_maps_advantages_to_probabilities() -> None:
    found = optimality(torch.tensor([-9.0, -5.0, -2.5, 0.0, 2.5, 5.0, 9.0]))
    assert found.tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert optimality(torch.tensor([-2.0, 0.5, 1.0]), adv_clip=1.0).tolist() == [0, 0.75, 1]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("positive_only", [0.5, 0.5, 0.5, 0.8, 1.0]),
        ("negative_only", [0.0, 0.2, 0.5, 0.5, 0.5]),
        ("one_only", [0.5, 0.5, 0.5, 0.6, 0.6]),
        ("binary", [0.4, 0.4, 0.5, 0.6, 0.6]),
    ],
)
def test_optimality_modes(mode: str, expected: list[float]) -> None:
    advantages = torch.tensor([-9.0, -3.0, 0.0, 3.0, 9.0], dtype=torch.float64)
    assert optimality(advantages, mode=mode).tolist() == pytest.approx(expected, abs=1e-15)


def test_optimality_refuses_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"Unknown advantage mode .both.\. Known: all, positive_only"):
        optimality(torch.zeros(1), mode="both")
    with pytest.raises(ValueError, match="adv_clip is 0"):
        optimality(torch.zeros(1), adv_clip=0)


@pytest.mark.parametrize(
    ("schedule", "step", "decay"),
    [
        (0, 0, 0.0),
        (0, 1000, 0.0),
        (1, 0, 0.0),
        (1, 1, 0.001),
        (1, 100, 0.1),
        (1, 500, 0.5),
        (1, 5000, 0.5),
        (2, 0, 0.0),
        (2, 74, 0.0),
        (2, 75, 0.0),
        (2, 76, 0.0075),
        (2, 100, 0.1875),
        (2, 208, 0.9975),
        (2, 209, 0.999),
        (2, 5000, 0.999),
    ],
)
def test_old_policy_decay(schedule: int, step: int, decay: float) -> None:
    assert old_policy_decay(step, schedule) == pytest.approx(decay, abs=1e-15)


def test_old_policy_decay_is_schedule_one_unless_told() -> None:
    assert old_policy_decay(300) == old_policy_decay(300, 1) == 0.3


def test_eval_ema_decay() -> None:
    assert eval_ema_decay(0) == 0.1
    assert eval_ema_decay(9) == 10 / 19
    assert eval_ema_decay(80) == 0.9
    assert eval_ema_decay(10**6) == 0.9


def test_decays_refuse_bad_input() -> None:
    with pytest.raises(ValueError, match="step is -1"):
        old_policy_decay(-1)
    with pytest.raises(ValueError, match="step is -1"):
        eval_ema_decay(-1)
    with pytest.raises(ValueError, match="Unknown decay schedule 3"):
        old_policy_decay(5, 3)
