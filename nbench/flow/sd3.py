"""SD3 and SD3.5: StableDiffusion3Pipeline as a `FlowModel`. Classifier-free guidance in one batch of two.

Source of every operation: diffusers `pipelines/stable_diffusion_3/pipeline_stable_diffusion_3.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nbench.errors import UsageError
from nbench.flow.family import DiffusersFlowModel
from nbench.flow.model import Conditioning, SigmaGrid

if TYPE_CHECKING:
    from nbench.flow.spec import CheckpointSpec
    from nbench.flow.weights import BaseFiles


class SD3FlowModel(DiffusersFlowModel):
    """`FlowModel` of SD3 and SD3.5.

    Conditioning tensors: prompt_embeds [B, 77 + max_sequence_length, D], pooled_prompt_embeds [B, P].
    """

    family = "sd3"
    stock_guidance = 7.0
    stock_sequence_length = 256

    def __init__(self, pipeline: Any, base: BaseFiles, spec: CheckpointSpec, *, device: torch.device) -> None:
        """See `DiffusersFlowModel`."""
        super().__init__(pipeline, base, spec, device=device)
        self._doubled: tuple[Conditioning, torch.Tensor, torch.Tensor] | None = None

    def _stock_resolution(self) -> tuple[int, int]:
        side = self.pipeline.default_sample_size * self.pipeline.vae_scale_factor
        return side, side

    def _size_multiple(self) -> int:
        multiple: int = self.pipeline.vae_scale_factor * self.pipeline.patch_size
        return multiple

    def _set_timesteps(self, scheduler: Any, steps: int, grid: SigmaGrid, shape: tuple[int, int, int]) -> None:
        from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

        config = scheduler.config
        shift = {}
        if config.use_dynamic_shifting:
            patch = self.transformer.config.patch_size
            shift["mu"] = calculate_shift(
                (shape[1] // patch) * (shape[2] // patch),
                config.get("base_image_seq_len", 256),
                config.get("max_image_seq_len", 4096),
                config.get("base_shift", 0.5),
                config.get("max_shift", 1.16),
            )
        if grid == "diffusers":
            scheduler.set_timesteps(steps, **shift)
        else:
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), **shift)

    def _encode_chunk(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=prompts,
            prompt_2=None,
            prompt_3=None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def _needs_negative(self, guidance: float) -> bool:
        return guidance > 1

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning, *, guidance: float) -> torch.Tensor:
        """Guided velocity; two network rows per picture when guidance > 1 (negatives first), else one.

        Raises:
            UsageError: guidance > 1, and `cond` was encoded without negatives.
        """
        t = self.timestep(sigma, len(x))
        if not self._needs_negative(guidance):
            return self._network(x, t, cond.tensors["prompt_embeds"], cond.tensors["pooled_prompt_embeds"])
        embeds, pooled = self._both(cond, guidance)
        away, towards = self._network(torch.cat([x] * 2), torch.cat([t] * 2), embeds, pooled).chunk(2)
        return away + guidance * (towards - away)

    def _both(self, cond: Conditioning, guidance: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Negative and positive embeddings in one batch, joined once per conditioning."""
        if cond.negative is None:
            raise UsageError(f"guidance is {guidance} but the prompts were encoded without negatives: encode them so.")
        if self._doubled is None or self._doubled[0] is not cond:
            embeds, pooled = (
                torch.cat([cond.negative[name], cond.tensors[name]])
                for name in ("prompt_embeds", "pooled_prompt_embeds")
            )
            self._doubled = (cond, embeds, pooled)
        return self._doubled[1], self._doubled[2]

    def _network(self, x: torch.Tensor, t: torch.Tensor, embeds: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.transformer(
            hidden_states=x,
            timestep=t,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            joint_attention_kwargs=None,
            return_dict=False,
        )[0]
        return output
