"""DiffusionNFT: raise the likelihood of good pictures and lower that of bad ones on the forward process.

Source: NVlabs/DiffusionNFT @24af555 (the x_0-space, self-normalised form that is trained there); the paper writes the
v-space form without normalisation.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from nbench.normguard.losses.reduce import mean_latent, per_sample, same_shape

AdvantageMode = Literal["all", "positive_only", "negative_only", "one_only", "binary"]
OldPolicySchedule = Literal[0, 1, 2]

_LEAST_WEIGHT = 1e-5


def optimality(advantage: Tensor, *, adv_clip: float = 5.0, mode: AdvantageMode = "all") -> Tensor:
    """The optimality probability of a sample, from its advantage.

        r = clip( clip(A, -A_max, A_max) / (2 A_max) + 1/2, 0, 1 )

    `positive_only` and `negative_only` clip A to one side of 0; `one_only` puts 1 for A > 0 and 0 otherwise, `binary`
    puts sign(A). Both are divided by 2 A_max afterwards, as in the source, so that `binary` gives 0.4, 0.5 or 0.6 for
    A_max = 5, not 0 or 1.

    Args:
        advantage: A, [B].
        adv_clip: A_max, above 0.
        mode: which side of A counts (`adv_mode` in the source).

    Returns:
        r in [0, 1], like `advantage`, in float32 or better.

    Raises:
        ValueError: A_max is not above 0, or the mode is unknown.
    """
    _check_positive("adv_clip", adv_clip)
    a = advantage.to(torch.promote_types(advantage.dtype, torch.float32)).clamp(-adv_clip, adv_clip)
    if mode == "positive_only":
        a = a.clamp_min(0)
    elif mode == "negative_only":
        a = a.clamp_max(0)
    elif mode == "one_only":
        a = (a > 0).to(a.dtype)
    elif mode == "binary":
        a = a.sign()
    elif mode != "all":
        raise ValueError(f"Unknown advantage mode {mode!r}. Known: {', '.join(get_args(AdvantageMode))}.")
    return (a / (2 * adv_clip) + 0.5).clamp(0, 1)


def nft_loss(
    v_theta: Tensor,
    v_old: Tensor,
    v_target: Tensor,
    t: Tensor | float,
    r: Tensor | float,
    *,
    beta: float = 1.0,
    adv_clip: float = 5.0,
    self_normalize: bool = True,
) -> Tensor:
    """DiffusionNFT's policy loss.

        v+ = beta v_theta + (1 - beta) v_old        v- = (1 + beta) v_old - beta v_theta
        e+- = (x_t - t v+-) - x_0 = -t (v+- - v)    w+- = max( mean_D |e+-|, 1e-5 ), no gradient
        L = (A_max / beta) [ r mean_D(e+^2) / w+  +  (1 - r) mean_D(e-^2) / w- ]

    At theta = old the gradient to v_theta is 2 A t^2 (v_old - v) / (w D) for |A| <= A_max, whatever beta and A_max.
    Expanding gives a proximal term beta MSE(v_theta, v_old): a smaller beta is faster and less stable. This beta is not
    the coefficient of the reference KL, which some public configs also call beta.

    Args:
        v_theta: the policy's velocity at (x_t, t, c), [B, ...].
        v_old: the rollout policy's velocity there, [B, ...]; gets no gradient.
        v_target: v = eps - x_0, [B, ...]; gets no gradient.
        t: time in (0, 1], [B] or one number.
        r: optimality probability in [0, 1], [B] or one number; see `optimality`.
        beta: strength of the implicit guidance, above 0.
        adv_clip: A_max, above 0; a plain factor here.
        self_normalize: divide by w; False puts w = 1, the x_0-space form of the paper's loss.

    Returns:
        L per sample, [B].

    Raises:
        ValueError: shapes do not agree, or beta or A_max is not above 0.
    """
    _check_positive("beta", beta)
    _check_positive("adv_clip", adv_clip)
    theta, old, target = same_shape(v_theta=v_theta, v_old=v_old.detach(), v_target=v_target.detach())
    t, r = per_sample("t", t, theta), per_sample("r", r, theta)
    step = beta * (theta - old)  # v+- = v_old +- step, exact at theta = old
    positive = _error(old + step - target, t, self_normalize)
    negative = _error(old - step - target, t, self_normalize)
    return adv_clip / beta * (r * positive + (1 - r) * negative)


def _error(difference: Tensor, t: Tensor, self_normalize: bool) -> Tensor:
    """mean_D(e^2) / w for e = -t difference: [B]."""
    squared = t.square() * mean_latent(difference.square())
    if not self_normalize:
        return squared
    weight = (t * mean_latent(difference.detach().abs())).clamp_min(_LEAST_WEIGHT)
    return squared / weight


def old_policy_decay(step: int, schedule: OldPolicySchedule = 1) -> float:
    """Decay d of theta_old <- d theta_old + (1 - d) theta, which is applied once per epoch.

    Schedule 0 copies (d = 0); 1, the default, is min(0.001 s, 0.5); 2, of the OCR config, is 0 for s < 75 and then
    min(0.0075 (s - 75), 0.999). Source: NVlabs/DiffusionNFT @24af555.

    Args:
        step: s, optimiser steps done so far over the whole training, from 0.
        schedule: 0, 1 or 2, the source's `decay_type`.

    Raises:
        ValueError: step is negative, or the schedule is unknown.
    """
    _check_step(step)
    if schedule == 0:
        return 0.0
    if schedule == 1:
        return min(0.001 * step, 0.5)
    if schedule == 2:
        return 0.0 if step < 75 else min(0.0075 * (step - 75), 0.999)
    raise ValueError(f"Unknown decay schedule {schedule!r}. Known: 0, 1, 2.")


def eval_ema_decay(step: int, *, most: float = 0.9) -> float:
    """Decay of the averaged copy that is evaluated and saved, at optimiser step s >= 0.

        min( (1 + s) / (10 + s), most )

    Source: NVlabs/DiffusionNFT @24af555.

    Raises:
        ValueError: step is negative.
    """
    _check_step(step)
    return min((1 + step) / (10 + step), most)


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}: use a number above 0.")


def _check_step(step: int) -> None:
    if step < 0:
        raise ValueError(f"step is {step}: count optimiser steps from 0.")
