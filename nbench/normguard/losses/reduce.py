"""The reductions that losses and guards share: wide numbers, a mean over latent dimensions, shapes that must agree.

Latents keep their size and are widened to float32 (float64 stays). Everything that is one number per sample is float64
(float32 on devices without it, such as MPS): clip ranges go down to 2e-6, and float32 near 1 resolves only 1e-7.
Values are not checked, since that would stall a GPU: a NaN or an infinity stays in its own sample.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Floats(NamedTuple):
    """Torch dtypes for a device and its inputs."""

    latent: torch.dtype
    sample: torch.dtype


def float_dtypes(*tensors: Tensor) -> Floats:
    """The dtype to compute latents in, and the one for numbers per sample, given the inputs."""
    latent = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    return Floats(latent, torch.float32 if tensors[0].device.type == "mps" else torch.float64)


def same_shape(**named: Tensor) -> tuple[Tensor, ...]:
    """The tensors, widened to float32 or better, once it is sure that they have one shape [B, ...].

    Raises:
        ValueError: shapes differ (they would broadcast silently), or there is no dimension after the batch's.
    """
    (first, reference), *others = named.items()
    if reference.ndim < 2:
        raise ValueError(f"{first} has shape {tuple(reference.shape)}: give a batch of latents, [B, ...].")
    for name, tensor in others:
        if tensor.shape != reference.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, but {first} has {tuple(reference.shape)}: "
                "give tensors of one shape, in the same packing."
            )
    latent = float_dtypes(*named.values()).latent
    return tuple(tensor.to(latent) for tensor in named.values())


def per_sample(name: str, value: Tensor | float, like: Tensor) -> Tensor:
    """One float64 number per sample of `like` [B, ...]: [B], from a tensor [B], a 0-dimensional one, or a number.

    Raises:
        ValueError: the tensor has any other shape, for example [B, 1, 1, 1].
    """
    batch = like.shape[0]
    found = torch.as_tensor(value, dtype=float_dtypes(like).sample, device=like.device)
    if found.shape not in ((), (batch,)):
        raise ValueError(f"{name} has shape {tuple(found.shape)}: give one number per sample, shape ({batch},).")
    return found.expand(batch)


def mean_latent(x: Tensor) -> Tensor:
    """mean_D x: the mean over all dimensions but the first, [B, ...] -> [B] in float64."""
    return x.mean(dim=tuple(range(1, x.ndim)), dtype=float_dtypes(x).sample)


def mse(a: Tensor, b: Tensor) -> Tensor:
    """MSE(a, b) = mean_D (a - b)^2: [B, ...] -> [B] in float64."""
    return mean_latent((a - b).square())


def over_latent(value: Tensor, like: Tensor) -> Tensor:
    """A number per sample [B] as [B, 1, ...] in the dtype of `like` [B, ...], to multiply latents with."""
    return value.to(like.dtype).view(-1, *[1] * (like.ndim - 1))
