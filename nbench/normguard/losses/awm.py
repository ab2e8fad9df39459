"""Advantage Weighted Matching: a policy gradient whose log-probability is the weighted flow-matching error.

Source: scxue/advantage_weighted_matching @be51372. Its regularisers are `guards.reference_kl` to the base and to an
averaged copy.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from nbench.normguard.losses.grpo import grpo_loss
from nbench.normguard.losses.reduce import mse, per_sample, same_shape

Weighting = Literal["uniform", "t", "t2", "huber", "ghuber"]

_TINY = 1e-10


def awm_advantage(advantage: Tensor, *, adv_clip: float = 5.0, advantage_max: float = 1.0) -> Tensor:
    """AWM's scale of advantages: clip(A, -adv_clip, adv_clip) / adv_clip * advantage_max, [B] -> [B].

    It makes A five times smaller than in Flow-GRPO, so coefficients of regularisers do not carry over between the two.

    Raises:
        ValueError: adv_clip is not above 0.
    """
    if not adv_clip > 0:
        raise ValueError(f"adv_clip is {adv_clip}: use a number above 0.")
    a = advantage.to(torch.promote_types(advantage.dtype, torch.float32))
    return a.clamp(-adv_clip, adv_clip) / adv_clip * advantage_max


def awm_log_prob(
    v_theta: Tensor, v_target: Tensor, t: Tensor | float, *, weighting: Weighting = "ghuber", p: float = 0.25
) -> Tensor:
    """AWM's log-probability, up to a constant: minus the weighted matching error.

        l = MSE(v_theta, eps - x_0),    log p = -W(l, t)

        uniform  l                                     dW/dl = 1
        t        t l                                           t
        t2       t^2 l                                         t^2
        huber    t (sqrt(l + 1e-10) - 1e-5)                    t / (2 sqrt(l + 1e-10))
        ghuber   (t / p) ((l + 1e-10)^p - (1e-10)^p)           t (l + 1e-10)^(p - 1)

    ghuber(p = 1/2) is 2 huber, and ghuber(p = 1) is t.

    Args:
        v_theta: the policy's velocity at (x_t, t, c), [B, ...].
        v_target: v = eps - x_0, [B, ...]; gets no gradient.
        t: time in (0, 1], [B] or one number.
        weighting: the name of W.
        p: exponent of ghuber, above 0; the others ignore it.

    Returns:
        log p per sample, [B], at most 0. Old and new must come from the same (t, eps).

    Raises:
        ValueError: shapes do not agree, the weighting is unknown, or p is not above 0.
    """
    theta, target = same_shape(v_theta=v_theta, v_target=v_target.detach())
    t = per_sample("t", t, theta)
    error = mse(theta, target)
    if weighting == "uniform":
        return -error
    if weighting == "t":
        return -t * error
    if weighting == "t2":
        return -t.square() * error
    if weighting == "huber":
        return -t * ((error + _TINY).sqrt() - math.sqrt(_TINY))
    if weighting == "ghuber":
        if not p > 0:
            raise ValueError(f"p is {p}: use a number above 0.")
        return -t / p * ((error + _TINY).pow(p) - math.pow(_TINY, p))
    raise ValueError(f"Unknown weighting {weighting!r}. Known: {', '.join(get_args(Weighting))}.")


def awm_loss(log_prob: Tensor, log_prob_old: Tensor, advantage: Tensor, *, clip: float | tuple[float, float]) -> Tensor:
    """AWM's policy loss, on log-probabilities of one time each or already summed over a sample's times.

        rho = exp(log p_theta - log p_old),    L = max( -A rho, -A clip(rho, 1 - eps_lo, 1 + eps_hi) )

    With one optimiser step per rollout rho is exactly 1, the clip does nothing, and the gradient to v_theta is
    A (dW/dl) 2 (v_theta - v) / D.

    Args:
        log_prob: log p_theta, [B].
        log_prob_old: log p_old, [B], from before the first step on this rollout; gets no gradient.
        advantage: A, [B]; see `awm_advantage`.
        clip: eps, or (eps_lo, eps_hi), at least 0; the source's 1 is inert.

    Returns:
        L per sample, [B].

    Raises:
        ValueError: shapes do not agree, or the clip is negative.
    """
    return grpo_loss(log_prob, log_prob_old, advantage, clip=clip)
