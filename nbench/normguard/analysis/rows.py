"""What every analysis samples: prompts x seeds in batches, encoded once, from the noise that `nbench run` would use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from nbench.errors import UsageError
from nbench.flow.model import Conditioning, FlowModel, SigmaGrid
from nbench.flow.seeds import noise_seed
from nbench.prompts import Prompt

Floats = npt.NDArray[np.float64]
#: called after each batch with how many samples are done
OnBatch = Callable[[int], None]


@dataclass(frozen=True)
class Sampling:
    """How an analysis samples.

    Attributes:
        steps: of the grid.
        seeds: samples per prompt.
        guidance: handed to every velocity, of policy and reference alike.
        run_seed: all noise follows from it.
        grid: of the sigmas.
        size: (height, width) in pixels; None is the model's resolution.
        batch_size: samples per forward.
    """

    steps: int
    seeds: int
    guidance: float
    run_seed: int = 0
    grid: SigmaGrid = "diffusers"
    size: tuple[int, int] | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"{name.replace('_', ' ')} is {getattr(self, name)}: use a whole number of at least 1."
                )


@dataclass(frozen=True)
class Sample:
    """One picture of a prompt.

    Attributes:
        prompt: of the sample.
        seed: its index, from 0.
    """

    prompt: Prompt
    seed: int


@dataclass(frozen=True)
class Batch:
    """Samples that go through the network together.

    Attributes:
        samples: in order.
        rows: their place among all samples.
        cond: their encoded prompts, on the model's device.
        noise: their initial states [B, C, h, w].
        sigmas: float32 [steps + 1] on the model's device, from 1 to 0.
    """

    samples: tuple[Sample, ...]
    rows: slice
    cond: Conditioning
    noise: torch.Tensor
    sigmas: torch.Tensor


class Samples:
    """All samples of an analysis under one model.

    Attributes:
        samples: prompts in order, seeds within.
        sigmas: float32 [steps + 1] on the CPU.
    """

    def __init__(self, model: FlowModel, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        """Choose sizes and grid; nothing is encoded yet.

        Raises:
            UsageError: no prompts, or a size that does not suit the model.
        """
        if not prompts:
            raise UsageError("there are no prompts: give at least one.")
        self._model = model
        self._prompts = tuple(prompts)
        self._sampling = sampling
        self._height, self._width = sampling.size or model.resolution
        self.samples = tuple(Sample(prompt, seed) for prompt in prompts for seed in range(sampling.seeds))
        self.sigmas = model.sigmas(sampling.steps, grid=sampling.grid, height=self._height, width=self._width)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def prompt_ids(self) -> tuple[str, ...]:
        """The prompt of each sample: the cluster that it belongs to."""
        return tuple(sample.prompt.id for sample in self.samples)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed index of each sample."""
        return tuple(sample.seed for sample in self.samples)

    def table(self) -> Floats:
        """An empty [samples, steps] array, NaN where nothing is measured."""
        return np.full((len(self), self._sampling.steps), np.nan)

    def batches(self) -> Iterator[Batch]:
        """The batches in order. Each distinct prompt is encoded once, and the text encoders leave the device."""
        model, size = self._model, self._sampling.batch_size
        cond = model.encode([prompt.text for prompt in self._prompts], guidance=self._sampling.guidance).to("cpu")
        offload = getattr(model, "offload_text_encoders", None)
        if offload is not None:
            offload()
        sigmas = self.sigmas.to(device=model.device, dtype=torch.float32)
        for start in range(0, len(self), size):
            samples = self.samples[start : start + size]
            index = [(start + i) // self._sampling.seeds for i in range(len(samples))]
            yield Batch(
                samples=samples,
                rows=slice(start, start + len(samples)),
                cond=cond.select(index).to(model.device),
                noise=self._noise([noise_seed(self._sampling.run_seed, s.prompt.id, s.seed) for s in samples]),
                sigmas=sigmas,
            )

    def extra_noise(self, batch: Batch, purpose: str, step: int) -> torch.Tensor:
        """Standard normal noise like the batch's initial one, but independent of it and of other purposes and steps."""
        run_seed = self._sampling.run_seed
        seeds = [noise_seed(run_seed, f"{s.prompt.id}\0{purpose}\0{step}", s.seed) for s in batch.samples]
        return self._noise(seeds)

    def _noise(self, seeds: Sequence[int]) -> torch.Tensor:
        return self._model.noise(seeds, height=self._height, width=self._width)


def to_numpy(values: torch.Tensor) -> Floats:
    """float64 on the CPU."""
    found: Floats = values.detach().double().cpu().numpy()
    return found
