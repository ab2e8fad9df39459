"""LoRAs: find the file, see that it fits the transformer, put it in, take it out.

Read are diffusers' format (`pytorch_lora_weights.safetensors`, and what diffusers converts to it) and peft's
(`adapter_model.safetensors` with `adapter_config.json`, which most RL trainers write). A LoRA that also changes text
encoders is refused: prompt embeddings are shared by all checkpoints of a base.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbench.errors import CheckpointError, first_line
from nbench.flow.weights import BUNDLED_LORAS, PICKLED, POCKET_WEIGHTS, file_digest, hash_json, looks_like_path

if TYPE_CHECKING:
    import torch

#: name of the one adapter that nbench puts into a transformer
ADAPTER = "nbench"

_PREFERRED = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_PEFT_PREFIX = "base_model.model."
# Fields of adapter_config.json that change what the adapter computes.
_PEFT_FIELDS = (
    *("r", "lora_alpha", "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern"),
    *("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out", "layers_to_transform", "layers_pattern"),
)
_FACTOR = re.compile(
    r"(?P<module>.+?)\.(?:processor\.)?(?P<factor>lora_A|lora_B|lora\.down|lora\.up|lora_linear_layer\.down"
    r"|lora_linear_layer\.up)\.weight"
)


class ZeroLoraWarning(UserWarning):
    """A LoRA that changes nothing: its B matrices are all zero, or its scale is."""


@dataclass(frozen=True)
class LoraFile:
    """A LoRA on disk.

    Attributes:
        path: the safetensors file.
        config: adapter_config.json beside it, in peft's format only.
    """

    path: Path
    config: Path | None

    def weights_hash(self) -> str:
        """sha256, hex, of its bytes."""
        digest = file_digest(self.path)
        return digest if self.config is None else hash_json([digest, file_digest(self.config)])


def resolve_lora(lora: str) -> LoraFile:
    """The file of a LoRA given as a folder, a .safetensors file, a hub id, or a bundled name, which goes first.

    Raises:
        CheckpointError: there is none, it is pickled, or the folder holds several.
    """
    path = POCKET_WEIGHTS / lora if lora in BUNDLED_LORAS else Path(lora).expanduser()
    if path.is_file():
        if path.suffix in PICKLED:
            raise CheckpointError(
                f"LoRA {lora} is pickled, which can run code when loaded: convert it to safetensors "
                "(save_lora_weights does)."
            )
        if path.suffix != ".safetensors":
            raise CheckpointError(f"LoRA {lora} is not a .safetensors file: give one, or the folder that holds one.")
        return _lora_file(path)
    if not path.is_dir():
        if looks_like_path(lora):
            raise CheckpointError(f"there is no LoRA {lora}: give a folder, a .safetensors file, or a hub id.")
        path = _fetch(lora)
    for folder in (path, path / "lora"):  # trainers write checkpoint-N/lora/
        for name in _PREFERRED:
            if (folder / name).is_file():
                return _lora_file(folder / name)
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return _lora_file(found[0])
    if found:
        names = ", ".join(file.name for file in found[:4])
        raise CheckpointError(f"LoRA folder {lora} holds several files ({names}): name one of them.")
    pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLED)
    if pickled:
        raise CheckpointError(
            f"LoRA folder {lora} holds pickled weights only ({pickled[0]}), which can run code when loaded: convert "
            "them to safetensors."
        )
    raise CheckpointError(f"LoRA folder {lora} holds no .safetensors file: give the folder that does.")


def _fetch(lora: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(lora, allow_patterns=["*.safetensors", "*.json"]))
    except Exception as error:  # the hub raises many kinds, which share no root
        reason = first_line(error)
        raise CheckpointError(
            f"LoRA {lora} is no file or folder here and could not be had from the hub ({reason}): check the name, or "
            "download it first when offline."
        ) from error


def _lora_file(path: Path) -> LoraFile:
    config = path.parent / "adapter_config.json"
    return LoraFile(path, config if path.name == "adapter_model.safetensors" and config.is_file() else None)


def module_shapes(transformer: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of every layer a LoRA can sit on, by name; take it before any LoRA is in."""
    import torch

    shapes = {}
    for name, module in transformer.named_modules():
        if isinstance(module, torch.nn.Linear):
            shapes[name] = (module.in_features, module.out_features)
        elif isinstance(module, torch.nn.Conv2d):
            shapes[name] = (module.in_channels, module.out_channels)
    return shapes


