"""The one interface to a model: its velocity.

Convention: x_t = (1 - t) x0 + t eps, velocity v = eps - x0, t = sigma in [0, 1], t = 1 is noise, network timestep
1000 t. Latents are always unpacked: [B, C, h, w]. A family that packs them (FLUX) does so inside `velocity`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

SigmaGrid = Literal["diffusers", "linspace"]


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts of a batch.

    Attributes:
        tensors: family-specific tensors, each [B, ...] (SD3: prompt_embeds, pooled_prompt_embeds; FLUX also text_ids).
        negative: the same for the negative prompt, present when classifier-free guidance will be used.
    """

    tensors: Mapping[str, torch.Tensor]
    negative: Mapping[str, torch.Tensor] | None = None

    def __len__(self) -> int:
        return next(iter(self.tensors.values())).shape[0]

    def select(self, index: Sequence[int]) -> Conditioning:
        """The rows of `index`, in that order; an index may repeat."""
        rows = torch.as_tensor(list(index))

        def take(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: tensor[rows.to(tensor.device)] for name, tensor in tensors.items()}

        return Conditioning(take(self.tensors), None if self.negative is None else take(self.negative))

    def to(self, device: torch.device | str) -> Conditioning:
        """The same conditioning on another device."""

        def move(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        return Conditioning(move(self.tensors), None if self.negative is None else move(self.negative))


class FlowModel(Protocol):
    """A loaded flow-matching text-to-image model.

    Attributes:
        family: "sd3", "flux" or the pipeline's class name.
        device, dtype: where and in what the transformer runs.
        weights_hash: sha256 over the weights that make its pictures (base and active LoRA), hex.
        default_guidance: what the family's pipeline uses when the user names none.
        resolution: (height, width) in pixels that the checkpoint was made for.
        size_multiple: height and width must be multiples of this.
    """

    family: str
    device: torch.device
    dtype: torch.dtype
    weights_hash: str
    default_guidance: float
    resolution: tuple[int, int]
    size_multiple: int

    def encode(self, prompts: Sequence[str], *, guidance: float, negative: str = "") -> Conditioning:
        """Text embeddings of `prompts`; with negatives when `guidance` makes the family use CFG."""

    def sigmas(self, steps: int, *, grid: SigmaGrid = "diffusers", height: int, width: int) -> torch.Tensor:
        """float32 [steps + 1], descending from 1 to 0, from the checkpoint's own scheduler configuration."""

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of one picture's latent."""

    def noise(self, seeds: Sequence[int], *, height: int, width: int) -> torch.Tensor:
        """[B, C, h, w] standard normal, row i from a CPU generator seeded with seeds[i], on the device in `dtype`."""

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning, *, guidance: float) -> torch.Tensor:
        """Guided velocity at (x, sigma): x [B, C, h, w]; sigma a float32 scalar tensor, or [B]; result like x."""

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """Pictures of clean latents x [B, C, h, w]: float32 [B, 3, H, W] in [0, 1], on the CPU."""
