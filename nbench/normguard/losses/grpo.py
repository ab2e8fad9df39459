"""Flow-GRPO: a stochastic sampler whose steps have a log-probability, and the clipped policy gradient on them.

Source: yifan123/flow_grpo (sd3_sde_with_logprob.py, read in the fork zhtmike/flow_grpo at upstream 9745241). Steps go
down in t, so dt = t_next - t < 0. Keep x_t, x_next and means in float32 or better: a log-probability of half-precision
latents does not reproduce.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nbench.normguard.losses.reduce import mse, over_latent, per_sample, same_shape

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class SdeStep(NamedTuple):
    """One stochastic step.

    Attributes:
        x_next: the next latent, [B, ...].
        mean: mu, [B, ...], differentiable in v.
        std: s, the standard deviation of x_next per element, [B].
    """

    x_next: Tensor
    mean: Tensor
    std: Tensor


def sde_moments(
    x: Tensor,
    v: Tensor,
    sigma: Tensor | float,
    sigma_next: Tensor | float,
    *,
    eta: float,
    sigma_first: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a Flow-GRPO step, which keeps the marginals of the ODE.

        sigma_t = eta sqrt( t / (1 - t~) ),   t~ = t, but sigmas[1] when t = 1
        mu = x_t + [ v + sigma_t^2 / (2 t) (x_t + (1 - t) v) ] dt
        s  = sigma_t sqrt(-dt)

    eta = 0 gives the Euler step. From t = 1 to sigmas[1] s is eta itself.

    Marginals are kept in the limit of small steps only, and that limit is slow: however fine the grid, the first step
    from N(0, I) leaves a variance near 1 + eta^4 / 4, which later steps wear off about as (number of steps)^(-eta^2).

    Args:
        x: x_t, [B, ...].
        v: velocity at (x_t, t, c), guided as the rollout was, [B, ...].
        sigma: t in (0, 1], [B] or one number.
        sigma_next: t_next in [0, t), [B] or one number.
        eta: noise level, at least 0.
        sigma_first: sigmas[1], the grid's second value, [B] or one number.

    Returns:
        (mu [B, ...], s [B]).

    Raises:
        ValueError: shapes do not agree, or eta is negative.
    """
    _check_eta(eta)
    x, v = same_shape(x=x, v=v)
    t, t_next = per_sample("sigma", sigma, x), per_sample("sigma_next", sigma_next, x)
    kept = torch.where(t == 1, per_sample("sigma_first", sigma_first, x), t)
    dt = t_next - t
    variance_rate = eta**2 * t / (1 - kept)
    noise_prediction = x + over_latent(1 - t, x) * v
    drift = v + over_latent(variance_rate / (2 * t), x) * noise_prediction
    return x + drift * over_latent(dt, x), (variance_rate * -dt).sqrt()


def sde_step(
    x: Tensor,
    v: Tensor,
    sigma: Tensor | float,
    sigma_next: Tensor | float,
    *,
    eta: float,
    sigma_first: Tensor | float,
    noise: Tensor,
) -> SdeStep:
    """A Flow-GRPO step: x_next = mu + s z; see `sde_moments` for mu, s and the arguments.

    Args:
        x: x_t, [B, ...].
        v: velocity, [B, ...].
        sigma: t, [B] or one number.
        sigma_next: t_next, [B] or one number.
        eta: noise level, at least 0.
        sigma_first: sigmas[1].
        noise: z ~ N(0, I), [B, ...].

    Raises:
        ValueError: shapes do not agree, or eta is negative.
    """
    mean, std = sde_moments(x, v, sigma, sigma_next, eta=eta, sigma_first=sigma_first)
    return _noised(mean, std, noise)


def sde_log_prob(x_next: Tensor, mean: Tensor, std: Tensor | float) -> Tensor:
    """Log-density of a step per latent element: a mean over D, not a sum.

        log p = mean_D log N(x_next; mu, s^2) = -MSE(x_next, mu) / (2 s^2) - log s - log sqrt(2 pi)

    Args:
        x_next: the latent that the rollout drew, [B, ...]; gets no gradient, even when it was made from `mean`.
        mean: mu under the policy in question, [B, ...].
        std: s above 0, [B] or one number; the last step of an SD3 grid is best left out, its s is near 0.

    Returns:
        log p per sample, [B].

    Raises:
        ValueError: shapes do not agree.
    """
    x_next, mean = same_shape(x_next=x_next.detach(), mean=mean)
    std = per_sample("std", std, mean)
    return -mse(x_next, mean) / (2 * std.square()) - std.log() - _HALF_LOG_TWO_PI


