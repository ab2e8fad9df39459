"""Flow-GRPO and GRPO-Guard: the policy gradient on the steps of stochastic trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nbench.normguard.config import GrpoConfig, RatioNormConfig, StateKlConfig, TrainConfig
from nbench.normguard.guards import ratio_norm, state_kl
from nbench.normguard.losses import (
    clipped_surrogate,
    cps_log_prob,
    cps_step,
    sde_log_prob,
    sde_moments,
)
from nbench.normguard.methods.base import Draw, Epoch, LossResult, Method
from nbench.normguard.policy import Role
from nbench.normguard.rollout import PromptBank


class Grpo(Method):
    """Flow-GRPO; with the guard `ratio_norm` it is GRPO-Guard. Its old policy is what the rollout stored."""

    def __init__(self, config: TrainConfig, method: GrpoConfig) -> None:
        super().__init__(config)
        self.method = method
        guards = {guard.name: guard for guard in config.guards}
        guard, kl = guards.get("ratio_norm"), guards.get("state_kl")
        self._guard = guard if isinstance(guard, RatioNormConfig) else None
        self._kl = kl.weight if isinstance(kl, StateKlConfig) else None
        self.forwards = ("reference",) if self._kl is not None else ()

    def units(self, epoch: Epoch) -> list[tuple[int, ...]]:
        """Rewarded pictures of groups whose rewards differ."""
        return [(i,) for i in epoch.instructive()]

    def draw(self, epoch: Epoch, units: Sequence[tuple[int, ...]], index: int, bank: PromptBank) -> Draw:
        """For each picture, the `index`-th of its noisy steps in an order of its own."""
        paths = epoch.rollout.paths
        assert paths is not None
        rows = [unit[0] for unit in units]
        steps = torch.tensor([self._order(epoch, i, paths.noisy)[index] for i in rows])
        at = torch.tensor(rows)
        device = bank.device
        x = paths.states[steps, at].to(device)
        sigmas = paths.sigmas.float()
        return Draw(
            x=x,
            t=sigmas[steps].to(device),
            cond=bank.get([epoch.samples[i].prompt.text for i in rows]),
            advantage=epoch.advantages[rows].to(device),
            target=torch.zeros_like(x),
            step=steps.to(device),
            extra={
                "next": paths.states[steps + 1, at].to(device),
                "velocity": paths.velocities[steps, at].to(device),
                "sigma_next": sigmas[steps + 1].to(device),
                "sigma_first": sigmas[1].expand(len(rows)).to(device),
            },
        )

    def _order(self, epoch: Epoch, i: int, noisy: int) -> list[int]:
        generator = torch.Generator().manual_seed(epoch.samples[i].seed(self.config.seed, "times"))
        order: list[int] = torch.randperm(noisy, generator=generator).tolist()
        return order

    def _moments(self, draw: Draw, v: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, ...] and standard deviation [B] of the step from the draw's states under velocity v."""
        after = draw.extra["sigma_next"]
        if self.method.sampler == "cps":
            zero = torch.zeros_like(draw.x)
            step = cps_step(draw.x, v, draw.t, after, eta=self.method.eta, noise=zero)
            return step.mean, step.std
        return sde_moments(draw.x, v, draw.t, after, eta=self.method.eta, sigma_first=draw.extra["sigma_first"])

    def loss(self, draw: Draw, v: Mapping[Role, Tensor]) -> LossResult:
        """The clipped surrogate on each step; logs log-ratio, clipped share, and per-step figures."""
        mean, std = self._moments(draw, v["policy"])
        with torch.no_grad():
            mean_old, _ = self._moments(draw, draw.extra["velocity"])
        after = draw.extra["next"]
        if self.method.sampler == "cps":
            log_prob, log_prob_old = cps_log_prob(after, mean), cps_log_prob(after, mean_old)
        else:
            log_prob, log_prob_old = sde_log_prob(after, mean, std), sde_log_prob(after, mean_old, std)
        log_ratio = log_prob - log_prob_old.detach()
        weight: Tensor | float = 1.0
        if self._guard is not None:
            dt = draw.extra["sigma_next"] - draw.t
            guarded = ratio_norm(log_prob, log_prob_old, mean, mean_old, std, dt)
            log_ratio = guarded.log_ratio
            weight = guarded.weight if self._guard.reweight else 1.0
        rows = weight * clipped_surrogate(log_ratio, draw.advantage, clip=self.method.clip)
        ratio = log_ratio.detach().exp()
        # What the clip really stops: the ratio is beyond the bound on the side that the advantage pushes to.
        low, high = ratio < 1 - self.method.clip, ratio > 1 + self.method.clip
        beyond = ((draw.advantage > 0) & high) | ((draw.advantage < 0) & low)
        stats = {"log_ratio": log_ratio.detach(), "clipped": beyond.double()}
        if self._kl is not None:
            mean_ref, _ = self._moments(draw, v["reference"])
            kl = state_kl(mean, mean_ref, std, draw.extra["sigma_next"] - draw.t)
            rows = rows + self._kl * kl
            stats["state_kl"] = kl.detach()
        return LossResult(rows, stats)
