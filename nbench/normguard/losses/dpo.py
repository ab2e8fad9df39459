"""Diffusion-DPO for flow matching: of two pictures of one prompt, prefer the one with the higher reward.

Source: yifan123/flow_grpo (as in the fork zhtmike/flow_grpo), X-GenGroup/Flow-Factory @a0b2bc5. Those differ only in
what ref is: a slowly refreshed policy, or the frozen base.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from nbench.normguard.losses.reduce import mse, same_shape


def excess_error(v_theta: Tensor, v_ref: Tensor, v_target: Tensor) -> Tensor:
    """e_theta - e_ref, the policy's matching error over the reference's: what DPO compares, and what to log.

        e_theta = MSE(v_theta, eps - x_0),  e_ref likewise

    Both pictures' errors can rise while the margin improves, a route to norm inflation: log winner and loser apart.

    Args:
        v_theta: the policy's velocity at (x_t, t, c), [B, ...].
        v_ref: the reference's velocity there, [B, ...]; gets no gradient.
        v_target: v = eps - x_0, [B, ...]; gets no gradient.

    Returns:
        [B], 0 at theta = ref.

    Raises:
        ValueError: shapes do not agree.
    """
    theta, ref, target = same_shape(v_theta=v_theta, v_ref=v_ref.detach(), v_target=v_target.detach())
    return mse(theta, target) - mse(ref, target)


def dpo_loss(
    v_theta_win: Tensor,
    v_theta_lose: Tensor,
    v_ref_win: Tensor,
    v_ref_lose: Tensor,
    target_win: Tensor,
    target_lose: Tensor,
    *,
    beta: float,
) -> Tensor:
    """The DPO loss of a pair.

        L = -log sigmoid( -(beta / 2) [ (e_theta^w - e_ref^w) - (e_theta^l - e_ref^l) ] )

    At theta = ref it is log 2, with gradient (beta / 4) 2 (v_theta - v) / D to the winner and minus that to the loser.
    Both members must have been noised with the same t and the same eps. Errors are means over D: for a beta that was
    tuned on sums, multiply it by D.

    Args:
        v_theta_win: the policy's velocity on the winner, [B, ...].
        v_theta_lose: the policy's velocity on the loser, [B, ...].
        v_ref_win: the reference's velocity on the winner, [B, ...]; gets no gradient.
        v_ref_lose: the reference's velocity on the loser, [B, ...]; gets no gradient.
        target_win: eps - x_0 of the winner, [B, ...]; gets no gradient.
        target_lose: eps - x_0 of the loser, [B, ...]; gets no gradient.
        beta: inverse temperature, above 0; public flow scripts use 100 to 2000.

    Returns:
        L per pair, [B], at least 0.

    Raises:
        ValueError: shapes do not agree, or beta is not above 0.
    """
    if not beta > 0:
        raise ValueError(f"beta is {beta}: use a number above 0.")
    same_shape(v_theta_win=v_theta_win, v_theta_lose=v_theta_lose)
    win = excess_error(v_theta_win, v_ref_win, target_win)
    lose = excess_error(v_theta_lose, v_ref_lose, target_lose)
    return softplus(beta / 2 * (win - lose))
