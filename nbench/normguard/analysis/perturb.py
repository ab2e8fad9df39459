"""A small random LoRA: a stand-in for a fine-tuned checkpoint where there is none yet.

It changes weights by Gaussian noise of a stated size and has learnt nothing; analyses of it show what their figures
look like, not what fine-tuning does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from nbench.errors import UsageError
from nbench.flow.family import DiffusersFlowModel
from nbench.flow.lora import module_shapes
from nbench.flow.model import FlowModel

#: layers that RL recipes put LoRAs on: the attention projections of both streams (methods.md 1.2)
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


def write_random_lora(model: DiffusersFlowModel, folder: Path, *, std: float, seed: int = 0, rank: int = 4) -> Path:
    """Write a LoRA in diffusers' format, B A with elements of RMS std x rms(W) on each attention projection W.

    Args:
        model: a base without a LoRA.
        folder: where to write it; made when it does not exist.
        std: size of the change relative to each weight matrix, above 0.
        seed: of the noise.
        rank: of the LoRA.

    Returns:
        `folder`.

    Raises:
        UsageError: std is not above 0, or the transformer has none of these layers.
    """
    from safetensors.torch import save_file

    if not std > 0:
        raise UsageError(f"the perturbation's size is {std}: use a number above 0, such as 0.01.")
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, (inputs, outputs) in sorted(module_shapes(model.transformer).items()):
        if not name.endswith(TARGETS):
            continue
        size = float(model.transformer.get_submodule(name).weight.detach().float().square().mean().sqrt())
        a = torch.randn(rank, inputs, generator=generator) / rank**0.5
        b = torch.randn(outputs, rank, generator=generator) * std * size
        weights[f"transformer.{name}.lora_A.weight"] = a
        weights[f"transformer.{name}.lora_B.weight"] = b
    if not weights:
        raise UsageError(f"a {model.family} transformer without attention projections cannot be perturbed.")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "pytorch_lora_weights.safetensors")
    return folder


@contextmanager
def perturbed(model: FlowModel, std: float | None, *, seed: int = 0) -> Iterator[None]:
    """Inside, a random LoRA is in the model; None leaves the model as it is. Afterwards the base is back.

    Raises:
        UsageError: as `write_random_lora`; the model already has a LoRA, or cannot take one.
    """
    if std is None:
        yield
        return
    if not isinstance(model, DiffusersFlowModel) or model.lora is not None:
        raise UsageError("a perturbation stands in for a LoRA: give a base alone, NAME=BASE, or drop --perturb.")
    with tempfile.TemporaryDirectory(prefix="nbench-") as folder:
        model.swap_lora(str(write_random_lora(model, Path(folder) / "lora", std=std, seed=seed)))
        try:
            yield
        finally:
            model.swap_lora(None)
