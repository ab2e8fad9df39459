"""NFT and AWM: losses on re-noised pictures, weighted by their advantage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from nbench.normguard.config import AwmConfig, NftConfig, TrainConfig
from nbench.normguard.guards import reference_kl
from nbench.normguard.losses import (
    awm_advantage,
    awm_log_prob,
    awm_loss,
    nft_loss,
    old_policy_decay,
    optimality,
)
from nbench.normguard.losses.reduce import mse
from nbench.normguard.methods.base import Draw, Epoch, LossResult, Method, noised
from nbench.normguard.policy import Policy, Role
from nbench.normguard.rollout import PromptBank


class Nft(Method):
    """DiffusionNFT: the `old` policy makes the pictures and is one end of the implicit guidance."""

    roles = ("old",)
    rollout_role = "old"
    forwards = ("old",)

    def __init__(self, config: TrainConfig, method: NftConfig) -> None:
        super().__init__(config)
        self.method = method

    def units(self, epoch: Epoch) -> list[tuple[int, ...]]:
        """Every rewarded picture; those of constant groups have r = 1/2."""
        return [(i,) for i in epoch.kept()]

    def draw(self, epoch: Epoch, units: Sequence[tuple[int, ...]], index: int, bank: PromptBank) -> Draw:
        """Re-noised pictures."""
        return noised(epoch, units, index, bank, self.config, bank.device)

    def loss(self, draw: Draw, v: Mapping[Role, Tensor]) -> LossResult:
        """`nft_loss`; logs how far the policy is from the old one."""
        settings = self.method
        r = optimality(draw.advantage, adv_clip=settings.adv_clip, mode=settings.adv_mode)
        rows = nft_loss(
            v["policy"],
            v["old"],
            draw.target,
            draw.t,
            r,
            beta=settings.beta,
            adv_clip=settings.adv_clip,
            self_normalize=settings.self_normalize,
        )
        return LossResult(rows, {"old_distance": mse(v["policy"].detach().float(), v["old"].float())})

    def after_epoch(self, policy: Policy, step: int) -> None:
        """The old policy follows."""
        policy.blend("old", old_policy_decay(step, self.method.old_decay))


class Awm(Method):
    """Advantage Weighted Matching, with its anchor."""

    def __init__(self, config: TrainConfig, method: AwmConfig) -> None:
        super().__init__(config)
        self.method = method
        # On the first and only update of a rollout the old log-probability is the policy's own.
        self._several = config.optim.updates_per_epoch > 1
        old: tuple[Role, ...] = ("old",) if self._several else ()
        anchor: tuple[Role, ...] = ("anchor",) if method.anchor_weight > 0 else ()
        self.roles = self.forwards = old + anchor

    def units(self, epoch: Epoch) -> list[tuple[int, ...]]:
        """Every rewarded picture; those of constant groups still feel the anchor and the guards."""
        return [(i,) for i in epoch.kept()]

    def draw(self, epoch: Epoch, units: Sequence[tuple[int, ...]], index: int, bank: PromptBank) -> Draw:
        """Re-noised pictures."""
        return noised(epoch, units, index, bank, self.config, bank.device)

    def loss(self, draw: Draw, v: Mapping[Role, Tensor]) -> LossResult:
        """`awm_loss` plus the anchor; logs the ratio's distance from 1."""
        settings = self.method
        log_prob = awm_log_prob(v["policy"], draw.target, draw.t, weighting=settings.weighting, p=settings.p)
        if self._several:
            old = awm_log_prob(v["old"], draw.target, draw.t, weighting=settings.weighting, p=settings.p)
        else:
            old = log_prob.detach()
        advantage = awm_advantage(draw.advantage, adv_clip=settings.adv_clip, advantage_max=settings.advantage_max)
        rows = awm_loss(log_prob, old, advantage, clip=settings.clip)
        stats = {"ratio_distance": ((log_prob - old).detach().exp() - 1).abs()}
        if settings.anchor_weight > 0:
            anchor = reference_kl(v["policy"], v["anchor"], draw.t)
            rows = rows + settings.anchor_weight * anchor
            stats["anchor_distance"] = anchor.detach()
        return LossResult(rows, stats)

    def before_updates(self, policy: Policy) -> None:
        """Keep the weights that the first update starts from."""
        if self._several:
            policy.blend("old", 0.0)

    def after_epoch(self, policy: Policy, step: int) -> None:
        """The anchor follows."""
        if self.method.anchor_weight > 0:
            policy.blend("anchor", min(self.method.anchor_decay, 0.001 * step))
