"""Checkpoint spec -> loaded model, with every bad input refused before any weight is read.

A spec names a base (a diffusers folder, a hub id, or a bundled pocket checkpoint) and perhaps a LoRA. Only safetensors
are read, never a pickle. Nothing heavy is imported until a model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from nbench.errors import CheckpointError, InfrastructureError, first_line
from nbench.flow.spec import CheckpointSpec, Dtype, parse_checkpoint

if TYPE_CHECKING:
    import torch

    from nbench.flow.flux import FluxFlowModel
    from nbench.flow.model import FlowModel
    from nbench.flow.pipeline import PipelineModel
    from nbench.flow.sd3 import SD3FlowModel
    from nbench.flow.weights import BaseFiles

__all__ = [
    "CheckpointSpec",
    "Dtype",
    "SwapsLora",
    "is_generation_only",
    "load_any",
    "load_model",
    "load_pipeline",
    "parse_checkpoint",
    "pick_device",
    "reference_view",
    "swap_lora",
    "weights_hash",
]


@runtime_checkable
class SwapsLora(Protocol):
    """A `FlowModel` that takes LoRAs."""

    def swap_lora(self, lora: str | None, scale: float = 1.0) -> None:
        """Put `lora` in, or None to leave the base."""

    def reference_view(self) -> FlowModel:
        """The model without its LoRA."""


def weights_hash(spec: CheckpointSpec) -> str:
    """sha256, hex, over the files of a checkpoint (base, LoRA and its scale), without loading it.

    It equals `load_model(spec).weights_hash`.

    Raises:
        CheckpointError: as `load_model`, as far as it can be told from configs.
    """
    from nbench.flow.weights import combined_hash, inspect_base

    base_hash = inspect_base(spec.base, spec.revision).weights_hash
    if spec.lora is None:
        return base_hash
    from nbench.flow.lora import resolve_lora

    return combined_hash(base_hash, resolve_lora(spec.lora).weights_hash(), spec.lora_scale)


def is_generation_only(spec: CheckpointSpec) -> bool:
    """Whether nbench has no family adapter for a checkpoint, so that only `load_pipeline` can load it.

    Raises:
        CheckpointError: as `load_model`.
    """
    from nbench.flow.weights import inspect_base

    return _family(inspect_base(spec.base, spec.revision)) is None


def load_model(spec: CheckpointSpec) -> FlowModel:
    """Load a checkpoint of a family that nbench has an adapter for (SD3 and SD3.5, FLUX.1).

    The result also has `swap_lora`, `reference_view` and `offload_text_encoders`; see `nbench.flow.family`.

    Raises:
        CheckpointError: it is missing, is not a flow-matching diffusers pipeline, is pickled, has no adapter, or its
            LoRA does not fit.
        InfrastructureError: it does not fit into the device's memory.
    """
    from nbench.flow.weights import inspect_base

    base = inspect_base(spec.base, spec.revision)
    family = _family(base)
    if family is None:
        raise CheckpointError(
            f"{base.folder} is a {base.pipeline_class} with {base.scheduler.get('_class_name')}, which nbench has no "
            "family adapter for: it can only generate (nbench.flow.load.load_pipeline)."
        )
    if spec.lora is not None:
        from nbench.flow.lora import resolve_lora

        resolve_lora(spec.lora)  # a LoRA that is not there should fail before the base is loaded
    device = pick_device(spec.device)
    pipeline = _load_diffusers(base, spec, device)
    if family == "sd3":
        from nbench.flow.sd3 import SD3FlowModel

        model: SD3FlowModel | FluxFlowModel = SD3FlowModel(pipeline, base, spec, device=device)
    else:
        from nbench.flow.flux import FluxFlowModel

        model = FluxFlowModel(pipeline, base, spec, device=device)
    if spec.lora is not None:
        model.swap_lora(spec.lora, spec.lora_scale)
    return model


def load_pipeline(spec: CheckpointSpec) -> PipelineModel:
    """Load any flow-matching text-to-image pipeline, for generation only.

    Raises:
        CheckpointError: as `load_model`; a LoRA is asked for.
    """
    from nbench.flow.pipeline import PipelineModel
    from nbench.flow.weights import inspect_base

    base = inspect_base(spec.base, spec.revision)
    if spec.lora is not None:
        raise CheckpointError(
            f"checkpoint {spec.name!r} asks for a LoRA on a {base.pipeline_class}, which nbench can only generate "
            "with: merge the LoRA into the base first."
        )
    device = pick_device(spec.device)
    pipeline = _load_diffusers(base, spec, device)
    return PipelineModel(pipeline, base, device=device, max_sequence_length=spec.max_sequence_length)


def load_any(spec: CheckpointSpec) -> FlowModel | PipelineModel:
    """`load_model` where the family has an adapter, else `load_pipeline`.

    Raises:
        CheckpointError: as these.
    """
    return load_pipeline(spec) if is_generation_only(spec) else load_model(spec)


def swap_lora(model: FlowModel, lora: str | None, scale: float = 1.0) -> None:
    """Put another LoRA into a loaded model, or None to leave the base; the base is never reloaded.

    `model.weights_hash` follows.

    Raises:
        CheckpointError: the model cannot take one, or the LoRA does not fit (then the old one stays).
    """
    if not isinstance(model, SwapsLora):
        raise CheckpointError(f"a {model.family} model cannot take a LoRA: merge it into its base first.")
    model.swap_lora(lora, scale)


def reference_view(model: FlowModel) -> FlowModel:
    """The base of a model: the same transformer with its LoRA switched off, no second copy.

    Raises:
        CheckpointError: the model has no such view.
    """
    if not isinstance(model, SwapsLora):
        raise CheckpointError(f"a {model.family} model has no LoRA to switch off: load its base on its own.")
    return model.reference_view()


def pick_device(name: str) -> torch.device:
    """The torch device of a spec's name.

    Raises:
        CheckpointError: this machine does not have it.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(f"device {name!r} cannot be used on this machine: use auto or cpu.") from error
    return device


