"""Norm inflation: q(t) = rms(v_theta) / rms(v_ref) along the sampler, on three kinds of states.

    base       states of the reference's own trajectory: the same for every checkpoint
    own        states of the checkpoint's own trajectory: what its pictures pass through
    renoised   x_t = (1 - t) x0 + t eps, x0 the reference's final latents, eps fresh: the training law of x_t

Both velocities are taken at the same (x_t, t, prompt) and guidance, and t runs over the sampler's grid. Source:
methods.md 7.4; the norm is the RMS over latent dimensions in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from nbench.errors import UsageError
from nbench.flow.model import Conditioning, FlowModel, SigmaGrid
from nbench.flow.norms import rms
from nbench.flow.sample import euler_step
from nbench.normguard.analysis.rows import Batch, Floats, OnBatch, Samples, Sampling, to_numpy
from nbench.prompts import Prompt
from nbench.stats.bootstrap import Interval, cluster_mean

StateKind = Literal["base", "own", "renoised"]
STATES: tuple[StateKind, ...] = get_args(StateKind)


@dataclass(frozen=True)
class Norms:
    """Measured on one kind of states; [samples, steps] each, NaN where a velocity was not finite.

    Attributes:
        policy: rms of the checkpoint's velocity.
        reference: rms of the reference's.
        cosine: between the two, -1 to 1.
    """

    policy: Floats
    reference: Floats
    cosine: Floats

    @property
    def ratio(self) -> Floats:
        """q, [samples, steps]; NaN where the reference's norm is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = np.where(self.reference > 0, self.policy / self.reference, np.nan)
        return found


@dataclass(frozen=True)
class Inflation:
    """Norms of one checkpoint against its reference.

    Attributes:
        sigmas: t of each step, [steps].
        prompt_ids: prompt of each sample, [samples]: the clusters.
        seeds: seed index of each sample, [samples].
        states: by kind.
    """

    sigmas: Floats
    prompt_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    states: Mapping[StateKind, Norms]


@dataclass(frozen=True)
class NormLine:
    """What the samples say together, at one step or on average over all.

    Attributes:
        state: kind of states.
        step: index from 0; None for the mean over steps.
        sigma: t there; None for the mean.
        ratio: mean of q.
        above: share of samples with q > 1.
        cosine: mean cosine.
        failed: samples left out, because a velocity of theirs was not finite.
    """

    state: StateKind
    step: int | None
    sigma: float | None
    ratio: Interval
    above: Interval
    cosine: Interval
    failed: int


def inflation(
    model: FlowModel,
    reference: FlowModel,
    prompts: Sequence[Prompt],
    *,
    steps: int,
    seeds: int,
    guidance: float,
    states: Sequence[StateKind] = STATES,
    run_seed: int = 0,
    grid: SigmaGrid = "diffusers",
    size: tuple[int, int] | None = None,
    batch_size: int = 16,
    on_batch: OnBatch | None = None,
) -> Inflation:
    """Measure q on the states asked for: two forwards per sample, step and kind.

    Args:
        model: the checkpoint.
        reference: its base, over the same latents; it sees the embeddings that `model` makes.
        prompts: at least one.
        steps: of the sampler.
        seeds: samples per prompt.
        guidance: of both.
        states: kinds, at least one.
        run_seed: all noise follows from it, as in `nbench run`.
        grid: of the sigmas.
        size: (height, width) in pixels; None is the model's.
        batch_size: samples per forward.
        on_batch: called after each batch.

    Raises:
        UsageError: no prompts or kinds, an unknown kind, an impossible size, or a number below 1.
    """
    unknown = [kind for kind in states if kind not in STATES]
    if not states or unknown:
        raise UsageError(f"kinds of states {list(unknown or states)} cannot be measured: use some of {list(STATES)}.")
    samples = Samples(model, prompts, Sampling(steps, seeds, guidance, run_seed, grid, size, batch_size))
    found = {kind: Norms(samples.table(), samples.table(), samples.table()) for kind in STATES if kind in states}
    pair = _Pair(model, reference, guidance)
    for batch in samples.batches():
        with torch.no_grad():
            clean = pair.follow_base(batch, found.get("base")) if {"base", "renoised"} & set(states) else None
            if "own" in found:
                pair.follow_own(batch, found["own"])
            if "renoised" in found and clean is not None:
                noises = [samples.extra_noise(batch, "renoise", step) for step in range(steps)]
                pair.renoise(batch, clean, noises, found["renoised"])
        if on_batch is not None:
            on_batch(len(batch.samples))
    return Inflation(to_numpy(samples.sigmas[:-1]), samples.prompt_ids, samples.seeds, found)


