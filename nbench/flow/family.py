"""What the family adapters share: noise, text in chunks, decoding, and one LoRA that can be swapped.

An adapter wraps a diffusers pipeline object and uses its parts as the pipeline's own `__call__` does, operation by
operation, so that pictures are equal bit for bit. It never changes the pipeline's scheduler.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from nbench.errors import CheckpointError, UsageError
from nbench.flow import lora as lora_files
from nbench.flow.model import Conditioning, SigmaGrid
from nbench.flow.weights import BaseFiles, combined_hash

if TYPE_CHECKING:
    from nbench.flow.spec import CheckpointSpec


class DiffusersFlowModel(ABC):
    """A `FlowModel` over a diffusers pipeline.

    `velocity` and `decode_with_gradient` are differentiable; everything else runs without gradients.

    A picture depends on what else is in its batch by float rounding only: in float32 on a CPU, pixels in [0, 1] of
    a picture made alone and in a batch of 8 differ by at most 1.4e-6 (tests/flow/test_family.py).

    Attributes:
        pipeline: the diffusers pipeline.
        transformer: its transformer, the same object for the model's whole life, whatever LoRA is in it.
        lora: the LoRA that is in, as it was named; None for the base.
        lora_scale: its scale.
        max_sequence_length: tokens that T5 prompts are padded to.
        text_chunk: prompts that are encoded in one forward.
    """

    family: str
    stock_guidance: ClassVar[float]
    stock_sequence_length: ClassVar[int]

    def __init__(self, pipeline: Any, base: BaseFiles, spec: CheckpointSpec, *, device: torch.device) -> None:
        """Wrap a loaded pipeline of `base`, without the spec's LoRA, which `swap_lora` puts in."""
        self.pipeline = pipeline
        self.transformer = pipeline.transformer
        self.device = device
        self.dtype: torch.dtype = pipeline.transformer.dtype
        self.base_hash = base.weights_hash
        defaults = base.defaults
        self.default_guidance = self.stock_guidance if defaults.guidance is None else defaults.guidance
        self.max_sequence_length = (
            spec.max_sequence_length or defaults.max_sequence_length or self.stock_sequence_length
        )
        self.resolution = defaults.resolution or self._stock_resolution()
        self.size_multiple = self._size_multiple()
        self.text_chunk = 32
        self.lora: str | None = None
        self.lora_scale = 1.0
        self.weights_hash = self.base_hash
        self._lora_layers: list[Any] = []
        self._shapes = lora_files.module_shapes(self.transformer)
        self._grid = lru_cache(maxsize=256)(self._make_grid)

    # What a family says of itself.

    @abstractmethod
    def _stock_resolution(self) -> tuple[int, int]:
        """(height, width) in pixels that the checkpoint's configs name."""

    @abstractmethod
    def _size_multiple(self) -> int:
        """Pixels that height and width must be multiples of."""

    @abstractmethod
    def _set_timesteps(self, scheduler: Any, steps: int, grid: SigmaGrid, shape: tuple[int, int, int]) -> None:
        """Call `scheduler.set_timesteps` as the stock pipeline does for a latent of `shape`."""

    @abstractmethod
    def _encode_chunk(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        """Embeddings of some prompts, text encoders being on the device."""

    @abstractmethod
    def _needs_negative(self, guidance: float) -> bool:
        """Whether `guidance` makes the family use classifier-free guidance."""

    @abstractmethod
    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning, *, guidance: float) -> torch.Tensor:
        """Guided velocity at (x, sigma): x [B, C, h, w]; sigma a float32 scalar tensor, or [B]; result like x."""

    # Sigmas, latents, pictures.

    def sigmas(self, steps: int, *, grid: SigmaGrid = "diffusers", height: int, width: int) -> torch.Tensor:
        """float32 [steps + 1] on the CPU, from 1 to 0, from the checkpoint's own scheduler configuration.

        `diffusers` is what the stock pipeline does when it is given the number of steps; `linspace` is what it does
        when it is given `sigmas=linspace(1, 1/N, N)`, which its scheduler then shifts.

        Raises:
            UsageError: steps below 1, or an impossible size.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise UsageError(f"steps is {steps!r}: use a whole number of at least 1.")
        return self._grid(steps, grid, self.latent_shape(height, width)).clone()

    def _make_grid(self, steps: int, grid: SigmaGrid, shape: tuple[int, int, int]) -> torch.Tensor:
        stock = self.pipeline.scheduler
        scheduler = type(stock).from_config(stock.config)
        self._set_timesteps(scheduler, steps, grid, shape)
        sigmas: torch.Tensor = scheduler.sigmas.to(device="cpu", dtype=torch.float32)
        return sigmas

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of one picture's latent.

        Raises:
            UsageError: a size that is not a positive multiple of `size_multiple`.
        """
        multiple = self.size_multiple
        if min(height, width) < multiple or height % multiple or width % multiple:
            near = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
            raise UsageError(
                f"size {height}x{width} does not suit {self.family}: height and width must be multiples of {multiple}, "
                f"e.g. {near[0]}x{near[1]}."
            )
        factor = self.pipeline.vae_scale_factor
        return self.pipeline.vae.config.latent_channels, height // factor, width // factor

    def noise(self, seeds: Sequence[int], *, height: int, width: int) -> torch.Tensor:
        """[B, C, h, w] standard normal, row i from a CPU generator seeded with seeds[i], on the device in `dtype`.

        Drawn in float32 and then cast, so that all dtypes and devices start from the same noise.
        """
        shape = self.latent_shape(height, width)
        rows = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
        return torch.stack(rows).to(device=self.device, dtype=self.dtype)

    @torch.no_grad()
    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """Pictures of clean latents x [B, C, h, w]: float32 [B, 3, H, W] in [0, 1], on the CPU."""
        return self.decode_with_gradient(x).to(device="cpu")

    def decode_with_gradient(self, x: torch.Tensor) -> torch.Tensor:
        """As `decode`, bit for bit, but on the model's device and differentiable in x."""
        vae = self.pipeline.vae
        latents = (x / vae.config.scaling_factor) + vae.config.shift_factor
        images = self.pipeline.image_processor.postprocess(vae.decode(latents, return_dict=False)[0], output_type="pt")
        pictures: torch.Tensor = images.to(dtype=torch.float32)
        return pictures

    def timestep(self, sigma: torch.Tensor, rows: int) -> torch.Tensor:
        """float32 [rows]: the network's timestep, 1000 sigma."""
        scale: int = self.pipeline.scheduler.config.num_train_timesteps
        return (sigma.to(device=self.device, dtype=torch.float32) * scale).expand(rows)

    # Text.

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], *, guidance: float, negative: str = "") -> Conditioning:
        """Text embeddings of `prompts`, `text_chunk` at a time; negatives when `guidance` makes the family use CFG.

        Negatives are encoded in batches of the same size as their prompts, as the stock pipeline does, once per size.

        Raises:
            UsageError: no prompts.
        """
        if not prompts:
            raise UsageError("there are no prompts to encode: give at least one.")
        self._move_text_encoders(self.device)
        chunks = [list(prompts[i : i + self.text_chunk]) for i in range(0, len(prompts), self.text_chunk)]
        tensors = _join([self._encode_chunk(chunk) for chunk in chunks])
        if not self._needs_negative(guidance):
            return Conditioning(tensors)
        by_size = {size: self._encode_chunk([negative] * size) for size in {len(chunk) for chunk in chunks}}
        return Conditioning(tensors, _join_equal([by_size[len(chunk)] for chunk in chunks], len(prompts)))

    def offload_text_encoders(self) -> None:
        """Move the text encoders to the CPU; the next `encode` moves them back."""
        self._move_text_encoders(torch.device("cpu"))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _move_text_encoders(self, device: torch.device) -> None:
        for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
            encoder = getattr(self.pipeline, name, None)
            if encoder is not None and encoder.device != device:
                encoder.to(device)

    # LoRA.

    def swap_lora(self, lora: str | None, scale: float = 1.0) -> None:
        """Put `lora` into the loaded transformer in place of the one that is there; None leaves the base.

        `weights_hash` follows. When the new LoRA does not fit, the old one stays; when it fits and cannot be loaded all
        the same, the base is left.

        Raises:
            CheckpointError: it cannot be found, read, or fitted.
        """
        if lora is None:
            lora_files.detach(self.pipeline)
            self._lora_changed(None, None, 1.0)
            return
        file = lora_files.resolve_lora(lora)
        digest = file.weights_hash()
        try:
            lora_files.attach(self.pipeline, file, scale=scale, shapes=self._shapes)
        except CheckpointError:
            if not getattr(self.transformer, "peft_config", None):  # it broke after the old one was out
                self._lora_changed(None, None, 1.0)
            raise
        self._lora_changed(lora, digest, scale)

    def _lora_changed(self, lora: str | None, digest: str | None, scale: float) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.lora, self.lora_scale = lora, scale
        self.weights_hash = combined_hash(self.base_hash, digest, scale)
        self._lora_layers = [module for module in self.transformer.modules() if isinstance(module, BaseTunerLayer)]

    @contextmanager
    def lora_disabled(self) -> Iterator[None]:
        """Inside, the transformer is the base's.

        peft's own switch also resets which parameters require gradients; its flag alone is flipped here, so that a
        reference forward inside a training step leaves no trace.
        """
        for layer in self._lora_layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer in self._lora_layers:
                layer._disable_adapters = False

    def reference_view(self) -> ReferenceView:
        """This model without its LoRA, over the same transformer."""
        return ReferenceView(self)


