"""Sampling: Euler steps along the velocity, for one step count or a whole sweep, with its norms.

A step equals FlowMatchEulerDiscreteScheduler.step bit for bit. Rows never touch each other: a picture whose velocity
becomes NaN spoils no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from nbench.errors import UsageError
from nbench.flow.model import Conditioning, FlowModel
from nbench.flow.norms import NormRescale, rms
from nbench.flow.seeds import noise_seed as noise_seed

#: called after each step with (index of the step from 0, the state it led to)
OnStep = Callable[[int, torch.Tensor], None]


@dataclass(frozen=True)
class Trajectory:
    """What sampling a batch gave.

    Attributes:
        latents: clean latents [B, C, h, w], on the model's device in its dtype.
        norms: float32 [steps, B] on the CPU: RMS of the model's guided velocity (before any rescale) at each state.
        ratios: float32 [steps, B] on the CPU: those norms over the reference's at the same states; None without one.
        finite: bool [B] on the CPU: whether every latent is a finite number.
    """

    latents: torch.Tensor
    norms: torch.Tensor
    ratios: torch.Tensor | None
    finite: torch.Tensor


def euler_step(x: torch.Tensor, v: torch.Tensor, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
    """The next state, x + (sigma_next - sigma) v, in the order and the dtypes of FlowMatchEulerDiscreteScheduler.step.

    Args:
        x: state [B, C, h, w].
        v: velocity, like x.
        sigma: float32 scalar tensor on x's device (its device decides how a low-precision product is rounded).
        sigma_next: the same for the next state.

    Returns:
        The next state, in v's dtype.
    """
    return (x.to(torch.float32) + (sigma_next - sigma) * v).to(v.dtype)


@torch.no_grad()
def sample(
    model: FlowModel,
    cond: Conditioning,
    noise: torch.Tensor,
    sigmas: torch.Tensor,
    *,
    guidance: float,
    first_velocity: torch.Tensor | None = None,
    first_reference: torch.Tensor | None = None,
    reference: FlowModel | None = None,
    rescale: NormRescale | None = None,
    on_step: OnStep | None = None,
) -> Trajectory:
    """Integrate from noise to pictures' latents.

    Args:
        model: gives the velocity.
        cond: encoded prompts of the batch.
        noise: states at sigmas[0], [B, C, h, w].
        sigmas: float32 [steps + 1], descending to 0.
        guidance: handed to the model.
        first_velocity: the model's velocity at (noise, sigmas[0]), when it is known already.
        first_reference: the reference's there.
        reference: model for `ratios` and `rescale`: one more forward per step.
        rescale: how to rescale each velocity to the reference's norm.
        on_step: called after each step.

    Raises:
        UsageError: a grid that does not descend, batches that differ, rescale without a reference.
    """
    _check(cond, noise, sigmas, rescale, reference)
    sigmas = sigmas.to(device=noise.device, dtype=torch.float32)
    x, norms, references = noise, [], []
    for step in range(len(sigmas) - 1):
        first = step == 0
        v = first_velocity if first and first_velocity is not None else None
        if v is None:
            v = model.velocity(x, sigmas[step], cond, guidance=guidance)
        norms.append(rms(v))
        if reference is not None:
            v_ref = first_reference if first and first_reference is not None else None
            if v_ref is None:
                v_ref = reference.velocity(x, sigmas[step], cond, guidance=guidance)
            references.append(rms(v_ref))
            if rescale is not None:
                v = rescale(v, v_ref)
        x = euler_step(x, v, sigmas[step], sigmas[step + 1])
        if on_step is not None:
            on_step(step, x)
    found = torch.stack(norms).cpu()
    return Trajectory(
        latents=x,
        norms=found,
        ratios=found / torch.stack(references).cpu() if references else None,
        finite=torch.isfinite(x).flatten(1).all(1).cpu(),
    )


@torch.no_grad()
def sweep(
    model: FlowModel,
    cond: Conditioning,
    noise: torch.Tensor,
    grids: Mapping[int, torch.Tensor],
    *,
    guidance: float,
    share_first: bool = True,
    reference: FlowModel | None = None,
    rescale: NormRescale | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> dict[int, Trajectory]:
    """Sample a batch at every step count of `grids`, from the same noise.

    All grids start at sigma 1, so the first velocity is the same for all of them and is computed once: the results
    equal those of separate `sample` calls, bit for bit on a device that is deterministic.

    Args:
        model: gives the velocity.
        cond: encoded prompts of the batch.
        noise: [B, C, h, w].
        grids: step count -> sigmas, float32 [steps + 1].
        guidance: handed to the model.
        share_first: compute the first velocity once; off computes it for every step count.
        reference: see `sample`.
        rescale: see `sample`.
        on_step: called after each step with (step count, index of the step from 0).

    Returns:
        Step count -> Trajectory, in the order of `grids`.

    Raises:
        UsageError: as `sample`.
    """
    known: dict[float, tuple[torch.Tensor, torch.Tensor | None]] = {}
    found: dict[int, Trajectory] = {}
    for steps, sigmas in grids.items():
        _check(cond, noise, sigmas, rescale, reference)
        start = float(sigmas[0])
        if share_first and start not in known:
            sigma = sigmas.to(device=noise.device, dtype=torch.float32)[0]
            known[start] = (
                model.velocity(noise, sigma, cond, guidance=guidance),
                None if reference is None else reference.velocity(noise, sigma, cond, guidance=guidance),
            )
        first_velocity, first_reference = known.get(start, (None, None))
        found[steps] = sample(
            model,
            cond,
            noise,
            sigmas,
            guidance=guidance,
            first_velocity=first_velocity,
            first_reference=first_reference,
            reference=reference,
            rescale=rescale,
            on_step=None if on_step is None else _bind(on_step, steps),
        )
    return found


def _bind(on_step: Callable[[int, int], None], steps: int) -> OnStep:
    return lambda step, state: on_step(steps, step)


def _check(
    cond: Conditioning,
    noise: torch.Tensor,
    sigmas: torch.Tensor,
    rescale: NormRescale | None,
    reference: FlowModel | None,
) -> None:
    if sigmas.ndim != 1 or len(sigmas) < 2 or not bool((sigmas[1:] < sigmas[:-1]).all()):
        raise UsageError("a sigma grid must hold at least two descending numbers: take it from the model's sigmas().")
    if len(cond) != len(noise):
        raise UsageError(f"there are {len(cond)} encoded prompts and {len(noise)} noises: give one noise per prompt.")
    if rescale is not None and reference is None:
        raise UsageError("rescale needs a reference model, whose norms are the target: give one.")
