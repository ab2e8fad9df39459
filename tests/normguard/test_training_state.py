"""What a training changed, as plain tensors, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from train_parts import change, policy_of, velocity

from nbench.errors import UsageError
from nbench.normguard.policy import Policy
from nbench.normguard.training_state import restore, weights_and_moments


def optimizer_of(policy: Policy) -> torch.optim.AdamW:
    return torch.optim.AdamW(list(policy.tensors("policy").values()), lr=1e-2)


def step(policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    velocity(policy.view("policy")).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("settings", [{}, {"tuning": "full"}], ids=["lora", "full"])
def test_a_restored_policy_goes_on_as_the_first_would(settings: dict[str, Any], sd3_folder: Path) -> None:
    policy, other = (policy_of(sd3_folder, **settings) for _ in range(2))
    optimizer, other_optimizer = optimizer_of(policy), optimizer_of(other)
    change(policy)
    change(policy, "ema", seed=2)
    step(policy, optimizer)
    found = weights_and_moments(policy, optimizer)
    restore(other, other_optimizer, found, 1)
    step(policy, optimizer)
    step(other, other_optimizer)
    one, two = weights_and_moments(policy, optimizer), weights_and_moments(other, other_optimizer)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert {name.partition("/")[0] for name in one} == {"policy", "old", "ema", "exp_avg", "exp_avg_sq"}


def test_what_was_given_does_not_change_with_the_policy(sd3_folder: Path) -> None:
    policy = policy_of(sd3_folder)
    found = weights_and_moments(policy, optimizer_of(policy))
    before = {name: tensor.clone() for name, tensor in found.items()}
    change(policy)
    assert all(torch.equal(found[name], before[name]) for name in found)


def test_a_process_that_does_not_write_keeps_nothing(sd3_folder: Path) -> None:
    policy = policy_of(sd3_folder)
    assert weights_and_moments(policy, optimizer_of(policy), keep=False) == {}


def test_another_lora_is_refused(sd3_folder: Path) -> None:
    policy, other = policy_of(sd3_folder), policy_of(sd3_folder, lora={"rank": 2})
    found = weights_and_moments(policy, optimizer_of(policy))
    with pytest.raises(UsageError, match="do not fit this model: was its LoRA changed"):
        restore(other, optimizer_of(other), found, 1)
