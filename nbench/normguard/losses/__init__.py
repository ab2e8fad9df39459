"""Losses of the four methods: pure functions on velocities or log-probabilities, a number per sample in float64."""

from nbench.normguard.losses.awm import awm_advantage, awm_log_prob, awm_loss
from nbench.normguard.losses.dpo import dpo_loss, excess_error
from nbench.normguard.losses.grpo import (
    SdeStep,
    clipped_surrogate,
    cps_log_prob,
    cps_step,
    grpo_loss,
    sde_log_prob,
    sde_moments,
    sde_step,
)
from nbench.normguard.losses.nft import eval_ema_decay, nft_loss, old_policy_decay, optimality

__all__ = [
    "SdeStep",
    "awm_advantage",
    "awm_log_prob",
    "awm_loss",
    "clipped_surrogate",
    "cps_log_prob",
    "cps_step",
    "dpo_loss",
    "eval_ema_decay",
    "excess_error",
    "grpo_loss",
    "nft_loss",
    "old_policy_decay",
    "optimality",
    "sde_log_prob",
    "sde_moments",
    "sde_step",
]