def _family(base: BaseFiles) -> Literal["sd3", "flux"] | None:
    """The adapter of a pipeline, if there is one and its scheduler takes the steps that the adapter takes."""
    scheduler = base.scheduler
    if scheduler.get("_class_name") != "FlowMatchEulerDiscreteScheduler":
        return None
    if scheduler.get("stochastic_sampling") or scheduler.get("invert_sigmas"):
        return None
    families: dict[str, Literal["sd3", "flux"]] = {"StableDiffusion3Pipeline": "sd3", "FluxPipeline": "flux"}
    return families.get(base.pipeline_class)


def _load_diffusers(base: BaseFiles, spec: CheckpointSpec, device: torch.device) -> Any:
    """The stock pipeline object: safetensors only, no network, absent components passed as None."""
    import diffusers
    import torch
    from safetensors import SafetensorError

    pipeline_class = getattr(diffusers, base.pipeline_class, None)
    if pipeline_class is None:
        raise CheckpointError(
            f"{base.folder} is a {base.pipeline_class}, which diffusers {diffusers.__version__} does not have."
        )
    # SD3 saved without T5 does not load unless its missing components are named.
    absent = {name: None for name, class_name in base.components.items() if class_name is None}
    dtype = getattr(torch, spec.dtype)
    try:
        with _quiet():
            pipeline = pipeline_class.from_pretrained(
                base.folder,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                variant=base.variant,
                **absent,
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = first_line(error, 300)
        raise CheckpointError(f"{base.folder} could not be loaded ({reason}): download or save it again.") from error
    pipeline.set_progress_bar_config(disable=True)
    try:
        return pipeline.to(device)
    except torch.OutOfMemoryError as error:
        raise InfrastructureError(
            f"{base.folder} does not fit into the free memory of {device} in {spec.dtype}: use --dtype bfloat16, "
            "another --device, or end what else is on it."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' loading bars, which are given back afterwards."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    for log in shown:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in shown:
            log.enable_progress_bar()
