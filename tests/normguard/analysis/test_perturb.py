"""A random LoRA of a stated size, in and out of a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nbench.errors import UsageError
from nbench.flow.family import DiffusersFlowModel
from nbench.flow.load import CheckpointSpec, load_model
from nbench.normguard.analysis.perturb import TARGETS, perturbed, write_random_lora
from nbench.testing import FakeFlowModel


@pytest.fixture(params=["sd3", "flux"])
def model(request: pytest.FixtureRequest) -> DiffusersFlowModel:
    folder = request.getfixturevalue(f"{request.param}_folder")
    return load_model(CheckpointSpec("m", str(folder), device="cpu"))  # type: ignore[return-value]


@torch.no_grad()
def _velocity(model: DiffusersFlowModel) -> torch.Tensor:
    cond = model.encode(["a red cat"], guidance=1.0)
    return model.velocity(model.noise([1], height=32, width=32), torch.tensor(0.7), cond, guidance=1.0)


def test_each_projection_changes_by_the_stated_share(model: DiffusersFlowModel, tmp_path: Path) -> None:
    write_random_lora(model, tmp_path, std=0.1, rank=16)
    weights = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    names = {name.rsplit(".lora_", 1)[0].removeprefix("transformer.") for name in weights}
    assert names and all(name.endswith(TARGETS) for name in names)
    shares = []
    for name in names:
        change = weights[f"transformer.{name}.lora_B.weight"] @ weights[f"transformer.{name}.lora_A.weight"]
        weight = model.transformer.get_submodule(name).weight.detach()
        assert change.shape == weight.shape
        shares.append(float(change.square().mean().sqrt() / weight.square().mean().sqrt()))
    assert 0.09 < sum(shares) / len(shares) < 0.11


def test_inside_the_model_differs_and_afterwards_the_base_is_back(model: DiffusersFlowModel) -> None:
    bare, base_hash = _velocity(model), model.weights_hash
    seen = []
    for std, seed in ((0.1, 0), (0.1, 0), (0.1, 1), (0.2, 0)):
        with perturbed(model, std, seed=seed):
            seen.append(_velocity(model))
            assert model.weights_hash != base_hash
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert (seen[3] - bare).norm() > (seen[0] - bare).norm() > 0
    assert torch.equal(_velocity(model), bare) and model.weights_hash == base_hash
    with perturbed(model, None):
        assert torch.equal(_velocity(model), bare)


def test_what_cannot_be_perturbed_is_refused(sd3_folder: Path, sd3_lora: Path, tmp_path: Path) -> None:
    with_lora = load_model(CheckpointSpec("m", str(sd3_folder), lora=str(sd3_lora), device="cpu"))
    for wrong in (with_lora, FakeFlowModel("m")):
        with pytest.raises(UsageError, match="drop --perturb"), perturbed(wrong, 0.1):
            pass
    with pytest.raises(UsageError, match="size is 0"):
        write_random_lora(with_lora, tmp_path, std=0.0)  # type: ignore[arg-type]
