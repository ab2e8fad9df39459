"""Rollouts: groups of pictures per prompt from the current policy, along the ODE or a stochastic trajectory.

Everything random follows from (seed, epoch, prompt id, member) alone, so that it depends neither on the number of
processes nor on batches nor on what was resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nbench.flow.model import Conditioning, FlowModel, SigmaGrid
from nbench.flow.sample import euler_step, sample
from nbench.flow.seeds import noise_seed
from nbench.normguard.losses import cps_step, sde_step
from nbench.prompts import Prompt

if TYPE_CHECKING:
    from PIL import Image

    from nbench.normguard.config import GrpoConfig


class PromptBank:
    """Embeddings of prompts, each encoded by itself and once, and kept on the CPU.

    Args:
        model: encodes.
        guidance: decides whether negatives are needed.
        offload: move the text encoders off the device after each use.
        keep: so many prompts at most, unless more are asked for at once.
    """

    def __init__(self, model: FlowModel, *, guidance: float, offload: bool, keep: int = 1024) -> None:
        self._model = model
        self._guidance = guidance
        self._offload = offload
        self._keep = keep
        self._known: dict[str, Conditioning] = {}

    @property
    def device(self) -> torch.device:
        """Where `get` puts embeddings."""
        return self._model.device

    def prepare(self, texts: Iterable[str]) -> None:
        """Encode what is not known yet; what was asked for longest ago is forgotten, never any of `texts`."""
        wanted = list(dict.fromkeys(texts))
        new = [text for text in wanted if text not in self._known]
        for text in wanted:
            found = self._known.pop(text, None)  # to the end of the order
            if found is None:
                found = self._model.encode([text], guidance=self._guidance).to("cpu")
            self._known[text] = found
        while len(self._known) > max(self._keep, len(wanted)):
            self._known.pop(next(iter(self._known)))
        if new and self._offload and hasattr(self._model, "offload_text_encoders"):
            self._model.offload_text_encoders()

    def get(self, texts: Sequence[str]) -> Conditioning:
        """Conditioning of `texts` as one batch, on the model's device."""
        self.prepare(texts)
        rows = [self._known[text] for text in texts]
        names = rows[0].tensors.keys()
        tensors = {name: torch.cat([row.tensors[name] for row in rows]) for name in names}
        negative = None
        if rows[0].negative is not None:
            negative = {name: torch.cat([row.negative[name] for row in rows if row.negative]) for name in names}
        return Conditioning(tensors, negative).to(self._model.device)


@dataclass(frozen=True)
class Sample:
    """One picture to be made: a member of a prompt's group in an epoch."""

    epoch: int
    group: int
    member: int
    prompt: Prompt

    def seed(self, seed: int, purpose: str) -> int:
        """Seed of what is drawn for this picture, for one purpose ("noise", "draw/0", ...)."""
        return noise_seed(seed, f"train/{purpose}/{self.epoch}/{self.prompt.id}", self.member)

    def normal(self, seed: int, purpose: str, shape: Sequence[int]) -> Tensor:
        """Standard normal float32 of `shape`, a function of `seed` and `purpose` alone."""
        return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(self.seed(seed, purpose)))


@dataclass(frozen=True)
class Paths:
    """Stochastic trajectories of a rollout, on the CPU in float32.

    Attributes:
        states: x at every sigma, [steps + 1, n, C, h, w].
        velocities: the rollout policy's at every state, [steps, n, C, h, w].
        sigmas: [steps + 1].
        noisy: steps that were stochastic, the first so many.
    """

    states: Tensor
    velocities: Tensor
    sigmas: Tensor
    noisy: int


@dataclass
class Rollout:
    """Pictures of an epoch, this process's share; groups are whole.

    Attributes:
        samples: which they are, [n].
        clean: x_0 as the sampler left it, float32 [n, C, h, w] on the CPU; what was decoded and rewarded.
        paths: of stochastic samplers.
        images: decoded.
    """

    samples: list[Sample]
    clean: Tensor
    paths: Paths | None
    images: list[Image.Image]


