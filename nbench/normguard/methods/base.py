"""What a method is made of, and the draws of (t, eps) that NFT, AWM and DPO share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from nbench.errors import UsageError
from nbench.flow.model import Conditioning
from nbench.normguard.advantage import constant_groups
from nbench.normguard.config import TimesConfig, TrainConfig
from nbench.normguard.policy import Policy, Role
from nbench.normguard.rollout import PromptBank, Rollout, Sample


@dataclass
class Epoch:
    """A rollout with its rewards, this process's share.

    Attributes:
        rollout: the pictures.
        rewards: float64 [n]; NaN for failed ones.
        advantages: float64 [n]; 0 for failed ones.
        sigmas: of the rollout, [steps + 1].
    """

    rollout: Rollout
    rewards: Tensor
    advantages: Tensor
    sigmas: Tensor

    @property
    def samples(self) -> list[Sample]:
        """Of the rollout."""
        return self.rollout.samples

    def kept(self) -> list[int]:
        """Pictures that have a reward."""
        return [i for i, reward in enumerate(self.rewards.tolist()) if reward == reward]

    def groups(self) -> dict[int, list[int]]:
        """Kept pictures by group."""
        found: dict[int, list[int]] = {}
        for i in self.kept():
            found.setdefault(self.samples[i].group, []).append(i)
        return found

    def instructive(self) -> list[int]:
        """Kept pictures of groups whose rewards are not all equal."""
        kept = self.kept()
        if not kept:
            return []
        ids = torch.tensor([self.samples[i].group for i in kept])
        constant = constant_groups(self.rewards[kept], ids)
        return [i for i, same in zip(kept, constant.tolist(), strict=True) if not same]


@dataclass(frozen=True)
class Draw:
    """The rows of one forward: where velocities are compared. On the model's device.

    Attributes:
        x: states, float32 [B, C, h, w].
        t: times, float32 [B].
        cond: prompts of the rows.
        advantage: float64 [B].
        target: eps - x_0, float32 [B, C, h, w]; zeros for methods without one.
        step: index of the sampler's step, int64 [B], for methods on trajectories.
        extra: what else a method needs, each [B, ...].
    """

    x: Tensor
    t: Tensor
    cond: Conditioning
    advantage: Tensor
    target: Tensor
    step: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LossResult:
    """A method's loss.

    Attributes:
        rows: per row, [B]; their mean over all rows of an update is the objective.
        stats: numbers to log, each [B] without gradient.
    """

    rows: Tensor
    stats: dict[str, Tensor]


class Method(ABC):
    """A training method. It draws from (seed, epoch, prompt, member) only, never from a global generator.

    Attributes:
        roles: weights it keeps besides the policy and the evaluated average.
        rollout_role: whose pictures are rewarded.
        forwards: roles whose velocities its loss takes besides the policy's.
        rows_per_unit: rows of a `Draw` that a unit of `units` gives.
    """

    roles: tuple[Role, ...] = ()
    rollout_role: ClassVar[Role] = "policy"
    forwards: tuple[Role, ...] = ()
    rows_per_unit: ClassVar[int] = 1

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    @abstractmethod
    def units(self, epoch: Epoch) -> list[tuple[int, ...]]:
        """What is trained on: tuples of indices into the epoch's samples, of `rows_per_unit` each."""

    @abstractmethod
    def draw(self, epoch: Epoch, units: Sequence[tuple[int, ...]], index: int, bank: PromptBank) -> Draw:
        """The `index`-th of `times.count` draws for some units."""

    @abstractmethod
    def loss(self, draw: Draw, v: Mapping[Role, Tensor]) -> LossResult:
        """The loss at a draw, given velocities [B, C, h, w] of the policy and of `forwards`."""

    def before_updates(self, policy: Policy) -> None:
        """Called once per epoch, before its first optimiser step; does nothing by default."""
        return

    def after_epoch(self, policy: Policy, step: int) -> None:
        """Called once per epoch, after its optimiser steps (`step` so far); does nothing by default."""
        return


def noised(
    epoch: Epoch,
    units: Sequence[tuple[int, ...]],
    index: int,
    bank: PromptBank,
    config: TrainConfig,
    device: torch.device,
    *,
    shared: bool = False,
) -> Draw:
    """Rows x_t = (1 - t) x_0 + t eps of re-noised pictures.

    Args:
        epoch: whose pictures.
        units: which of them; the rows are all first members, then all second ones.
        index: of the draw.
        bank: embeddings.
        config: for the law of t, and the seed.
        device: where the rows go.
        shared: give all members of a unit the t and the eps of its first one.
    """
    rows = [unit[k] for k in range(len(units[0])) for unit in units]
    owners = [unit[0 if shared else k] for k in range(len(units[0])) for unit in units]
    clean = epoch.rollout.clean[rows]
    samples = [epoch.samples[i] for i in owners]
    if shared:  # the pair's own draw, whichever members won and lost
        samples = [Sample(one.epoch, one.group, -1, one.prompt) for one in samples]
    noise = torch.stack([one.normal(config.seed, f"eps/{index}", clean.shape[1:]) for one in samples])
    t = torch.tensor([times(one, config.times, epoch.sigmas, config.seed)[index] for one in samples])
    mix = t.view(-1, *[1] * (clean.ndim - 1))
    return Draw(
        x=((1 - mix) * clean + mix * noise).to(device),
        t=t.to(device),
        cond=bank.get([epoch.samples[i].prompt.text for i in rows]),
        advantage=epoch.advantages[rows].to(device),
        target=(noise - clean).to(device),
    )


def times(sample: Sample, config: TimesConfig, sigmas: Tensor, seed: int) -> list[float]:
    """The `config.count` times at which a picture is trained in its epoch, each in [low, high].

    `rollout` draws from those of the sampler's own times that lie in [low, high], without repetition. Times of
    `logit_normal` outside [low, high] are moved to the bound.
    """
    generator = torch.Generator().manual_seed(sample.seed(seed, "times"))
    if config.law == "rollout":
        found = sigmas[:-1].float()
        found = found[(found >= config.low) & (found <= config.high)]
        if len(found) < config.count:
            raise UsageError(
                f"times.count is {config.count}, but {len(found)} of the rollout's times lie between times.low "
                f"{config.low:g} and times.high {config.high:g}: use fewer, or wider bounds."
            )
        found = found[torch.randperm(len(found), generator=generator)[: config.count]]
    elif config.law == "logit_normal":
        found = torch.sigmoid(torch.randn(config.count, generator=generator))
    else:
        found = config.low + (config.high - config.low) * torch.rand(config.count, generator=generator)
    drawn: list[float] = found.clamp(config.low, config.high).tolist()
    return drawn
