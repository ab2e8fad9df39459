"""Velocity norms, and rescaling a velocity to another model's norm while sampling.

A norm is the RMS over latent dimensions in float32, so it does not depend on size, packing or dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nbench.errors import UsageError


def rms(v: torch.Tensor) -> torch.Tensor:
    """Root mean square of each row of v [B, ...]: float32 [B]. A NaN or an infinity stays in its own row."""
    return v.float().flatten(1).square().mean(1).sqrt()


@dataclass(frozen=True)
class NormRescale:
    """Pull the length of a velocity towards that of a reference velocity at the same state, per picture and step.

    v' = (1 - phi) v + phi v r,  r = rms(v_ref) / rms(v),  or r = min(1, rms(v_ref) / rms(v)) when one-sided

    phi = 1 gives the reference's norm, phi = 0 changes nothing. One-sided only ever shortens. It costs a forward of
    the reference per step. Source: NormGuard's inference-time control; one-sided as in ComfyUI's CFGNorm.

    Attributes:
        phi: strength, 0 to 1.
        one_sided: never lengthen.

    Raises:
        UsageError: phi outside [0, 1].
    """

    phi: float = 1.0
    one_sided: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.phi <= 1:
            raise UsageError(f"rescale phi is {self.phi}: use a number from 0 (no change) to 1 (the reference's norm).")

    def __call__(self, v: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Rescaled velocity, like v [B, ...]; a row of zeros stays zero."""
        ratio = rms(reference) / rms(v).clamp_min(torch.finfo(torch.float32).tiny)
        if self.one_sided:
            ratio = ratio.clamp_max(1.0)
        factor = (1 - self.phi) + self.phi * ratio
        return (v.float() * factor.view(-1, *[1] * (v.ndim - 1))).to(v.dtype)
