"""The gradient that a guard's weight is calibrated by, and sums of gradients over processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from train_fakes import train_config
from train_processes import forked, said

from nbench.normguard.guarding import Guard, additive_guards
from nbench.normguard.probe import Probe, sum_gradients, total_norm
from nbench.normguard.processes import Processes


def guard() -> Guard:
    settings = [{"name": "norm_hinge", "power": 1, "margin": 0.0, "calibrate": {"gradient_ratio": 0.5}}]
    return additive_guards(train_config(Path("x"), guards=settings).guards)[0]


def velocities(weight: Tensor, scale: float) -> dict[Any, Tensor]:
    """The policy's norm is `scale` times the reference's, which is 1, in each of two rows."""
    ones = torch.ones(2, 1, 1, 4)
    return {"policy": weight * scale * ones, "reference": ones}


def probed(scale: float, base_gradient: float = 4.0) -> tuple[Guard, float | None]:
    weight = torch.nn.Parameter(torch.ones(()))
    probe = Probe({"w": weight}, Processes(Accelerator(cpu=True)))
    one = guard()
    probe.add(one, velocities(weight, scale), rows=2)
    weight.grad = torch.tensor(base_gradient)
    return one, probe.calibrate(one)


def test_the_weight_makes_the_guards_gradient_the_wanted_share_of_the_losss() -> None:
    """The hinge is 1.5 w - 1 in each row: its gradient is 1.5, the base loss's 4, and half of that is wanted."""
    one, weight = probed(1.5)
    assert weight == pytest.approx(0.5 * 4.0 / 1.5)
    assert one.weight == weight


@pytest.mark.parametrize(("scale", "base"), [(0.9, 4.0), (1.5, 0.0)], ids=["inactive", "no base gradient"])
def test_without_something_to_set_it_by_the_weight_stays_open(scale: float, base: float) -> None:
    one, weight = probed(scale, base)
    assert weight is None and one.weight is None


def test_batches_add_up_and_idle_ones_add_nothing() -> None:
    weight = torch.nn.Parameter(torch.ones(()))
    probe = Probe({"w": weight}, Processes(Accelerator(cpu=True)))
    one = guard()
    for _ in range(2):
        probe.add(one, velocities(weight, 1.5), rows=4)
    probe.take((velocities(weight, 1.5)["policy"] * 0).sum())
    weight.grad = torch.tensor(4.0)
    assert probe.calibrate(one) == pytest.approx(0.5 * 4.0 / 1.5)


def test_a_probe_leaves_the_graph_and_the_gradients_alone() -> None:
    weight = torch.nn.Parameter(torch.ones(()))
    v = velocities(weight, 1.5)
    Probe({"w": weight}, Processes(Accelerator(cpu=True))).add(guard(), v, rows=2)
    assert weight.grad is None
    v["policy"].sum().backward()
    assert weight.grad == 12


def test_gradients_are_summed_over_processes_whatever_their_shapes(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        processes = Processes(Accelerator(cpu=True))
        weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), ())]
        for i, weight in enumerate(weights):
            weight.grad = torch.full_like(weight, float(10 * rank + i))
        without = torch.nn.Parameter(torch.zeros(1))
        sum_gradients([*weights, without], processes)
        for i, weight in enumerate(weights):
            assert torch.equal(weight.grad, torch.full_like(weight, 10.0 + 2 * i))
        assert without.grad is None

    assert forked(2, work, tmp_path) == [0, 0], said(tmp_path)


def test_the_norm_is_that_of_all_tensors_together() -> None:
    tensors = [torch.full((2, 2), 2.0), torch.full((9,), 1.0)]
    assert total_norm(tensors, Processes(Accelerator(cpu=True))) == pytest.approx(5.0)
