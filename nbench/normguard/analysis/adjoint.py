"""Adjoint sensitivity: how a differentiable reward changes, to first order, when the velocity of one step is scaled.

    x_{k+1} = x_k + a_k dt_k v(x_k, t_k),    s_k = dR(decode(x_K)) / d log a_k  at a = 1  =  < g_{k+1}, dt_k v_k >

with the adjoint g_k = dR / dx_k. All s_k come from one pass back through the sampler,

    g_K = dR / dx_K,    g_k = g_{k+1} + dt_k (dv_k / dx_k)^T g_{k+1}

which is checkpointed by hand: the pass forward keeps the latents only, and each step is evaluated again on the way
back, so memory is that of one step. The control replaces v_k by a random direction of the same norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nbench.errors import UsageError
from nbench.flow.model import Conditioning, FlowModel, SigmaGrid
from nbench.flow.norms import rms
from nbench.flow.sample import euler_step
from nbench.normguard.analysis.rows import Batch, Floats, OnBatch, Samples, Sampling, to_numpy
from nbench.prompts import Prompt
from nbench.scoring.differentiable import DifferentiableReward


@dataclass(frozen=True)
class Sensitivity:
    """Per sample and step; NaN where the sample's reward or latents were not finite.

    Attributes:
        sigmas: t of each step, [steps].
        prompt_ids: prompt of each sample, [samples]: the clusters.
        seeds: seed index of each sample, [samples].
        rewards: of the pictures, before rounding to bytes, [samples].
        values: s_k, in units of the reward per unit of log a_k, [samples, steps]. Their sum over k is the change for
            scaling all steps at once.
        controls: the same for random directions u of unit RMS in place of v / rms(v), [draws, samples, steps].
    """

    sigmas: Floats
    prompt_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    rewards: Floats
    values: Floats
    controls: Floats


def adjoint_sensitivity(
    model: FlowModel,
    reward: DifferentiableReward,
    prompts: Sequence[Prompt],
    *,
    steps: int,
    seeds: int,
    guidance: float,
    controls: int = 8,
    run_seed: int = 0,
    grid: SigmaGrid = "diffusers",
    size: tuple[int, int] | None = None,
    batch_size: int = 16,
    on_batch: OnBatch | None = None,
) -> Sensitivity:
    """s_k of every sample and step: two forwards and one backward per step.

    Args:
        model: the checkpoint. Its velocity, and its `decode_with_gradient` (or `decode`), must be differentiable.
        reward: of the pictures.
        prompts: at least one.
        steps: of the sampler.
        seeds: samples per prompt.
        guidance: of the velocity; what is scaled is the guided velocity.
        controls: random directions per sample and step.
        run_seed: all noise follows from it, as in `nbench run`.
        grid: of the sigmas.
        size: (height, width) in pixels; None is the model's.
        batch_size: samples per forward; a backward needs several times the memory of a forward.
        on_batch: called after each batch.

    Raises:
        UsageError: no prompts, no gradient reaches the latents, an impossible size, or a number below 1.
        ScorerError: the reward has no value for a prompt.
    """
    if controls < 1:
        raise UsageError(f"controls is {controls}: use a whole number of at least 1.")
    samples = Samples(model, prompts, Sampling(steps, seeds, guidance, run_seed, grid, size, batch_size))
    values, rewards = samples.table(), np.full(len(samples), np.nan)
    random = np.full((controls, *values.shape), np.nan)
    for batch in samples.batches():
        states = _forward(model, batch, guidance)
        found, adjoint = _reward_gradient(model, reward, states[-1], batch)
        rewards[batch.rows] = to_numpy(found)
        for step in reversed(range(steps)):
            v, before = _back(model, states.pop(-2), batch, step, guidance, adjoint)
            dt = batch.sigmas[step + 1] - batch.sigmas[step]
            values[batch.rows, step] = to_numpy(dt * _inner(adjoint, v))
            length = rms(v)
            for draw in range(controls):
                direction = samples.extra_noise(batch, f"direction {draw}", step).float()
                random[draw, batch.rows, step] = to_numpy(dt * length / rms(direction) * _inner(adjoint, direction))
            adjoint = before
        if on_batch is not None:
            on_batch(len(batch.samples))
    broken = ~(np.isfinite(rewards) & np.isfinite(values).all(1))
    rewards[broken], values[broken], random[:, broken] = np.nan, np.nan, np.nan
    return Sensitivity(to_numpy(samples.sigmas[:-1]), samples.prompt_ids, samples.seeds, rewards, values, random)


@torch.no_grad()
def _forward(model: FlowModel, batch: Batch, guidance: float) -> list[torch.Tensor]:
    """The states x_0 ... x_K of sampling."""
    states = [batch.noise]
    for step in range(len(batch.sigmas) - 1):
        v = model.velocity(states[-1], batch.sigmas[step], batch.cond, guidance=guidance)
        states.append(euler_step(states[-1], v, batch.sigmas[step], batch.sigmas[step + 1]))
    return states


def _reward_gradient(
    model: FlowModel, reward: DifferentiableReward, latents: torch.Tensor, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """(R [B], dR / dx_K like latents, in float32). Rows do not touch, so the sum's gradient is each row's own."""
    decode = getattr(model, "decode_with_gradient", model.decode)
    with torch.enable_grad():
        x = latents.detach().requires_grad_()
        found = reward.reward(decode(x), [sample.prompt.text for sample in batch.samples])
        if not found.requires_grad:
            raise UsageError(
                f"no gradient of {reward.card.name} reaches the latents: a {model.family} model needs a differentiable "
                "decode (decode_with_gradient)."
            )
        (gradient,) = torch.autograd.grad(found.sum(), x)
    return found.detach(), gradient.float()


def _back(
    model: FlowModel, state: torch.Tensor, batch: Batch, step: int, guidance: float, adjoint: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(v_k, g_k) from x_k and g_{k+1}."""
    sigma, sigma_next = batch.sigmas[step], batch.sigmas[step + 1]
    with torch.enable_grad():
        x = state.detach().requires_grad_()
        v = model.velocity(x, sigma, batch.cond, guidance=guidance)
        after = euler_step(x, v, sigma, sigma_next)
        (before,) = torch.autograd.grad(after, x, adjoint.to(after.dtype))
    return v.detach(), before.float()


def _inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """< a, b > per row, [B]."""
    return (a.float() * b.float()).flatten(1).sum(1)


def sample_scaled(
    model: FlowModel,
    cond: Conditioning,
    noise: torch.Tensor,
    sigmas: torch.Tensor,
    scales: Sequence[float],
    *,
    guidance: float,
) -> torch.Tensor:
    """Final latents when the velocity of step k is multiplied by scales[k]: what finite differences are taken of.

    Args:
        model: gives the velocity.
        cond: encoded prompts of the batch.
        noise: states at sigmas[0], [B, C, h, w].
        sigmas: float32 [steps + 1].
        scales: a_k, [steps].
        guidance: handed to the model.
    """
    x = noise
    with torch.no_grad():
        for step, scale in enumerate(scales):
            v = model.velocity(x, sigmas[step], cond, guidance=guidance)
            x = euler_step(x, scale * v, sigmas[step], sigmas[step + 1])
    return x
