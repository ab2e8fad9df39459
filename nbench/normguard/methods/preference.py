"""DPO: of a group, the best picture against the worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nbench.normguard.config import DpoConfig, TrainConfig
from nbench.normguard.losses import dpo_loss, excess_error
from nbench.normguard.methods.base import Draw, Epoch, LossResult, Method, noised
from nbench.normguard.policy import Role
from nbench.normguard.rollout import PromptBank


class Dpo(Method):
    """Online Diffusion-DPO with the frozen base as its reference. Of a draw's rows the first half are winners."""

    forwards = ("reference",)
    rows_per_unit = 2

    def __init__(self, config: TrainConfig, method: DpoConfig) -> None:
        super().__init__(config)
        self.method = method

    def units(self, epoch: Epoch) -> list[tuple[int, ...]]:
        """(winner, loser) of each group whose rewards are further apart than `min_gap`."""
        pairs: list[tuple[int, ...]] = []
        for members in epoch.groups().values():
            rewards = epoch.rewards[members]
            best, worst = members[int(rewards.argmax())], members[int(rewards.argmin())]
            if float(rewards.max() - rewards.min()) > self.method.min_gap:
                pairs.append((best, worst))
        return pairs

    def draw(self, epoch: Epoch, units: Sequence[tuple[int, ...]], index: int, bank: PromptBank) -> Draw:
        """Re-noised pictures; a pair shares t and eps."""
        return noised(epoch, units, index, bank, self.config, bank.device, shared=True)

    def loss(self, draw: Draw, v: Mapping[Role, Tensor]) -> LossResult:
        """`dpo_loss`, the same number at both rows of a pair; logs both excess errors and the share ranked right."""
        win, lose = v["policy"].chunk(2)
        ref_win, ref_lose = v["reference"].chunk(2)
        target_win, target_lose = draw.target.chunk(2)
        pairs = dpo_loss(win, lose, ref_win, ref_lose, target_win, target_lose, beta=self.method.beta)
        with torch.no_grad():
            better = excess_error(win, ref_win, target_win)
            worse = excess_error(lose, ref_lose, target_lose)
        return LossResult(
            torch.cat([pairs, pairs]),
            {
                "excess_winner": torch.cat([better, better]),
                "excess_loser": torch.cat([worse, worse]),
                "ranked_right": torch.cat([(better < worse).double()] * 2),
            },
        )
