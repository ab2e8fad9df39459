"""Models in memory as the backend of a run: the run walks over views of them and loads nothing.

Pictures are stored under the hash of the weights as saved, so they are those of the saved checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nbench.errors import CheckpointError
from nbench.flow.spec import CheckpointSpec
from nbench.runs.backend import Backend, offload_text_encoders
from nbench.runs.suite import Suite

if TYPE_CHECKING:
    from nbench.flow.model import Conditioning, FlowModel

    #: (base, LoRA) as a suite names them -> the model in memory, and the hash of its weights as saved
    Views = Mapping[tuple[str, str | None], tuple[FlowModel, str]]
    #: (prompts, guidance, negative) -> their embeddings, on the CPU
    Texts = dict[tuple[tuple[str, ...], float, str], Conditioning]


@dataclass(frozen=True)
class EvaluatedModel:
    """A model in memory, and where its present weights were saved. The base has neither a LoRA nor a folder.

    Its pictures are stored as those of the saved checkpoint. So it must sample as that does once loaded: no dropout, no
    autocast, and adapters in the model's dtype (a LoRA that is loaded takes on its base's).

    Attributes:
        model: a view. Its `weights_hash` is that of the saved checkpoint, or else its base's, if it knows no more.
        lora: its LoRA, a folder or a .safetensors file, on the evaluator's base.
        folder: diffusers folder of a whole fine-tuned checkpoint, in place of the base.
    """

    model: FlowModel
    lora: Path | None = None
    folder: Path | None = None

    @property
    def is_base(self) -> bool:
        """Whether it is the base itself."""
        return self.lora is None and self.folder is None


def in_memory_backend(
    backend: Backend, suite: Suite, checkpoints: Mapping[str, EvaluatedModel], texts: Texts
) -> Backend:
    """`backend` with a loader that hands out models in memory.

    Args:
        backend: gives everything else.
        suite: whose checkpoints are those of `checkpoints`, and whose reference is the base.
        checkpoints: by name.
        texts: prompts that the base has encoded already; it grows.

    Raises:
        CheckpointError: a model in memory is not what was saved, or what was saved is not there.
        ValueError: two checkpoints are saved at one place.
    """
    views: dict[tuple[str, str | None], tuple[FlowModel, str]] = {}
    base, base_hash = "", checkpoints[suite.reference_name].model.weights_hash
    for entry in suite.checkpoints:
        checkpoint = checkpoints[entry.name]
        saved = backend.weights_hash(entry.spec(device=suite.device, dtype=suite.dtype))
        known = {saved} if checkpoint.is_base else {saved, base_hash}
        if checkpoint.model.weights_hash not in known:
            raise CheckpointError(
                f"checkpoint {entry.name!r} in memory is not what {entry.lora or entry.base} holds: save it anew "
                "before it is evaluated."
            )
        if (entry.base, entry.lora) in views:
            raise ValueError(
                f"two checkpoints are saved as {entry.lora or entry.base}: save each at a place of its own"
            )
        views[entry.base, entry.lora] = checkpoint.model, saved
        if checkpoint.is_base:
            base = entry.base
    return replace(
        backend,
        load=lambda spec: cast("FlowModel", _Walk(views, texts if spec.base == base else {}, spec)),
        swap_lora=lambda model, lora, scale: cast("_Walk", model).turn_to(lora),
        reference_view=lambda model: cast("_Walk", model).base_view(),
    )


class _Walk:
    """Stands for a loaded base in a run's walk over LoRAs: a `FlowModel` that is the view whose turn it is.

    What is not defined here is that view's. Texts are encoded once, whatever the view: no LoRA changes them.
    """

    def __init__(self, views: Views, texts: Texts, spec: CheckpointSpec) -> None:
        self._views, self._texts, self._base = views, texts, spec.base
        self._view, self.weights_hash = views[spec.base, spec.lora]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def turn_to(self, lora: str | None) -> None:
        """Be the view of another LoRA, or the base."""
        self._view, self.weights_hash = self._views[self._base, lora]

    def base_view(self) -> FlowModel:
        """The base's view."""
        return self._views[self._base, None][0]

    def encode(self, prompts: Sequence[str], *, guidance: float, negative: str = "") -> Conditioning:
        """As the view; at most once for the same prompts."""
        place = (tuple(prompts), guidance, negative)
        if place not in self._texts:
            self._texts[place] = self._view.encode(prompts, guidance=guidance, negative=negative).to("cpu")
        return self._texts[place]

    def offload_text_encoders(self) -> None:
        """Through whichever view can."""
        for view, _ in self._views.values():
            offload_text_encoders(view)