def attach(pipeline: Any, file: LoraFile, *, scale: float, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Replace the pipeline's LoRA, if any, by `file`. The old one stays when the new one does not fit.

    Raises:
        CheckpointError: the LoRA is for another architecture, matches no module, or holds more than a LoRA.
    """
    state = _read(pipeline, file)
    _check(state, file, shapes, type(pipeline.transformer).__name__)
    if scale == 0 or all(not value.any() for key, value in state.items() if _factor(key) == "B"):
        reason = "its scale is 0" if scale == 0 else "its B matrices are all zero"
        warnings.warn(f"LoRA {file.path} changes nothing: {reason}.", ZeroLoraWarning, stacklevel=3)
    detach(pipeline)
    try:
        if file.config is None:
            with _no_word_of_text_encoders():
                pipeline.load_lora_weights(
                    str(file.path.parent),
                    weight_name=file.path.name,
                    adapter_name=ADAPTER,
                    use_safetensors=True,
                    local_files_only=True,
                )
        else:
            metadata = {f"transformer.{key}": value for key, value in _peft_config(file.config).items()}
            pipeline.transformer.load_lora_adapter(state, adapter_name=ADAPTER, metadata=metadata, _pipeline=pipeline)
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        detach(pipeline)
        reason = first_line(error)
        raise CheckpointError(f"LoRA {file.path} could not be loaded ({reason}): save it again.") from error
    pipeline.transformer.eval()  # new layers arrive in training mode, where dropout would be on
    if scale != 1.0:
        pipeline.set_adapters([ADAPTER], [scale])


def detach(pipeline: Any) -> None:
    """Take the LoRA out; the transformer's own layers are as before."""
    if getattr(pipeline.transformer, "peft_config", None):
        pipeline.unload_lora_weights()


@contextmanager
def _no_word_of_text_encoders() -> Iterator[None]:
    """Inside, diffusers does not warn that the LoRA leaves text encoders alone: `_check` made sure that it does."""
    logger = logging.getLogger("diffusers.loaders.lora_base")

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No LoRA keys associated")

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _peft_config(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): save the LoRA again.") from error
    if values.get("peft_type", "LORA") != "LORA":
        raise CheckpointError(f"{path} is a {values['peft_type']} adapter, not a LoRA: merge it into its base.")
    return {key: values[key] for key in _PEFT_FIELDS if values.get(key) is not None}


def _read(pipeline: Any, file: LoraFile) -> dict[str, torch.Tensor]:
    """Its tensors, named `transformer.LAYER.FACTOR.weight`, without alphas."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.config is not None:
            _peft_config(file.config)
            return {f"transformer.{key.removeprefix(_PEFT_PREFIX)}": v for key, v in load_file(file.path).items()}
        state = pipeline.lora_state_dict(
            str(file.path.parent), weight_name=file.path.name, use_safetensors=True, local_files_only=True
        )
    except (OSError, SafetensorError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"LoRA {file.path} cannot be read ({error}): save or download it again.") from error
    return {key: value for key, value in state.items() if not key.endswith("alpha")}


def _factor(key: str) -> str | None:
    match = _FACTOR.fullmatch(key)
    if match is None:
        return None
    return "A" if match["factor"].endswith(("A", "down")) else "B"


def _check(
    state: Mapping[str, torch.Tensor], file: LoraFile, shapes: Mapping[str, tuple[int, int]], transformer: str
) -> None:
    text = [key for key in state if key.startswith("text_encoder")]
    if text:
        raise CheckpointError(
            f"LoRA {file.path} also changes the text encoder ({text[0]}), whose embeddings all checkpoints of a base "
            "share: merge it into a copy of the base and give that as a base of its own."
        )
    misfits = []
    layers: dict[str, set[str | None]] = {}
    matched: set[str] = set()
    for key, value in state.items():
        match = _FACTOR.fullmatch(key)
        if match is None and "lora" not in key:
            raise CheckpointError(f"LoRA {file.path} holds weights that are no LoRA ({key}): merge it into its base.")
        if match is None:
            continue  # magnitudes and biases of a layer whose factors are checked
        name = match["module"]
        layers.setdefault(name, set()).add(_factor(key))
        shape = shapes.get(name.removeprefix("transformer."))
        if shape is None or not name.startswith("transformer."):
            misfits.append(f"{name} is no layer of it")
            continue
        matched.add(name)
        found, wanted = (value.shape[1], shape[0]) if _factor(key) == "A" else (value.shape[0], shape[1])
        if found != wanted:
            misfits.append(f"{name} has {wanted} {'inputs' if _factor(key) == 'A' else 'outputs'}, not {found}")
    if not matched:
        first = next(iter(state), "it is empty")
        raise CheckpointError(
            f"LoRA {file.path} matches no layer of {transformer} (its first: {first}): it is for another architecture "
            "or in a format diffusers does not know."
        )
    if misfits:
        raise CheckpointError(
            f"LoRA {file.path} is for another architecture than this {transformer}: {misfits[0]} "
            f"({len(misfits)} misfits in {len(layers)} layers). Give the base it was trained on."
        )
    halves = [name for name, factors in layers.items() if len(factors) < 2]
    if halves:
        raise CheckpointError(f"LoRA {file.path} has only one of the two factors of {halves[0]}: save it again.")
