"""Flow-GRPO's importance ratios by step of the sampler, raw and normalised as in GRPO-Guard.

The old policy rolls out the SDE, x_next = mu_old + s z. Another policy's log-ratio on that step is

    raw          log rho  = log p_theta - log p_old  =  mean_D( z dmu ) / s - MSE(mu_theta, mu_old) / (2 s^2)
    normalised   log rho^ = mean_D( z dmu )

With d = |dmu / dv|, a number that follows from the step alone, the gradient of the surrogate with respect to v at
rho = 1 is d / s raw, d normalised, and d / |dt| normalised with GRPO-Guard's weight, each times |A| rms(z) / D.
Source: methods.md 5.1 and 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from nbench.errors import UsageError
from nbench.flow.model import Conditioning, FlowModel, SigmaGrid
from nbench.normguard.analysis.rows import Floats, OnBatch, Samples, Sampling, to_numpy
from nbench.normguard.guards.ratio_norm import ratio_norm
from nbench.normguard.losses.grpo import sde_log_prob, sde_moments, sde_step
from nbench.prompts import Prompt
from nbench.stats.bootstrap import Interval, cluster_mean

RatioKind = Literal["raw", "normalised"]
KINDS: tuple[RatioKind, ...] = get_args(RatioKind)


@dataclass(frozen=True)
class Ratios:
    """Log-ratios of one policy on the old policy's rollouts; NaN where a velocity was not finite.

    Attributes:
        sigmas: t of each step, [steps - 1]: the last step, whose s is near 0, is sampled but not measured.
        prompt_ids: prompt of each sample, [samples]: the clusters.
        seeds: seed index of each sample, [samples].
        std: s of each step, [steps - 1].
        dt: |dt| of each step, [steps - 1].
        gain: d = |dmu / dv| of each step, [steps - 1].
        raw: log rho, [samples, steps - 1].
        normalised: log rho^, [samples, steps - 1].
    """

    sigmas: Floats
    prompt_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    std: Floats
    dt: Floats
    gain: Floats
    raw: Floats
    normalised: Floats


@dataclass(frozen=True)
class RatioLine:
    """One kind of ratio at one step, or all steps together.

    Attributes:
        kind: raw or normalised.
        step: index from 0; None for all steps.
        sigma: t there; None for all.
        mean: of the log-ratio.
        std: of the log-ratio over samples.
        outside: share of samples whose ratio lies outside [1 - clip, 1 + clip]. PPO's clip stops the gradient of about
            half of these: those that the advantage has already pushed the wanted way.
        gradient: scale of the gradient with respect to v, without the factor |A| rms(z) / D (normalised: without
            GRPO-Guard's weight); None for all steps.
        weighted: the same with GRPO-Guard's 1 / |dt|; None for all steps, and for raw ratios, which have no weight.
        failed: samples left out.
    """

    kind: RatioKind
    step: int | None
    sigma: float | None
    mean: Interval
    std: float
    outside: float
    gradient: float | None
    weighted: float | None
    failed: int


def ratio_statistics(
    policy: FlowModel,
    old: FlowModel,
    prompts: Sequence[Prompt],
    *,
    steps: int,
    seeds: int,
    guidance: float,
    eta: float = 0.7,
    run_seed: int = 0,
    grid: SigmaGrid = "diffusers",
    size: tuple[int, int] | None = None,
    batch_size: int = 16,
    on_batch: OnBatch | None = None,
) -> Ratios:
    """Roll out with `old` and take the log-ratios of `policy` on its steps: two forwards per step.

    Args:
        policy: whose ratios are measured.
        old: the rollout policy, over the same latents; it encodes the prompts for both.
        prompts: at least one.
        steps: of the sampler, at least 2.
        seeds: samples per prompt.
        guidance: of both.
        eta: noise level of the SDE, above 0.
        run_seed: all noise follows from it.
        grid: of the sigmas.
        size: (height, width) in pixels; None is the model's.
        batch_size: samples per forward. Both policies see the same batches, as a log-probability demands.
        on_batch: called after each batch.

    Raises:
        UsageError: no prompts, fewer than 2 steps, eta not above 0, an impossible size, or a number below 1.
    """
    if steps < 2:
        raise UsageError(f"steps is {steps}: use at least 2, since the last step is not measured.")
    if not eta > 0:
        raise UsageError(f"eta is {eta}: an ODE step has no log-probability; use a number above 0, such as 0.7.")
    samples = Samples(old, prompts, Sampling(steps, seeds, guidance, run_seed, grid, size, batch_size))
    found = {kind: np.full((len(samples), steps - 1), np.nan) for kind in KINDS}
    for batch in samples.batches():
        x = batch.noise.float()
        for step in range(steps - 1):
            noise = samples.extra_noise(batch, "sde", step).float()
            with torch.no_grad():
                raw, normalised, x = _log_ratios(
                    (policy, old), batch.cond, x, noise, batch.sigmas, step, guidance=guidance, eta=eta, dtype=old.dtype
                )
            found["raw"][batch.rows, step] = to_numpy(raw)
            found["normalised"][batch.rows, step] = to_numpy(normalised)
        if on_batch is not None:
            on_batch(len(batch.samples))
    std, dt, gain = step_scales(samples.sigmas, eta=eta)
    sigmas = to_numpy(samples.sigmas[:-2])
    return Ratios(sigmas, samples.prompt_ids, samples.seeds, std, dt, gain, found["raw"], found["normalised"])


def summarise_ratios(
    found: Ratios, *, clip: float = 1e-4, clip_normalised: float = 2e-6, level: float = 0.95
) -> tuple[RatioLine, ...]:
    """Per kind all steps together first, then every step.

    Args:
        found: log-ratios.
        clip: of raw ratios; 1e-4 is Flow-GRPO's.
        clip_normalised: of normalised ones; 2e-6 is GRPO-Guard's.
        level: of the intervals.

    Raises:
        UsageError: no sample is finite.
    """
    sound = np.isfinite(found.raw).all(1) & np.isfinite(found.normalised).all(1)
    if not sound.any():
        raise UsageError("no sample has finite log-ratios: there is nothing to average.")
    prompts = np.asarray(found.prompt_ids)[sound]
    failed = int((~sound).sum())
    lines = []
    for kind, table, eps in (("raw", found.raw, clip), ("normalised", found.normalised, clip_normalised)):
        values = table[sound]
        gradient = found.gain / found.std if kind == "raw" else found.gain
        outside = np.abs(np.expm1(values)) > eps
        mean = cluster_mean(values.mean(1), prompts, level=level)
        kind_name: RatioKind = "raw" if kind == "raw" else "normalised"
        lines.append(
            RatioLine(kind_name, None, None, mean, float(values.std()), float(outside.mean()), None, None, failed)
        )
        for step in range(values.shape[1]):
            lines.append(
                RatioLine(
                    kind=kind_name,
                    step=step,
                    sigma=float(found.sigmas[step]),
                    mean=cluster_mean(values[:, step], prompts, level=level),
                    std=float(values[:, step].std()),
                    outside=float(outside[:, step].mean()),
                    gradient=float(gradient[step]),
                    weighted=None if kind == "raw" else float(found.gain[step] / found.dt[step]),
                    failed=failed,
                )
            )
    return tuple(lines)


def step_scales(sigmas: torch.Tensor, *, eta: float) -> tuple[Floats, Floats, Floats]:
    """(s, |dt|, |dmu / dv|) of every step but the last, [steps - 1] each; mu is linear in v.

    Args:
        sigmas: float [steps + 1], from 1 to 0.
        eta: noise level, above 0.
    """
    grid = sigmas.double()
    rows = len(grid) - 2
    x, v = torch.zeros(rows, 1, dtype=torch.float64), torch.ones(rows, 1, dtype=torch.float64)
    mean, std = sde_moments(x, v, grid[:-2], grid[1:-1], eta=eta, sigma_first=grid[1])
    return to_numpy(std), to_numpy((grid[1:-1] - grid[:-2]).abs()), to_numpy(mean.abs()[:, 0])


def _log_ratios(
    models: tuple[FlowModel, FlowModel],
    cond: Conditioning,
    x: torch.Tensor,
    noise: torch.Tensor,
    sigmas: torch.Tensor,
    step: int,
    *,
    guidance: float,
    eta: float,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(log rho [B], log rho^ [B], the old policy's x_next, float32) of one step from x, for (policy, old)."""
    t, t_next = sigmas[step], sigmas[step + 1]
    v, v_old = (model.velocity(x.to(dtype), t, cond, guidance=guidance) for model in models)
    taken = sde_step(x, v_old, t, t_next, eta=eta, sigma_first=sigmas[1], noise=noise)
    mean, std = sde_moments(x, v, t, t_next, eta=eta, sigma_first=sigmas[1])
    new, before = sde_log_prob(taken.x_next, mean, std), sde_log_prob(taken.x_next, taken.mean, std)
    return new - before, ratio_norm(new, before, mean, taken.mean, std, t_next - t).log_ratio, taken.x_next
