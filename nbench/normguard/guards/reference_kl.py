"""Penalties on the distance to a reference: in velocities, and between the Gaussians of stochastic steps.

The names follow the public codes, which call both of them KL. They hold direction as well as norm.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from nbench.normguard.losses.reduce import mse, per_sample, same_shape

KlWeighting = Literal["uniform", "elbo"]


def reference_kl(v_theta: Tensor, v_ref: Tensor, t: Tensor | float, *, weighting: KlWeighting = "uniform") -> Tensor:
    """Weighted squared distance of two velocities at the same (x_t, t, c).

        w(t) MSE(v_theta, v_ref)

        uniform  w = 1                                                   NVlabs/DiffusionNFT @24af555
        elbo     w = 1 / (2 s^2),  s = 0.7 sqrt( t / (1 - min(t, 0.99)) )   scxue/advantage_weighted_matching @be51372

    Args:
        v_theta: the policy's velocity, [B, ...].
        v_ref: the anchor's velocity, [B, ...]: the base, or AWM's averaged copy; gets no gradient.
        t: time in (0, 1], [B] or one number; elbo grows without bound towards t = 0.
        weighting: the name of w.

    Returns:
        [B], 0 at v_theta = v_ref; without lambda.

    Raises:
        ValueError: shapes do not agree, or the weighting is unknown.
    """
    theta, ref = same_shape(v_theta=v_theta, v_ref=v_ref.detach())
    t = per_sample("t", t, theta)
    distance = mse(theta, ref)
    if weighting == "uniform":
        return distance
    if weighting == "elbo":
        return distance * (1 - t.clamp_max(0.99)) / (2 * 0.7**2 * t)
    raise ValueError(f"Unknown weighting {weighting!r}. Known: {', '.join(get_args(KlWeighting))}.")


def state_kl(mean: Tensor, mean_ref: Tensor, std: Tensor | float, dt: Tensor | float | None = None) -> Tensor:
    """Flow-GRPO's KL between two policies' steps from the same x_t, per latent element.

        KL_true = MSE(mu_theta, mu_ref) / (2 s^2),    KL_code = |dt| KL_true = MSE(mu_theta, mu_ref) / (2 sigma_t^2)

    KL_code is what yifan123/flow_grpo trains with since its coefficients are 0.01 to 0.04; before, it was KL_true with
    coefficients ten times smaller (its issue 22). For `losses.sde_moments`
    KL_true = |dt| / 2 (1 / sigma_t + sigma_t (1 - t) / (2 t))^2 MSE(v_theta, v_ref).

    Args:
        mean: mu_theta, [B, ...].
        mean_ref: mu_ref, [B, ...]; gets no gradient.
        std: s = sigma_t sqrt(|dt|), above 0, [B] or one number.
        dt: t_next - t of either sign, [B] or one number, for KL_code; None for KL_true.

    Returns:
        [B], 0 where the means agree; without its coefficient.

    Raises:
        ValueError: shapes do not agree.
    """
    mean, mean_ref = same_shape(mean=mean, mean_ref=mean_ref.detach())
    kl = mse(mean, mean_ref) / (2 * per_sample("std", std, mean).square())
    return kl if dt is None else kl * per_sample("dt", dt, mean).abs()
