"""What a run needs from the rest of nbench, as one replaceable value; and the one loaded model.

Importing this loads nothing heavy: a run of which everything is done never imports torch.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from nbench.errors import CheckpointError
from nbench.flow.load import CheckpointSpec
from nbench.prompts import PromptSet

if TYPE_CHECKING:
    from nbench.flow.model import FlowModel
    from nbench.flow.pipeline import PipelineModel
    from nbench.scoring.registry import AnyScorer

    AnyModel = FlowModel | PipelineModel


@dataclass(frozen=True)
class Backend:
    """The functions that a run calls; tests put fakes here.

    Attributes:
        weights_hash: hash of what a spec names, without loading it.
        load: spec -> model, or a pipeline that can only generate where the family has no adapter.
        swap_lora: put another LoRA (or none) with its scale under a loaded model.
        reference_view: the same model with its LoRA off.
        scorer: (name, device) -> scorer, weights not loaded yet.
        prompts: (name or path, limit) -> prompt set.
    """

    weights_hash: Callable[[CheckpointSpec], str]
    load: Callable[[CheckpointSpec], AnyModel]
    swap_lora: Callable[[FlowModel, str | None, float], object]
    reference_view: Callable[[FlowModel], FlowModel]
    scorer: Callable[[str, str], AnyScorer]
    prompts: Callable[[str, int | None], PromptSet]


def default_backend() -> Backend:
    """The real one."""
    from nbench.flow import load
    from nbench.prompts import load_prompt_set
    from nbench.scoring.registry import get_any_scorer

    return Backend(
        weights_hash=load.weights_hash,
        load=load.load_any,
        swap_lora=load.swap_lora,
        reference_view=load.reference_view,
        scorer=get_any_scorer,
        prompts=load_prompt_set,
    )


class Models:
    """Holds one loaded base at a time, and walks LoRA checkpoints under it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._spec: CheckpointSpec | None = None
        self._model: AnyModel | None = None
        self._second: tuple[CheckpointSpec, FlowModel] | None = None

    def get(self, spec: CheckpointSpec, weights: str) -> AnyModel:
        """The model of `spec`, swapped into the loaded base where that is the same.

        Raises:
            CheckpointError: it cannot be loaded, or is not what `weights` says.
        """
        if self._model is None or self._spec is None or base_of(self._spec) != base_of(spec):
            self.close()
            self._model = self._backend.load(spec)
        elif (self._spec.lora, self._spec.lora_scale) != (spec.lora, spec.lora_scale):
            self._backend.swap_lora(cast("FlowModel", self._model), spec.lora, spec.lora_scale)
        self._spec = spec
        return _checked(self._model, spec, weights)

    def reference(self, spec: CheckpointSpec, weights: str) -> FlowModel:
        """The model that the one last got refers to: its base with the LoRA off, or else a second loaded model.

        Raises:
            CheckpointError: it cannot be loaded.
        """
        assert self._model is not None and self._spec is not None, "get() comes first"
        if spec.lora is None and base_of(spec) == base_of(self._spec):
            return self._backend.reference_view(cast("FlowModel", self._model))
        if self._second is None or self._second[0] != spec:
            self._second = None
            gc.collect()
            second = _checked(self._backend.load(spec), spec, weights)
            offload_text_encoders(second)  # it sees the first model's embeddings
            self._second = (spec, cast("FlowModel", second))
        return self._second[1]

    def close(self) -> None:
        """Let go of every model and its memory."""
        if self._model is None and self._second is None:
            return
        self._model = self._spec = self._second = None
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def offload_text_encoders(model: AnyModel) -> None:
    """Take a model's text encoders off the device, where it can; encoding brings them back."""
    offload = getattr(model, "offload_text_encoders", None)
    if offload is not None:
        offload()


def base_of(spec: CheckpointSpec) -> tuple[object, ...]:
    """What two specs must share to be walked under one loaded transformer."""
    return spec.base, spec.revision, spec.dtype, spec.device, spec.max_sequence_length


def _checked(model: AnyModel, spec: CheckpointSpec, weights: str) -> AnyModel:
    if model.weights_hash != weights:
        raise CheckpointError(
            f"the weights of checkpoint {spec.name!r} ({spec.base}) changed while the run was going on; "
            "run the same command again."
        )
    return model


def resolve_device(requested: str) -> str:
    """The device that "auto" means here: CUDA where torch sees one, else the CPU. torch is imported only in doubt."""
    if requested != "auto":
        return requested
    if version("torch").endswith("+cpu"):
        return "cpu"
    if sys.platform == "linux" and not any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(requested: str, device: str) -> str:
    """The dtype that "auto" means: float32 on the CPU, bfloat16 elsewhere."""
    if requested != "auto":
        return requested
    return "float32" if device.startswith("cpu") else "bfloat16"


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def library_versions(*, lora: bool) -> dict[str, str]:
    """Versions of the libraries that make pixels, read without importing them."""
    names = ["torch", "diffusers", "transformers", *(["peft"] if lora else [])]
    return {name: _version(name) for name in names}


def attention_backend() -> str:
    """The attention kernels of diffusers: `DIFFUSERS_ATTN_BACKEND`, else "native" (torch's own)."""
    return os.environ.get("DIFFUSERS_ATTN_BACKEND", "native")
