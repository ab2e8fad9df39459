"""FLUX.1: FluxPipeline as a `FlowModel`. Guidance is an input of the network; latents are packed inside `velocity`.

Source of every operation: diffusers `pipelines/flux/pipeline_flux.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nbench.flow.family import DiffusersFlowModel
from nbench.flow.model import Conditioning, SigmaGrid

if TYPE_CHECKING:
    from nbench.flow.spec import CheckpointSpec
    from nbench.flow.weights import BaseFiles


class FluxFlowModel(DiffusersFlowModel):
    """`FlowModel` of FLUX.1-dev and FLUX.1-schnell, which has no guidance input and ignores it.

    Conditioning tensors: prompt_embeds [B, max_sequence_length, D], pooled_prompt_embeds [B, P].
    """

    family = "flux"
    stock_guidance = 3.5
    stock_sequence_length = 512

    def __init__(self, pipeline: Any, base: BaseFiles, spec: CheckpointSpec, *, device: torch.device) -> None:
        """See `DiffusersFlowModel`."""
        super().__init__(pipeline, base, spec, device=device)
        self._ids: dict[tuple[int, ...], torch.Tensor] = {}

    def _stock_resolution(self) -> tuple[int, int]:
        # The pipeline's own default is 1024 for every checkpoint; the VAE's configuration names the real one.
        side = self.pipeline.vae.config.sample_size
        return side, side

    def _size_multiple(self) -> int:
        multiple: int = self.pipeline.vae_scale_factor * 2
        return multiple

    def _set_timesteps(self, scheduler: Any, steps: int, grid: SigmaGrid, shape: tuple[int, int, int]) -> None:
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        # The stock pipeline always passes linspace sigmas, so FLUX's two grids are one.
        del grid
        config = scheduler.config
        mu = calculate_shift(
            (shape[1] // 2) * (shape[2] // 2),
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)

    def _encode_chunk(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        embeds, pooled, _ = self.pipeline.encode_prompt(
            prompt=prompts, device=self.device, max_sequence_length=self.max_sequence_length
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def _needs_negative(self, guidance: float) -> bool:
        return False

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning, *, guidance: float) -> torch.Tensor:
        """Guided velocity, one network row per picture."""
        rows, channels, height, width = x.shape
        embeds = cond.tensors["prompt_embeds"]
        strength = None
        if self.transformer.config.guidance_embeds:
            strength = torch.full([1], guidance, device=x.device, dtype=torch.float32).expand(rows)
        packed = self.transformer(
            hidden_states=self.pipeline._pack_latents(x.contiguous(), rows, channels, height, width),
            timestep=self.timestep(sigma, rows).to(x.dtype) / 1000,
            guidance=strength,
            pooled_projections=cond.tensors["pooled_prompt_embeds"],
            encoder_hidden_states=embeds,
            txt_ids=self._text_ids(embeds.shape[1], embeds.dtype),
            img_ids=self._image_ids(height // 2, width // 2, embeds.dtype),
            joint_attention_kwargs={},
            return_dict=False,
        )[0]
        factor = self.pipeline.vae_scale_factor
        unpacked: torch.Tensor = self.pipeline._unpack_latents(packed, height * factor, width * factor, factor)
        return unpacked

    def _text_ids(self, length: int, dtype: torch.dtype) -> torch.Tensor:
        if (length,) not in self._ids:
            self._ids[(length,)] = torch.zeros(length, 3, device=self.device, dtype=dtype)
        return self._ids[(length,)]

    def _image_ids(self, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        if (height, width) not in self._ids:
            ids = self.pipeline._prepare_latent_image_ids(1, height, width, self.device, dtype)
            self._ids[(height, width)] = ids
        return self._ids[(height, width)]
