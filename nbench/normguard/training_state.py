"""The weights of all roles and the optimiser's moments as plain tensors by name, and back.

Names and shapes are those of whole weights, so that a training may go on with another number of processes, sharded or
not.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nbench.normguard.policy import Policy
from nbench.normguard.sharding import kept, placed_as

_MOMENTS = ("exp_avg", "exp_avg_sq")


def weights_and_moments(policy: Policy, optimizer: torch.optim.Optimizer, *, keep: bool = True) -> dict[str, Tensor]:
    """Everything that training changed, on the CPU: "ROLE/NAME", "exp_avg/NAME", "exp_avg_sq/NAME".

    Args:
        policy: with its roles.
        optimizer: of the policy's weights.
        keep: whether this process wants them; where they are sharded all processes must come here.
    """
    found: dict[str, Tensor] = {}
    for role in policy.roles:
        found.update({f"{role}/{name}": tensor for name, tensor in policy.whole(role, keep=keep).items()})
    for name, tensor in policy.tensors("policy").items():
        state = optimizer.state.get(tensor, {})
        moments = {f"{moment}/{name}": state[moment] for moment in _MOMENTS if moment in state}
        found.update(kept(moments, keep=keep))
    return found


def restore(policy: Policy, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], step: int) -> None:
    """Put back what `weights_and_moments` gave.

    Args:
        policy: with the same roles.
        optimizer: of the policy's weights, in the order of `policy.tensors`.
        tensors: whole, on every process.
        step: optimiser steps done.

    Raises:
        UsageError: names or shapes are not this policy's.
    """
    for role in policy.roles:
        prefix = f"{role}/"
        policy.load(
            role, {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        )
    moments = {}
    for i, (name, tensor) in enumerate(policy.tensors("policy").items()):
        if f"exp_avg/{name}" in tensors:
            held = {moment: placed_as(tensor, tensors[f"{moment}/{name}"]) for moment in _MOMENTS}
            moments[i] = {"step": torch.tensor(float(step)), **held}
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
