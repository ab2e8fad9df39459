"""Guards in a training: whom they compare with, and that a calibrated weight gives the gradient it promises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from train_parts import config

from nbench.flow.model import Conditioning
from nbench.flow.norms import rms
from nbench.normguard.guarding import Guard, additive_guards
from nbench.normguard.guards import norm_hinge, old_policy_hinge, reference_kl, symmetric_norm
from nbench.normguard.methods import Draw
from nbench.normguard.policy import Role

SHAPE = (6, 4, 3, 3)
HINGES = {"norm_hinge": norm_hinge, "symmetric_norm": symmetric_norm, "old_policy_hinge": old_policy_hinge}
MODES = ["rms", "l2", "ratio"]


def guard_of(name: str = "norm_hinge", **settings: Any) -> Guard:
    given = settings if {"weight", "calibrate"} & set(settings) else {"weight": 0.5, **settings}
    (guard,) = additive_guards(config(guards=[{"name": name, **given}]).guards)
    return guard


def velocities(inflation: float = 0.1) -> dict[Role, Tensor]:
    """A reference, an old policy 4 % longer, and a policy `inflation` longer in a somewhat different direction."""
    generator = torch.Generator().manual_seed(0)
    ref, other = (torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    turned = ref + 0.3 * other
    theta = turned * ((1 + inflation) * rms(ref) / rms(turned)).view(-1, 1, 1, 1)
    return {"policy": theta, "old": 1.04 * ref, "reference": ref}


def draw_at(t: Tensor) -> Draw:
    empty = torch.zeros(SHAPE)
    return Draw(empty, t, Conditioning({}), torch.zeros(SHAPE[0]), empty)


TIMES = torch.linspace(0.1, 1.0, SHAPE[0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", HINGES)
def test_a_penalty_is_its_pure_function_against_its_role(name: str, mode: str, power: int) -> None:
    guard, v = guard_of(name, mode=mode, power=power, margin=0.02), velocities()
    against = v["old" if name == "old_policy_hinge" else "reference"]
    assert guard.role == ("old" if name == "old_policy_hinge" else "reference")
    assert (guard.name, guard.weight) == (name, 0.5)
    wanted = HINGES[name](v["policy"], against, mode=mode, power=power, margin=0.02)
    assert torch.equal(guard.penalty(draw_at(TIMES), v), wanted)  # lambda is not in it
    assert wanted.min() > 0
    assert torch.equal(guard.linear(v), HINGES[name](v["policy"], against, mode=mode, power=1, margin=0.02))


@pytest.mark.parametrize("weighting", ["uniform", "elbo"])
def test_reference_kl_takes_the_times_of_the_draw(weighting: str) -> None:
    guard, v = guard_of("reference_kl", weighting=weighting), velocities()
    wanted = reference_kl(v["policy"], v["reference"], TIMES, weighting=weighting)
    assert torch.equal(guard.penalty(draw_at(TIMES), v), wanted)


def test_guards_of_grpos_own_loss_are_not_additive() -> None:
    guards = [{"name": "ratio_norm"}, {"name": "state_kl", "weight": 1}, {"name": "norm_hinge", "weight": 1}]
    assert [guard.name for guard in additive_guards(config("grpo", guards=guards).guards)] == ["norm_hinge"]
    assert additive_guards(()) == []


@pytest.mark.parametrize("mode", MODES)
def test_the_reference_norm_is_in_the_unit_of_the_mode(mode: str) -> None:
    guard, v = guard_of(mode=mode), velocities()
    flat = v["reference"].flatten(1)
    wanted = {"rms": flat.square().mean(1).sqrt(), "l2": flat.norm(dim=1), "ratio": torch.ones(SHAPE[0])}[mode]
    torch.testing.assert_close(guard.reference_norm(v).double(), wanted.double(), rtol=1e-6, atol=0)
    old = guard_of("old_policy_hinge", mode=mode).reference_norm(v).double()
    torch.testing.assert_close(old, wanted.double() * (1 if mode == "ratio" else 1.04), rtol=1e-6, atol=0)


class Toy:
    """Velocities that are a matrix's product with a state: one trained matrix, as a layer of a policy."""

    def __init__(self, inflation: float) -> None:
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(5, 36, generator=generator, dtype=torch.float64)
        self.base = torch.randn(36, 36, generator=generator, dtype=torch.float64)
        self.target = torch.randn(5, 36, generator=generator, dtype=torch.float64)
        self.matrix = ((1 + inflation) * self.base).requires_grad_()

    def velocities(self) -> dict[Role, Tensor]:
        return {
            "policy": (self.inputs @ self.matrix).view(5, 4, 3, 3),
            "reference": (self.inputs @ self.base).view(5, 4, 3, 3),
        }

    def loss(self) -> Tensor:
        return (self.inputs @ self.matrix - self.target).square().mean()

    def gradient(self, value: Tensor) -> float:
        (found,) = torch.autograd.grad(value, self.matrix)
        return float(found.norm())


