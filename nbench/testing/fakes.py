"""A flow model and a scorer without networks: deterministic, instant, and able to fail on demand."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from nbench.errors import UsageError
from nbench.flow.model import Conditioning, SigmaGrid
from nbench.scoring.scorer import Metric, Score, ScorerCard

if TYPE_CHECKING:
    from nbench.flow.spec import CheckpointSpec

_CHANNELS = 4
_FACTOR = 8


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _code(text: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(_hash(text)[:15], 16))
    return torch.randn(_CHANNELS, generator=generator)


def _squash(x: torch.Tensor) -> torch.Tensor:
    """Into (-1, 1) by operations that IEEE rounds the same way in every batch, as tanh is not."""
    return x / (1 + x.abs())


class FakeFlowModel:
    """A `FlowModel` whose velocity is a formula: `(x - squash(code + x / 2)) / sigma`, `code` hashed from the prompt.

    Pictures do not depend on the batch, bit for bit; few steps differ from many; each call is counted.

    Attributes:
        velocity_calls: how often `velocity` ran.
        encoded: every prompt that `encode` was given, in order.
        swaps: every LoRA that `swap_lora` was given, in order.
    """

    family = "fake"
    default_guidance = 1.0
    size_multiple = _FACTOR

    def __init__(
        self,
        name: str = "fake",
        *,
        lora: str | None = None,
        lora_scale: float = 1.0,
        resolution: tuple[int, int] = (32, 32),
        delay: float = 0.0,
        nan_prompts: Collection[str] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Make one.

        Args:
            name: stands for the base weights: another name is another model.
            lora: stands for a LoRA: it makes every velocity longer by `0.25 * lora_scale` and another colour.
            lora_scale: factor of the LoRA.
            resolution: (height, width) in pixels.
            delay: seconds that each `velocity` call sleeps.
            nan_prompts: prompts whose velocities are NaN.
            dtype: of latents and velocities.
        """
        self.name = name
        self.device = torch.device("cpu")
        self.dtype = dtype
        self.resolution = resolution
        self.delay = delay
        self.nan_prompts = frozenset(nan_prompts)
        self.velocity_calls = 0
        self.encoded: list[str] = []
        self.swaps: list[str | None] = []
        self._set_lora(lora, lora_scale)

    def _set_lora(self, lora: str | None, scale: float) -> None:
        self.lora, self.lora_scale = lora, scale
        self.weights_hash = _hash(self.name if lora is None else f"{self.name}+{lora}@{scale}")
        self._gain = 1.0 if lora is None else 1.0 + 0.25 * scale
        self._tint = torch.zeros(_CHANNELS) if lora is None else 0.5 * scale * _code(f"lora:{lora}")

    def swap_lora(self, lora: str | None, scale: float = 1.0) -> None:
        """Put another LoRA in, or none; the base stays."""
        self.swaps.append(lora)
        self._set_lora(lora, scale)

    def reference_view(self) -> FakeFlowModel:
        """The same model without its LoRA."""
        return FakeFlowModel(self.name, resolution=self.resolution, nan_prompts=self.nan_prompts, dtype=self.dtype)

    def offload_text_encoders(self) -> None:
        """Nothing to move."""

    def encode(self, prompts: Sequence[str], *, guidance: float, negative: str = "") -> Conditioning:
        """One code [4] per prompt; NaN for `nan_prompts`; negatives when guidance > 1."""
        self.encoded += prompts
        codes = [
            torch.full((_CHANNELS,), float("nan")) if prompt in self.nan_prompts else _code(f"{self.name}:{prompt}")
            for prompt in prompts
        ]
        negatives = {"code": _code(f"{self.name}:{negative}").repeat(len(prompts), 1)} if guidance > 1 else None
        return Conditioning({"code": torch.stack(codes)}, negatives)

    def sigmas(self, steps: int, *, grid: SigmaGrid = "diffusers", height: int, width: int) -> torch.Tensor:
        """`linspace(1, 1/N, N), 0`, with shift 3 in the `diffusers` grid."""
        if steps < 1:
            raise UsageError(f"steps is {steps}: use at least 1.")
        line = torch.linspace(1.0, 1.0 / steps, steps)
        if grid == "diffusers":
            line = 3 * line / (1 + 2 * line)
        return torch.cat([line, torch.zeros(1)])

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(4, height / 8, width / 8)."""
        if height % _FACTOR or width % _FACTOR:
            raise UsageError(f"size {height}x{width} is not divisible by {_FACTOR}: use multiples of {_FACTOR}.")
        return _CHANNELS, height // _FACTOR, width // _FACTOR

    def noise(self, seeds: Sequence[int], *, height: int, width: int) -> torch.Tensor:
        """Row i from a CPU generator seeded with seeds[i]."""
        shape = self.latent_shape(height, width)
        rows = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows).to(self.dtype)

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning, *, guidance: float) -> torch.Tensor:
        """The formula; with classifier-free guidance when there are negatives and guidance > 1."""
        self.velocity_calls += 1
        if self.delay:
            time.sleep(self.delay)
        t = sigma.to(torch.float32).expand(len(x)).clamp_min(0.02)[:, None, None, None]

        def at(code: torch.Tensor) -> torch.Tensor:
            clean = _squash((code + self._tint)[:, :, None, None] + 0.5 * x.float())
            return (x.float() - clean) / t

        found = at(cond.tensors["code"])
        if cond.negative is not None and guidance > 1:
            away = at(cond.negative["code"])
            found = away + guidance * (found - away)
        return (self._gain * found).to(x.dtype)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """Three of the four channels, squashed into [0, 1] and enlarged."""
        return (0.5 + 0.5 * _squash(2 * x[:, :3].float())).repeat_interleave(_FACTOR, 2).repeat_interleave(_FACTOR, 3)


def fake_loader(spec: CheckpointSpec) -> FakeFlowModel:
    """A loader with the signature of `nbench.flow.load.load_model` that reads no file."""
    return FakeFlowModel(spec.base, lora=spec.lora, lora_scale=spec.lora_scale)


class FakeScorer:
    """A `Scorer` that gives the mean pixel in [0, 1] plus a hundredth hashed from the prompt.

    Attributes:
        scored: how many pictures it has given a value or a failed Score.
    """

    def __init__(
        self,
        name: str = "fake-score",
        *,
        version: str = "1",
        delay: float = 0.0,
        fail_prompts: Collection[str] = (),
        raise_prompts: Collection[str] = (),
    ) -> None:
        """Make one.

        Args:
            name: of the scorer and its column.
            version: of its card.
            delay: seconds per picture.
            fail_prompts: prompts that get a failed Score.
            raise_prompts: prompts for which the whole `score` call raises RuntimeError.
        """
        self._card = ScorerCard(
            name=name,
            kind="reward",
            version=version,
            metrics=(Metric("", "higher", "mean pixel, 0 to 1.01"),),
            summary="Mean pixel value, for tests.",
            uses_prompt=True,
        )
        self.delay = delay
        self.fail_prompts = frozenset(fail_prompts)
        self.raise_prompts = frozenset(raise_prompts)
        self.scored = 0

    @property
    def card(self) -> ScorerCard:
        """What the numbers are."""
        return self._card

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        """One Score per picture, in order."""
        bad = self.raise_prompts.intersection(prompts)
        if bad:
            raise RuntimeError(f"{self.card.name} cannot score {sorted(bad)[0]!r}")
        scores = []
        for image, prompt in zip(images, prompts, strict=True):
            if self.delay:
                time.sleep(self.delay)
            self.scored += 1
            if prompt in self.fail_prompts:
                scores.append(Score.failed(f"{self.card.name} was told to fail on this prompt"))
                continue
            mean = float(np.asarray(image.convert("RGB"), dtype=np.float64).mean()) / 255
            scores.append(Score.of(mean + int(_hash(prompt)[:4], 16) / 0xFFFF / 100))
        return scores


class FakeSetScorer:
    """A `SetScorer` that gives the standard deviation of the pictures' mean pixels, each in [0, 1].

    Attributes:
        scored: how many sets it has seen.
    """

    def __init__(
        self, name: str = "fake-spread", *, version: str = "1", fail: bool = False, broken: bool = False
    ) -> None:
        """Make one.

        Args:
            name: of the scorer and its column.
            version: of its card.
            fail: whether every set gets a failed Score.
            broken: whether every call raises RuntimeError.
        """
        self._card = ScorerCard(
            name=name,
            kind="diversity",
            version=version,
            metrics=(Metric("", "higher", "standard deviation of mean pixels, 0 to 0.5"),),
            summary="Spread of mean pixel values, for tests.",
            uses_prompt=False,
        )
        self.fail, self.broken = fail, broken
        self.scored = 0

    @property
    def card(self) -> ScorerCard:
        """What the numbers are."""
        return self._card

    def score_set(self, images: Sequence[Image.Image]) -> Score:
        """The spread of a set."""
        self.scored += 1
        if self.broken:
            raise RuntimeError(f"{self.card.name} is broken")
        if self.fail:
            return Score.failed(f"{self.card.name} was told to fail")
        if len(images) < 2:
            return Score.failed("a spread needs two pictures")
        return Score.of(float(np.std([np.asarray(image, np.float64).mean() / 255 for image in images])))