def summarise_inflation(found: Inflation, *, level: float = 0.95) -> tuple[NormLine, ...]:
    """Means with cluster-bootstrap intervals over prompts: per kind the mean over steps first, then every step.

    A sample of which any velocity on a kind of states was not finite is left out of that kind, and counted.

    Raises:
        UsageError: no sample is left.
    """
    lines = []
    prompts = np.asarray(found.prompt_ids)
    for kind, norms in found.states.items():
        ratio, cosine = norms.ratio, norms.cosine
        sound = np.isfinite(ratio).all(1) & np.isfinite(cosine).all(1)
        if not sound.any():
            raise UsageError(f"on {kind} states no sample has finite velocities: there is nothing to compare.")
        columns: list[tuple[int | None, Floats, Floats]] = [(None, ratio.mean(1), cosine.mean(1))]
        columns += [(step, ratio[:, step], cosine[:, step]) for step in range(ratio.shape[1])]
        for step, q, c in columns:
            means = [cluster_mean(v[sound], prompts[sound], level=level) for v in (q, (q > 1).astype(float), c)]
            sigma = None if step is None else float(found.sigmas[step])
            lines.append(NormLine(kind, step, sigma, means[0], means[1], means[2], int((~sound).sum())))
    return tuple(lines)


class _Pair:
    """The two models, measured side by side."""

    def __init__(self, model: FlowModel, reference: FlowModel, guidance: float) -> None:
        self._model, self._reference, self._guidance = model, reference, guidance

    def follow_base(self, batch: Batch, into: Norms | None) -> torch.Tensor:
        """Sample with the reference; returns its final latents."""
        x = batch.noise
        for step in range(len(batch.sigmas) - 1):
            v_ref = self._at(self._reference, x, batch.sigmas[step], batch.cond)
            if into is not None:
                _record(into, batch, step, self._at(self._model, x, batch.sigmas[step], batch.cond), v_ref)
            x = euler_step(x, v_ref, batch.sigmas[step], batch.sigmas[step + 1])
        return x

    def follow_own(self, batch: Batch, into: Norms) -> None:
        """Sample with the checkpoint."""
        x = batch.noise
        for step in range(len(batch.sigmas) - 1):
            v = self._at(self._model, x, batch.sigmas[step], batch.cond)
            _record(into, batch, step, v, self._at(self._reference, x, batch.sigmas[step], batch.cond))
            x = euler_step(x, v, batch.sigmas[step], batch.sigmas[step + 1])

    def renoise(self, batch: Batch, clean: torch.Tensor, noises: Sequence[torch.Tensor], into: Norms) -> None:
        """Put clean latents back to every t of the grid."""
        for step, noise in enumerate(noises):
            t = batch.sigmas[step]
            x = ((1 - t) * clean.float() + t * noise.float()).to(clean.dtype)
            v = self._at(self._model, x, t, batch.cond)
            _record(into, batch, step, v, self._at(self._reference, x, t, batch.cond))

    def _at(self, model: FlowModel, x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        return model.velocity(x, sigma, cond, guidance=self._guidance)


def _record(into: Norms, batch: Batch, step: int, v: torch.Tensor, v_ref: torch.Tensor) -> None:
    into.policy[batch.rows, step] = to_numpy(rms(v))
    into.reference[batch.rows, step] = to_numpy(rms(v_ref))
    a, b = v.float().flatten(1), v_ref.float().flatten(1)
    into.cosine[batch.rows, step] = to_numpy(torch.nn.functional.cosine_similarity(a, b, dim=1))