def calibrated(toy: Toy, **settings: Any) -> Guard:
    """A guard whose weight was found at `toy`, from what the trainer gives it."""
    guard = guard_of(**settings)
    assert guard.weight is None
    v: Mapping[Role, Tensor] = toy.velocities()
    weight = guard.calibrate(
        toy.gradient(toy.loss()), toy.gradient(guard.linear(v).mean()), float(guard.reference_norm(v).mean())
    )
    assert guard.weight == weight
    return guard


def share(guard: Guard, toy: Toy) -> float:
    """The weighted guard's gradient norm over the base loss's, measured."""
    assert guard.weight is not None
    penalty = guard.penalty(draw_at(torch.ones(5)), toy.velocities()).mean()
    return guard.weight * toy.gradient(penalty) / toy.gradient(toy.loss())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ratio", [0.05, 0.5])
def test_a_calibrated_weight_of_power_one_gives_the_gradient_ratio(mode: str, ratio: float) -> None:
    toy = Toy(0.03)
    guard = calibrated(toy, mode=mode, power=1, calibrate={"gradient_ratio": ratio})
    assert share(guard, toy) == pytest.approx(ratio, rel=1e-5)  # rms of the reference is float32


@pytest.mark.parametrize("mode", ["l2", "ratio"])
def test_the_mode_changes_the_weight_and_not_the_guard(mode: str) -> None:
    toy = Toy(0.03)
    one, other = (calibrated(toy, mode=m, power=1, calibrate={"gradient_ratio": 0.1}) for m in ("rms", mode))
    assert one.weight is not None and other.weight is not None
    if mode == "l2":
        assert one.weight == pytest.approx(other.weight * math.sqrt(36), rel=1e-9)
    assert share(one, toy) == pytest.approx(share(other, toy), rel=1e-5)


# grad h^2 = 2 h grad h, and h differs a little between rows: the ratio is met where all rows have the mean norm, and
# else within the spread of their norms (here 20 %).
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("seen", "inflation"), [(0.001, 0.05), (0.05, 0.05), (0.3, 0.1)])
def test_a_calibrated_weight_of_power_two_gives_the_ratio_at_the_named_inflation(
    mode: str, seen: float, inflation: float
) -> None:
    guard = calibrated(Toy(seen), mode=mode, power=2, calibrate={"gradient_ratio": 0.2, "inflation": inflation})
    there = Toy(inflation)
    base = Toy(seen)  # the base loss's gradient is that of the calibration
    measured = share(guard, there) * there.gradient(there.loss()) / base.gradient(base.loss())
    assert measured == pytest.approx(0.2, rel=1e-5 if mode == "ratio" else 0.2)
    half = Toy(inflation / 2)
    less = share(guard, half) * half.gradient(half.loss()) / base.gradient(base.loss())
    assert less == pytest.approx(measured / 2, rel=1e-6)  # it fades with the inflation


def test_rows_of_one_norm_meet_the_ratio_of_power_two_exactly() -> None:
    toy, there = Toy(0.02), Toy(0.07)
    for one in (toy, there):
        one.inputs = one.inputs[:1].expand(5, 36)
        one.target = one.target[:1].expand(5, 36)
    guard = calibrated(toy, power=2, calibrate={"gradient_ratio": 0.2, "inflation": 0.07})
    measured = share(guard, there) * there.gradient(there.loss()) / toy.gradient(toy.loss())
    assert measured == pytest.approx(0.2, rel=1e-5)
