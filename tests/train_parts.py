"""Parts of a training, each by itself: a tiny model with its roles, a small config, an epoch's rollout with rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nbench.flow.family import DiffusersFlowModel
from nbench.flow.load import CheckpointSpec, load_model
from nbench.flow.model import Conditioning, FlowModel
from nbench.normguard.advantage import group_advantages
from nbench.normguard.config import ModelConfig, TrainConfig
from nbench.normguard.config_file import make_config
from nbench.normguard.methods import Draw, Epoch, Method
from nbench.normguard.policy import Policy, Role
from nbench.normguard.rollout import PromptBank, Sample, roll_out
from nbench.prompts import Prompt

SIZE = (16, 16)
PROMPTS = (Prompt("cube", "a red cube"), Prompt("dogs", "two dogs"), Prompt("cat", "a photo of a cat"))
NAN = float("nan")


def content(method: str | Mapping[str, Any] = "nft", **changes: Any) -> dict[str, Any]:
    """A config as YAML gives it; `changes` replace values by dotted key, with "__" for the dots."""
    found: dict[str, Any] = {
        "name": "parts",
        "model": {"base": "pocket-sd3"},
        "method": {"name": method} if isinstance(method, str) else dict(method),
        "rewards": [{"scorer": "fake-score"}],
        "prompts": {"set": "pocket", "holdout": 2},
        "rollout": {"prompts": 2, "group_size": 3, "steps": 4},
        "times": {"count": 3},
        "optim": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3},
    }
    for key, value in changes.items():
        place = found
        *parents, last = key.split("__")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return found


def config(method: str | Mapping[str, Any] = "nft", **changes: Any) -> TrainConfig:
    """`content`, checked."""
    return make_config(content(method, **changes))


def load(folder: Path, lora: Path | None = None, dtype: Any = "float32") -> DiffusersFlowModel:
    """A checkpoint on the CPU."""
    spec = CheckpointSpec("x", str(folder), lora=None if lora is None else str(lora), dtype=dtype, device="cpu")
    model = load_model(spec)
    assert isinstance(model, DiffusersFlowModel)
    return model


def policy_of(folder: Path, roles: Sequence[Role] = ("old", "ema"), *, dtype: Any = "float32", **model: Any) -> Policy:
    """A tiny model with `roles`; rank 4 unless `model` says otherwise."""
    settings = ModelConfig.model_validate({"base": str(folder), "lora": {"rank": 4}, **model})
    return Policy(load(folder, dtype=dtype), settings, roles, seed=0)


@torch.no_grad()
def change(policy: Policy, role: Role = "policy", *, seed: int = 1, size: float = 0.1) -> None:
    """Move a role's weights, as optimiser steps would."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in policy.tensors(role).values():
        tensor.add_(size * torch.randn(tensor.shape, generator=generator))


def states(model: FlowModel, rows: int = 2, guidance: float = 1.0) -> tuple[Tensor, Tensor, Conditioning]:
    """x, t and prompts to compare velocities at."""
    x = model.noise(range(rows), height=SIZE[0], width=SIZE[1])
    t = torch.linspace(0.9, 0.3, rows)
    return x, t, model.encode([PROMPTS[i % 3].text for i in range(rows)], guidance=guidance)


def velocity(model: FlowModel, rows: int = 2, guidance: float = 1.0) -> Tensor:
    """Velocity at `states`, with gradient."""
    x, t, cond = states(model, rows, guidance)
    return model.velocity(x, t, cond, guidance=guidance)


def members(groups: int = 2, size: int = 3, epoch: int = 0) -> list[Sample]:
    """Whole groups of pictures to be made."""
    return [Sample(epoch, group, member, PROMPTS[group]) for group in range(groups) for member in range(size)]


def bank_of(model: FlowModel, guidance: float = 1.0) -> PromptBank:
    """Embeddings by `model`."""
    return PromptBank(model, guidance=guidance, offload=False)


def epoch_of(model: FlowModel, settings: TrainConfig, rewards: Sequence[float], groups: int = 2) -> Epoch:
    """A rollout of whole groups under `settings`, with these rewards; NaN is a failed picture."""
    samples = members(groups, len(rewards) // groups)
    rollout = roll_out(
        model,
        bank_of(model),
        samples,
        steps=settings.rollout.steps,
        guidance=1.0,
        size=SIZE,
        batch_size=len(samples),
        seed=settings.seed,
        stochastic=settings.method if settings.method.name == "grpo" else None,
    )
    values = torch.tensor(rewards, dtype=torch.float64)
    kept = values.isfinite()
    ids = torch.tensor([sample.group for sample in samples])
    advantages = torch.zeros(len(samples), dtype=torch.float64)
    advantages[kept] = group_advantages(values[kept], ids[kept])
    sigmas = model.sigmas(settings.rollout.steps, height=SIZE[0], width=SIZE[1])
    return Epoch(rollout, values, advantages, sigmas)


def velocities(policy: Policy, method: Method, draw: Draw) -> dict[Role, Tensor]:
    """What `method.loss` takes: the policy's with gradient, the others' without."""
    found: dict[Role, Tensor] = {}
    with torch.no_grad():
        for role in method.forwards:
            found[role] = policy.view(role).velocity(draw.x, draw.t, draw.cond, guidance=1.0)
    found["policy"] = policy.view("policy").velocity(draw.x, draw.t, draw.cond, guidance=1.0)
    return found
