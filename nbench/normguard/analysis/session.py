"""What the user asks of an analysis -> loaded models, one after the other, and the settings that its result records.

All LoRAs of one base are walked under one loaded transformer, and the base is that transformer with the LoRA off. A
full fine-tune is a second loaded model beside its base.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import nbench
from nbench.errors import CheckpointError, UsageError
from nbench.flow.load import is_generation_only
from nbench.flow.model import FlowModel, SigmaGrid
from nbench.flow.spec import CheckpointSpec
from nbench.prompts import PromptSet
from nbench.runs.backend import Backend, Models, default_backend, library_versions, resolve_device, resolve_dtype
from nbench.runs.suite import Suite, make_suite


@dataclass(frozen=True)
class Request:
    """What the user asks; the same for all analyses that sample velocities.

    Attributes:
        checkpoints: with a LoRA each, or full models when `base` is given; names differ.
        base: of full fine-tunes; None takes each LoRA's own base.
        prompts: a prompt set by name or path.
        limit: use at most so many of them.
        steps, seeds, seed, grid, size, batch_size: see `rows.Sampling`.
        guidance: None is the checkpoint's default.
        device, dtype: "auto" as in a run.
    """

    checkpoints: tuple[CheckpointSpec, ...]
    base: str | None = None
    prompts: str = "pocket"
    limit: int | None = None
    steps: int = 28
    seeds: int = 1
    seed: int = 0
    guidance: float | None = None
    grid: SigmaGrid = "diffusers"
    size: tuple[int, int] | None = None
    batch_size: int = 16
    device: str = "auto"
    dtype: str = "auto"

    def spec(self, checkpoint: CheckpointSpec) -> CheckpointSpec:
        """The checkpoint on the device and in the dtype asked for."""
        device = resolve_device(self.device)
        return replace(checkpoint, device=device, dtype=resolve_dtype(self.dtype, device))  # type: ignore[arg-type]

    def reference(self, checkpoint: CheckpointSpec) -> CheckpointSpec:
        """The base that a checkpoint is compared with."""
        if self.base is None:
            return replace(self.spec(checkpoint), name="base", lora=None, lora_scale=1.0)
        return replace(self.spec(checkpoint), name="base", base=self.base, lora=None, lora_scale=1.0, revision=None)


@dataclass(frozen=True)
class Pair:
    """A loaded checkpoint and its base. It is good until the next pair is asked for.

    Attributes:
        name: of the checkpoint.
        model: the checkpoint.
        reference: its base.
        guidance: of both.
    """

    name: str
    model: FlowModel
    reference: FlowModel
    guidance: float


class Session:
    """The models of a request.

    Attributes:
        request: what was asked.
        prompts: the prompt set, limited.
    """

    def __init__(self, request: Request, *, backend: Backend | None = None) -> None:
        """Look up prompts and weights; nothing is loaded yet.

        Raises:
            UsageError: a checkpoint or the prompt set is missing or wrong, or two checkpoints share a name.
        """
        names = [checkpoint.name for checkpoint in request.checkpoints]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names:
            what = f"checkpoint {twice[0]!r} is there twice" if twice else "there is no checkpoint"
            raise CheckpointError(f"{what}: give each its own name, NAME=BASE+LORA.")
        self.request = request
        self._backend = backend or default_backend()
        self.prompts: PromptSet = self._backend.prompts(request.prompts, request.limit)
        self._weights = {spec.name: self._backend.weights_hash(request.spec(spec)) for spec in request.checkpoints}
        self._references = {
            spec.name: self._backend.weights_hash(request.reference(spec)) for spec in request.checkpoints
        }
        if backend is None:
            for spec in request.checkpoints:
                if is_generation_only(request.spec(spec)):
                    raise CheckpointError(
                        f"checkpoint {spec.name!r} is of a family that nbench can only generate with: its velocity "
                        "cannot be analysed."
                    )

    def check_differs(self) -> None:
        """See that each checkpoint is something else than its base.

        Raises:
            CheckpointError: one is not.
        """
        for name, weights in self._weights.items():
            if weights == self._references[name]:
                raise CheckpointError(
                    f"checkpoint {name!r} is its own base, so there is nothing to compare: add a LoRA "
                    f"({name}=BASE+LORA), or name the base of a full fine-tune with --base."
                )

    @property
    def samples(self) -> int:
        """Samples per checkpoint."""
        return len(self.prompts) * self.request.seeds

    def pairs(self) -> Iterator[Pair]:
        """Each checkpoint with its base, loaded; `size` and guidance of the first fix the settings."""
        models = Models(self._backend)
        try:
            for checkpoint in self.request.checkpoints:
                name, spec = checkpoint.name, self.request.spec(checkpoint)
                model = cast(FlowModel, models.get(spec, self._weights[name]))
                reference = models.reference(self.request.reference(checkpoint), self._references[name])
                _check_latents(name, model, reference, self.request.size)
                guidance = model.default_guidance if self.request.guidance is None else self.request.guidance
                yield Pair(name, model, reference, float(guidance))
        finally:
            models.close()

    def sampling(self) -> dict[str, Any]:
        """The keyword arguments that all analyses share, without guidance."""
        asked = self.request
        return {
            "steps": asked.steps,
            "seeds": asked.seeds,
            "run_seed": asked.seed,
            "grid": asked.grid,
            "size": asked.size,
            "batch_size": asked.batch_size,
        }

    def suite(self, *, steps: str, scorers: str) -> Suite:
        """The request as a suite of `nbench.runs` whose reference is the base.

        Args:
            steps: step counts, comma-separated.
            scorers: names, comma-separated.

        Raises:
            UsageError: a value is wrong, or the checkpoints are of several bases.
        """
        asked = self.request
        bases = {(spec.base, spec.revision) for spec in (asked.reference(spec) for spec in asked.checkpoints)}
        if len(bases) > 1:
            raise UsageError("the checkpoints are of several bases, and a suite has one reference: take them in turn.")
        ((base, revision),) = bases
        name = next(name for name in ("base", "reference", "nbench-base") if name not in self._weights)
        entries = [{"name": name, "base": base, "revision": revision}]
        for spec in asked.checkpoints:
            entries.append({"name": spec.name, "base": spec.base, "lora": spec.lora, "revision": spec.revision})
        height, width = asked.size or (None, None)
        content = {
            "checkpoints": [{key: value for key, value in entry.items() if value is not None} for entry in entries],
            "prompts": asked.prompts,
            "limit": asked.limit,
            "steps": steps,
            "scorers": scorers,
            "seeds": asked.seeds,
            "seed": asked.seed,
            "guidance": asked.guidance,
            "grid": asked.grid,
            "height": height,
            "width": width,
            "batch_size": asked.batch_size,
            "device": asked.device,
            "dtype": asked.dtype,
        }
        return make_suite({key: value for key, value in content.items() if value is not None})

    def settings(self, **own: object) -> dict[str, Any]:
        """Everything that the figures depend on, plus `own`, for the result's file; no path of this machine."""
        asked = self.request
        device = resolve_device(asked.device)
        return {
            "nbench": nbench.__version__,
            "checkpoints": {
                name: {"weights": weights, "base_weights": self._references[name]}
                for name, weights in self._weights.items()
            },
            "prompts": {
                "name": self.prompts.name,
                "count": len(self.prompts),
                "hash": self.prompts.content_hash,
            },
            "steps": asked.steps,
            "seeds": asked.seeds,
            "seed": asked.seed,
            "guidance": asked.guidance,
            "grid": asked.grid,
            "size": None if asked.size is None else list(asked.size),
            "batch_size": asked.batch_size,
            "device": device.partition(":")[0],
            "dtype": resolve_dtype(asked.dtype, device),
            "versions": library_versions(lora=any(spec.lora for spec in asked.checkpoints)),
            **own,
        }


def _check_latents(name: str, model: FlowModel, reference: FlowModel, size: tuple[int, int] | None) -> None:
    height, width = size or model.resolution
    shapes = [one.latent_shape(height, width) for one in (model, reference)]
    if model.family != reference.family or shapes[0] != shapes[1]:
        raise CheckpointError(
            f"checkpoint {name!r} ({model.family}, latents {shapes[0]}) and its base ({reference.family}, latents "
            f"{shapes[1]}) cannot be set side by side: give the base that it was trained from."
        )