def cps_step(
    x: Tensor, v: Tensor, sigma: Tensor | float, sigma_next: Tensor | float, *, eta: float, noise: Tensor
) -> SdeStep:
    """A coefficients-preserving step, the sampler of Flow-GRPO-Fast: the noise share of x_next is exactly t_next.

        x0^ = x_t - t v,   x1^ = x_t + (1 - t) v,   s = t_next sin(eta pi / 2)
        mu = (1 - t_next) x0^ + sqrt(t_next^2 - s^2) x1^,   x_next = mu + s z

    Args:
        x: x_t, [B, ...].
        v: velocity at (x_t, t, c), [B, ...].
        sigma: t in [0, 1], [B] or one number.
        sigma_next: t_next in [0, t), [B] or one number.
        eta: noise level in [0, 1]; 0 gives the Euler step.
        noise: z ~ N(0, I), [B, ...].

    Raises:
        ValueError: shapes do not agree, or eta is outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}: a CPS step takes a number from 0 to 1.")
    x, v = same_shape(x=x, v=v)
    t, t_next = per_sample("sigma", sigma, x), per_sample("sigma_next", sigma_next, x)
    clean = x - over_latent(t, x) * v
    noisy = x + over_latent(1 - t, x) * v
    angle = eta * math.pi / 2
    mean = over_latent(1 - t_next, x) * clean + over_latent(t_next * math.cos(angle), x) * noisy
    return _noised(mean, t_next * math.sin(angle), noise)


def cps_log_prob(x_next: Tensor, mean: Tensor) -> Tensor:
    """The log-probability that goes with `cps_step`: -MSE(x_next, mu), without variance and constants, [B].

    `x_next` gets no gradient.

    Raises:
        ValueError: shapes do not agree.
    """
    x_next, mean = same_shape(x_next=x_next.detach(), mean=mean)
    return -mse(x_next, mean)


def grpo_loss(
    log_prob: Tensor, log_prob_old: Tensor, advantage: Tensor, *, clip: float | tuple[float, float]
) -> Tensor:
    """Flow-GRPO's policy loss.

        rho = exp(log p_theta - log p_old),    L = max( -A rho, -A clip(rho, 1 - eps, 1 + eps) )

    Log-probabilities are means over D, so clips are small: 1e-4, or 1e-5 for windowed runs.

    Args:
        log_prob: log p_theta, [B].
        log_prob_old: log p_old, [B], as the rollout saw it; gets no gradient.
        advantage: A, [B].
        clip: eps, or (below, above), at least 0.

    Returns:
        L per sample, [B].

    Raises:
        ValueError: shapes do not agree, or the clip is negative.
    """
    if log_prob.shape != log_prob_old.shape:
        raise ValueError(
            f"log_prob has shape {tuple(log_prob.shape)} and log_prob_old {tuple(log_prob_old.shape)}: "
            "give one number per sample, [B], for both."
        )
    return clipped_surrogate(log_prob - log_prob_old.detach(), advantage, clip=clip)


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, *, clip: float | tuple[float, float]) -> Tensor:
    """max( -A rho, -A clip(rho, 1 - eps_lo, 1 + eps_hi) ) for rho = exp(log_ratio), in float64.

    For GRPO-Guard give it the normalised log-ratio of `guards.ratio_norm` and multiply the result by its weight.

    Args:
        log_ratio: log rho, [B].
        advantage: A, [B]; gets no gradient.
        clip: eps, or (eps_lo, eps_hi), at least 0.

    Returns:
        [B].

    Raises:
        ValueError: shapes do not agree, or the clip is negative.
    """
    low, high = clip if isinstance(clip, tuple) else (clip, clip)
    if not (low >= 0 and high >= 0):
        raise ValueError(f"clip is {clip}: use a number that is not negative.")
    if log_ratio.ndim != 1 or advantage.shape != log_ratio.shape:
        raise ValueError(
            f"The log-ratio has shape {tuple(log_ratio.shape)} and the advantage {tuple(advantage.shape)}: "
            "give one number per sample, [B], for both."
        )
    log_ratio = per_sample("log_ratio", log_ratio, log_ratio)
    a = per_sample("advantage", advantage.detach(), log_ratio)
    rho = log_ratio.exp()
    return torch.maximum(-a * rho, -a * rho.clamp(1 - low, 1 + high))


def _noised(mean: Tensor, std: Tensor, noise: Tensor) -> SdeStep:
    mean, z = same_shape(mean=mean, noise=noise)
    return SdeStep(mean + over_latent(std, mean) * z, mean, std)


def _check_eta(eta: float) -> None:
    if not eta >= 0:
        raise ValueError(f"eta is {eta}: use a number that is not negative.")