@torch.no_grad()
def roll_out(
    model: FlowModel,
    bank: PromptBank,
    samples: Sequence[Sample],
    *,
    steps: int,
    guidance: float,
    size: tuple[int, int],
    batch_size: int,
    seed: int,
    grid: SigmaGrid = "diffusers",
    stochastic: GrpoConfig | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    advance: Callable[[int], None] | None = None,
) -> Rollout:
    """Make the pictures of `samples`.

    Args:
        model: the rollout policy.
        bank: embeddings.
        samples: what to make.
        steps: of the sampler.
        guidance: of the velocity.
        size: (height, width) in pixels.
        batch_size: pictures per forward.
        seed: of the training.
        grid: of sigmas.
        stochastic: sample Flow-GRPO's trajectories and keep them; its last `skip_last` steps are without noise, since
            they are not trained. None samples the ODE.
        autocast: of stochastic rollouts' velocities: that of the trained forwards, since their log-probabilities are
            compared. Pictures of the ODE are made without, as those of a saved checkpoint.
        advance: told of each batch, how many pictures it made.
    """
    height, width = size
    sigmas = model.sigmas(steps, grid=grid, height=height, width=width)
    clean: list[Tensor] = []
    paths: list[Paths] = []
    images: list[Image.Image] = []
    for start in range(0, len(samples), batch_size):
        chunk = samples[start : start + batch_size]
        cond = bank.get([one.prompt.text for one in chunk])
        starts = (
            [replace(one, member=0) for one in chunk] if stochastic is not None and stochastic.same_noise else chunk
        )
        noise = model.noise([one.seed(seed, "noise") for one in starts], height=height, width=width)
        if stochastic is None:
            x = sample(model, cond, noise, sigmas, guidance=guidance).latents
        else:
            path = _stochastic(model, cond, noise, sigmas, chunk, guidance, seed, stochastic, autocast)
            paths.append(path)
            x = path.states[-1].to(device=model.device, dtype=model.dtype)
        clean.append(x.float().cpu())
        images.extend(decode(model, x))
        if advance is not None:
            advance(len(chunk))
    return Rollout(
        list(samples),
        torch.cat(clean),
        Paths(
            torch.cat([path.states for path in paths], 1),
            torch.cat([path.velocities for path in paths], 1),
            sigmas,
            paths[0].noisy,
        )
        if paths
        else None,
        images,
    )


def decode(model: FlowModel, x: Tensor) -> list[Image.Image]:
    """8-bit pictures of clean latents, rounded as stored pictures are; a latent that is not finite gives black."""
    from PIL import Image

    from nbench.runs.generate import to_pixels

    sound = x.isfinite().flatten(1).all(1)
    safe = torch.where(sound.view(-1, *[1] * (x.ndim - 1)), x, torch.zeros_like(x))
    pixels = to_pixels(model.decode(safe.to(model.dtype)))
    return [Image.fromarray(one if good else one * 0) for one, good in zip(pixels, sound.tolist(), strict=True)]


def _stochastic(
    model: FlowModel,
    cond: Conditioning,
    noise: Tensor,
    sigmas: Tensor,
    samples: Sequence[Sample],
    guidance: float,
    seed: int,
    config: GrpoConfig,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Paths:
    steps = len(sigmas) - 1
    noisy = max(0, steps - config.skip_last)
    on_device = sigmas.to(device=noise.device, dtype=torch.float32)
    x = noise.float()
    states, velocities = [x.cpu()], []
    for step in range(steps):
        sigma, after = on_device[step], on_device[step + 1]
        with autocast():
            v = model.velocity(x.to(model.dtype), sigma, cond, guidance=guidance).float()
        velocities.append(v.cpu())
        if step >= noisy:
            x = euler_step(x, v, sigma, after)
        else:
            z = torch.stack([one.normal(seed, f"step/{step}", x.shape[1:]) for one in samples]).to(x.device)
            if config.sampler == "cps":
                x = cps_step(x, v, sigma, after, eta=config.eta, noise=z).x_next
            else:
                x = sde_step(x, v, sigma, after, eta=config.eta, sigma_first=on_device[1], noise=z).x_next
        states.append(x.cpu())
    return Paths(torch.stack(states), torch.stack(velocities), sigmas, noisy)
