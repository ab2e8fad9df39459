"""NormGuard: a penalty on a velocity that is longer than the reference's, and the two controls a claim about it needs.

NormGuard is arXiv 2606.27771, of which we know the abstract: a hinge, active only when ||v_theta|| > ||v_ref||, added
to any loss that is local in velocity. Its details are not public. The norm (over all latent dimensions of a sample),
the modes, the power, the margin and every default here are this package's definition, not the paper's. So is any
lambda that is used with them.

Give theta and the reference the same (x_t, t, c) and the same guidance: guidance alone raises the norm.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from nbench.normguard.losses.reduce import float_dtypes, same_shape

NormMode = Literal["rms", "l2", "ratio"]


def norm_hinge(
    v_theta: Tensor, v_ref: Tensor, *, mode: NormMode = "rms", power: int = 1, margin: float = 0.0
) -> Tensor:
    """The hinge: 0 for a velocity up to the reference's norm, growing with what it is longer.

        n = ||v||_2 / sqrt(D)                                     rms    velocity units, as sqrt of an MSE
        n = ||v||_2                                               l2     sqrt(D) times rms
        h = max( 0, n_theta - (1 + delta) n_ref )                 rms, l2
        h = max( 0, n_theta / n_ref - 1 - delta )                 ratio  no units; n_ref = 0 gives h = 0 or a huge h
        guard = h^p

    Value and gradient are exactly 0 at and below the reference's norm, also at v_theta = v_ref, where p = 1 has a kink
    and p = 2 none. Beyond it the rms gradient is v_theta / (D n_theta) for p = 1: it shortens v_theta without turning
    it, and leaves direction free, unlike `reference_kl`. In rms h <= sqrt(MSE(v_theta, v_ref)). For p = 1
    lambda_l2 = lambda_rms / sqrt(D) makes the same guard.

    Args:
        v_theta: the policy's velocity, [B, ...].
        v_ref: the frozen base's velocity, [B, ...], in the same packing; gets no gradient.
        mode: what is compared: rms, l2 or ratio.
        power: p, 1 or 2.
        margin: delta, at least 0, as a share of n_ref.

    Returns:
        h^p per sample, [B], at least 0; without lambda.

    Raises:
        ValueError: shapes do not agree, or the mode, the power or the margin is not one of those above.
    """
    difference, unit = _compare(v_theta, v_ref, mode)
    return _penalty(difference, unit, power, margin)


def old_policy_hinge(
    v_theta: Tensor, v_old: Tensor, *, mode: NormMode = "rms", power: int = 1, margin: float = 0.0
) -> Tensor:
    """Control: `norm_hinge` against the rollout policy, which grows too, in place of the frozen base.

    Arguments, result and errors are those of `norm_hinge`, with `v_old` for `v_ref`.
    """
    return norm_hinge(v_theta, v_old, mode=mode, power=power, margin=margin)


def symmetric_norm(
    v_theta: Tensor, v_ref: Tensor, *, mode: NormMode = "rms", power: int = 1, margin: float = 0.0
) -> Tensor:
    """Control: a penalty on a norm that differs from the reference's in either direction.

        h = max( 0, |n_theta - n_ref| - delta n_ref )      rms, l2
        h = max( 0, |n_theta / n_ref - 1| - delta )        ratio
        guard = h^p

    Above the reference it equals `norm_hinge`. Arguments, result and errors are those of `norm_hinge`.
    """
    difference, unit = _compare(v_theta, v_ref, mode)
    return _penalty(difference.abs(), unit, power, margin)


def _compare(v_theta: Tensor, v_ref: Tensor, mode: NormMode) -> tuple[Tensor, Tensor]:
    """n_theta - n_ref, and n_ref; both divided by n_ref in the mode `ratio`: [B] each."""
    if mode not in get_args(NormMode):
        raise ValueError(f"Unknown norm mode {mode!r}. Known: {', '.join(get_args(NormMode))}.")
    theta, ref = same_shape(v_theta=v_theta, v_ref=v_ref.detach())
    scale = 1.0 if mode == "l2" else math.sqrt(theta[0].numel())
    n_theta, n_ref = _l2(theta) / scale, _l2(ref) / scale
    if mode == "ratio":
        return (n_theta - n_ref) / n_ref.clamp_min(torch.finfo(n_ref.dtype).tiny), torch.ones_like(n_ref)
    return n_theta - n_ref, n_ref


def _l2(v: Tensor) -> Tensor:
    """Norm per sample in float64, [B]; its gradient at 0 is 0, not NaN."""
    norm: Tensor = torch.linalg.vector_norm(v, dim=tuple(range(1, v.ndim)), dtype=float_dtypes(v).sample)
    return norm


def _penalty(difference: Tensor, unit: Tensor, power: int, margin: float) -> Tensor:
    """max(0, difference - margin unit)^power."""
    if power not in (1, 2):
        raise ValueError(f"power is {power}: use 1 or 2.")
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin is {margin}: use a share of the reference norm that is not negative.")
    hinge = (difference - margin * unit).relu()
    return hinge if power == 1 else hinge.square()
