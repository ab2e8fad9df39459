"""Generation-only fallback: any diffusers text-to-image pipeline whose scheduler is flow matching.

The stock pipeline runs as it is, one step count at a time; velocities are read off its calls of `scheduler.step`.
Trade-offs against a family adapter: no velocity at a state of one's choosing (so no ratio to a reference, no
rescale), prompts are encoded and first steps computed anew for each step count, and no LoRA. Pictures are the stock
pipeline's own, exactly.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nbench.errors import CheckpointError, UsageError
from nbench.flow.norms import rms

if TYPE_CHECKING:
    from nbench.flow.model import SigmaGrid
    from nbench.flow.weights import BaseFiles

# Pipelines whose classifier-free guidance has another name than guidance_scale, and needs a negative prompt.
_TRUE_CFG = frozenset({"QwenImagePipeline"})


@dataclass(frozen=True)
class Generation:
    """What a run of a pipeline gave.

    Attributes:
        images: float32 [B, 3, H, W] in [0, 1], on the CPU.
        norms: float32 [calls, B]: RMS of the guided model output at each scheduler step (a second-order scheduler
            has more than one per step).
        sigmas: the scheduler's grid after the run, float32 [steps + 1].
        finite: bool [B]: whether every pixel is a finite number.
    """

    images: torch.Tensor
    norms: torch.Tensor
    sigmas: torch.Tensor
    finite: torch.Tensor


class PipelineModel:
    """A checkpoint that can only generate.

    Attributes:
        family: the pipeline's class name.
        pipeline: the diffusers pipeline.
        device, dtype: where and in what its network runs.
        weights_hash: sha256 over its files, hex.
        default_guidance: the pipeline's own; None when it takes no guidance.
        resolution: (height, width) in pixels that the checkpoint was made for.
        size_multiple: height and width must be multiples of this.
    """

    def __init__(
        self, pipeline: Any, base: BaseFiles, *, device: torch.device, max_sequence_length: int | None
    ) -> None:
        """Wrap a loaded pipeline of `base`.

        Raises:
            CheckpointError: it is not a text-to-image pipeline that nbench knows how to call.
        """
        self.pipeline = pipeline
        self.device = device
        self.family = type(pipeline).__name__
        self._parameters = inspect.signature(pipeline.__call__).parameters
        missing = [
            name
            for name in ("prompt", "num_inference_steps", "generator", "output_type", "height", "width")
            if name not in self._parameters
        ]
        needs = [
            name
            for name, parameter in self._parameters.items()
            if parameter.default is inspect.Parameter.empty and name not in ("prompt", "args", "kwargs")
        ]
        if missing or needs:
            raise CheckpointError(
                f"{base.folder} is a {self.family}, which is no text-to-image pipeline "
                f"(it {'lacks' if missing else 'needs'} {(missing or needs)[0]}): give a text-to-image checkpoint."
            )
        network = getattr(pipeline, "transformer", None) or pipeline.unet
        self.dtype: torch.dtype = network.dtype
        self.weights_hash = base.weights_hash
        self._guidance_name = "true_cfg_scale" if self.family in _TRUE_CFG else "guidance_scale"
        self.default_guidance = self._default_guidance(base)
        self.max_sequence_length = max_sequence_length or base.defaults.max_sequence_length
        factor = int(getattr(pipeline, "vae_scale_factor", 8))
        processor = getattr(pipeline, "image_processor", None)
        self.size_multiple = math.lcm(
            factor * int(network.config.get("patch_size") or 1),
            int(processor.config.vae_scale_factor) if processor is not None else 1,
        )
        self.resolution = base.defaults.resolution or self._stock_resolution(factor)

    def _default_guidance(self, base: BaseFiles) -> float | None:
        if base.defaults.guidance is not None:
            return base.defaults.guidance
        parameter = self._parameters.get(self._guidance_name)
        return None if parameter is None or parameter.default is None else float(parameter.default)

    def _stock_resolution(self, factor: int) -> tuple[int, int]:
        vae_config = getattr(getattr(self.pipeline, "vae", None), "config", {})
        side = vae_config.get("sample_size") or getattr(self.pipeline, "default_sample_size", 128) * factor
        return int(side), int(side)

    def sigmas(self, steps: int, *, grid: SigmaGrid = "diffusers", height: int, width: int) -> torch.Tensor:
        """The grid that `generate` will use, float32 [steps + 1], descending to 0.

        The pipeline is started on an empty prompt and stopped as soon as it has set its scheduler, before its network
        runs.

        Raises:
            UsageError: as `generate`.
        """
        options = self._options([""], [0], steps=steps, grid=grid, guidance=None, height=height, width=width)
        with _stopped_when_scheduled(self.pipeline.scheduler):
            self.pipeline(**options)
        return self._scheduled()

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """(): latents stay inside the pipeline."""
        return ()

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int,
        grid: SigmaGrid = "diffusers",
        guidance: float | None = None,
        height: int | None = None,
        width: int | None = None,
        latents: torch.Tensor | None = None,
    ) -> Generation:
        """Run the pipeline once on a batch.

        Args:
            prompts: one per picture.
            seeds: one per picture: its noise comes from a CPU generator of its own.
            steps: number of inference steps.
            grid: "linspace" hands the pipeline explicit sigmas, where it takes them.
            guidance: None is `default_guidance`.
            height: pixels; None is the checkpoint's.
            width: pixels; None is the checkpoint's.
            latents: noise in the shape that the pipeline takes, instead of `seeds`' own.

        Raises:
            UsageError: steps below 1, lengths that differ, a size that is not divisible, latents or a grid that the
                pipeline does not take.
        """
        options = self._options(prompts, seeds, steps=steps, grid=grid, guidance=guidance, height=height, width=width)
        if latents is not None:
            if "latents" not in self._parameters:
                raise UsageError(f"{self.family} does not take latents: leave them out, and seeds make the noise.")
            options["latents"] = latents
        with _recorded_norms(self.pipeline.scheduler, len(prompts)) as norms:
            images = self.pipeline(**options).images
        images = images.to(device="cpu", dtype=torch.float32)
        return Generation(
            images=images,
            norms=torch.stack(norms).cpu(),
            sigmas=self._scheduled(),
            finite=torch.isfinite(images).flatten(1).all(1),
        )

    def _scheduled(self) -> torch.Tensor:
        return torch.as_tensor(self.pipeline.scheduler.sigmas).to(device="cpu", dtype=torch.float32)

    def _options(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int,
        grid: SigmaGrid,
        guidance: float | None,
        height: int | None,
        width: int | None,
    ) -> dict[str, Any]:
        """Arguments of the pipeline's call."""
        height, width = height or self.resolution[0], width or self.resolution[1]
        if steps < 1:
            raise UsageError(f"steps is {steps}: use a whole number of at least 1.")
        if len(prompts) != len(seeds) or not prompts:
            raise UsageError(f"there are {len(prompts)} prompts and {len(seeds)} seeds: give one seed per prompt.")
        if height % self.size_multiple or width % self.size_multiple:
            raise UsageError(
                f"size {height}x{width} does not suit {self.family}: height and width must be multiples of "
                f"{self.size_multiple}."
            )
        options: dict[str, Any] = {
            "prompt": list(prompts),
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            "num_inference_steps": steps,
            "height": height,
            "width": width,
            "output_type": "pt",
        }
        if grid == "linspace":
            if "sigmas" not in self._parameters:
                raise UsageError(f"{self.family} takes no explicit sigmas: use --grid diffusers.")
            options["sigmas"] = np.linspace(1.0, 1 / steps, steps).tolist()
        guidance = self.default_guidance if guidance is None else guidance
        if guidance is not None and self._guidance_name in self._parameters:
            options[self._guidance_name] = guidance
            if self.family in _TRUE_CFG and guidance > 1:
                options["negative_prompt"] = [" "] * len(prompts)
        if self.max_sequence_length is not None and "max_sequence_length" in self._parameters:
            options["max_sequence_length"] = self.max_sequence_length
        return options


@contextmanager
def _recorded_norms(scheduler: Any, rows: int) -> Iterator[list[torch.Tensor]]:
    """Inside, each `scheduler.step` appends the norm of its model output, float32 [rows]."""
    norms: list[torch.Tensor] = []
    stock = scheduler.step

    def step(model_output: torch.Tensor, *args: Any, **options: Any) -> Any:
        norms.append(rms(model_output.reshape(rows, -1)))
        return stock(model_output, *args, **options)

    scheduler.step = step
    try:
        yield norms
    finally:
        del scheduler.step


class _ScheduledError(Exception):
    """The scheduler is set; nothing more is wanted."""


@contextmanager
def _stopped_when_scheduled(scheduler: Any) -> Iterator[None]:
    """Inside, the pipeline's run ends with its call of `scheduler.set_timesteps`; ends quietly."""
    stock = scheduler.set_timesteps

    @functools.wraps(stock)  # diffusers looks at its signature
    def set_timesteps(*args: Any, **options: Any) -> None:
        stock(*args, **options)
        raise _ScheduledError

    scheduler.set_timesteps = set_timesteps
    try:
        with contextlib.suppress(_ScheduledError):
            yield
    finally:
        del scheduler.set_timesteps