class ModelView:
    """Another velocity on a loaded model: text, noise, sigmas and decoding are the model's."""

    def __init__(self, model: DiffusersFlowModel) -> None:
        self.model = model
        self.family = model.family
        self.device = model.device
        self.dtype = model.dtype
        self.weights_hash = model.base_hash
        self.default_guidance = model.default_guidance
        self.resolution = model.resolution
        self.size_multiple = model.size_multiple

    def encode(self, prompts: Sequence[str], *, guidance: float, negative: str = "") -> Conditioning:
        """As the model: adapters never change text."""
        return self.model.encode(prompts, guidance=guidance, negative=negative)

    def sigmas(self, steps: int, *, grid: SigmaGrid = "diffusers", height: int, width: int) -> torch.Tensor:
        """As the model."""
        return self.model.sigmas(steps, grid=grid, height=height, width=width)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """As the model."""
        return self.model.latent_shape(height, width)

    def noise(self, seeds: Sequence[int], *, height: int, width: int) -> torch.Tensor:
        """As the model."""
        return self.model.noise(seeds, height=height, width=width)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """As the model."""
        return self.model.decode(x)

    def decode_with_gradient(self, x: torch.Tensor) -> torch.Tensor:
        """As the model."""
        return self.model.decode_with_gradient(x)

    def offload_text_encoders(self) -> None:
        """As the model."""
        self.model.offload_text_encoders()


class ReferenceView(ModelView):
    """The base of a model that has a LoRA in: the same transformer with the LoRA switched off, no second copy.

    It stays valid when the LoRA is swapped.
    """

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning, *, guidance: float) -> torch.Tensor:
        """The base's guided velocity."""
        with self.model.lora_disabled():
            return self.model.velocity(x, sigma, cond, guidance=guidance)


def _join(chunks: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    if len(chunks) == 1:
        return dict(chunks[0])
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _join_equal(chunks: Sequence[Mapping[str, torch.Tensor]], rows: int) -> dict[str, torch.Tensor]:
    """Join chunks of one repeated prompt; rows that are all equal, as they nearly always are, are stored once."""
    joined = {}
    for name, first in chunks[0].items():
        row = first[:1]
        parts = [chunk[name] for chunk in chunks]
        same = all(torch.equal(part, row.expand_as(part)) for part in parts)
        joined[name] = row.expand(rows, *row.shape[1:]) if same else torch.cat(parts)
    return joined
