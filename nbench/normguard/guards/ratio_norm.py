"""GRPO-Guard: a log-ratio whose mean is 0 at every step of the sampler, and a weight that evens out gradients.

Source: arXiv 2510.22319 (eq. 8) and train_sd3_GRPO_Guard.py of yifan123/flow_grpo. That script averages the means'
distance over the whole batch and std and dt likewise; here each sample has its own (flow_grpo issue 223).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from nbench.normguard.losses.reduce import mse, per_sample, same_shape


class NormalizedRatio(NamedTuple):
    """What `ratio_norm` gives.

    Attributes:
        log_ratio: log rho^, [B], for `losses.clipped_surrogate`; differentiable.
        weight: 1 / |dt|, [B], to multiply the clipped loss with.
    """

    log_ratio: Tensor
    weight: Tensor


def ratio_norm(
    log_prob: Tensor,
    log_prob_old: Tensor,
    mean: Tensor,
    mean_old: Tensor,
    std: Tensor | float,
    dt: Tensor | float,
) -> NormalizedRatio:
    """The normalised log-ratio of a Flow-GRPO step and its gradient weight.

        log rho^ = s [ log p_theta - log p_old + MSE(mu_theta, mu_old) / (2 s^2) ]  =  mean_D( z (mu_theta - mu_old) )
        L = (1 / |dt|) max( -A rho^, -A clip(rho^, 1 - eps, 1 + eps) )

    with z = (x_next - mu_old) / s. Its mean over z is 0, and its spread no longer depends on 1 / s. The public clip is
    2e-6 for OCR and GenEval and 4e-6 for PickScore.

    Args:
        log_prob: log p_theta of the rollout's x_next, [B], from `losses.sde_log_prob`.
        log_prob_old: the same under the rollout policy, [B]; gets no gradient.
        mean: mu_theta, [B, ...].
        mean_old: mu_old, [B, ...], stored at rollout; gets no gradient.
        std: s above 0, [B] or one number.
        dt: t_next - t, [B] or one number; its sign does not matter.

    Returns:
        (log_ratio [B], weight [B]).

    Raises:
        ValueError: shapes do not agree.
    """
    mean, mean_old = same_shape(mean=mean, mean_old=mean_old.detach())
    log_prob = _one_per_sample("log_prob", log_prob, mean)
    log_prob_old = _one_per_sample("log_prob_old", log_prob_old.detach(), mean)
    std, dt = per_sample("std", std, mean), per_sample("dt", dt, mean)
    log_ratio = std * (log_prob - log_prob_old + mse(mean, mean_old) / (2 * std.square()))
    return NormalizedRatio(log_ratio, 1 / dt.abs())


def _one_per_sample(name: str, value: Tensor, like: Tensor) -> Tensor:
    if value.ndim != 1:
        raise ValueError(f"{name} has shape {tuple(value.shape)}: give one number per sample, [B].")
    return per_sample(name, value, like)
