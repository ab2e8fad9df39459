"""What a launcher may ask for, what a transformer must say of itself, and tensors that are whole anyway."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from train_parts import change, load, policy_of, velocity
from train_processes import FSDP

from nbench.errors import UsageError
from nbench.normguard.sharding import (
    is_sharded,
    kept,
    local,
    placed_as,
    settle,
    shard,
    sharding_from_environment,
    whole,
)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a launched process."""
    for name in [name for name in os.environ if name.startswith("FSDP_")]:
        monkeypatch.delenv(name)
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_without_a_launcher_nothing_is_sharded(launched: pytest.MonkeyPatch) -> None:
    launched.delenv("ACCELERATE_USE_FSDP")
    assert sharding_from_environment() is None
    launched.setenv("ACCELERATE_USE_FSDP", "false")
    assert sharding_from_environment() is None


def test_text_encoders_and_scorers_are_loaded_whole_on_every_process(launched: pytest.MonkeyPatch) -> None:
    """Transformers reads this variable, and would leave them empty on all processes but the first."""
    found = sharding_from_environment()
    assert found is not None and found.blocks is None
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"].lower() == "false"
    assert found.plugin.fsdp_version == 2


def test_blocks_may_be_named(launched: pytest.MonkeyPatch) -> None:
    launched.setenv("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    launched.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "BlockA, BlockB")
    found = sharding_from_environment()
    assert found is not None
    assert found.blocks == ("BlockA", "BlockB")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"FSDP_VERSION": "1"}, "only version 2 of FSDP is supported: .* --fsdp_version 2"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "not supported with FSDP: fsdp_offload_params"),
        ({"FSDP_RESHARD_AFTER_FORWARD": "false"}, "not supported with FSDP: fsdp_reshard_after_forward false"),
        ({"FSDP_RESHARD_AFTER_FORWARD": "FULL_SHARD"}, "accelerate refuses the FSDP settings"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, r"set model\.gradient_checkpointing"),
        ({"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, "SIZE_BASED_WRAP"),
        ({"FSDP_IGNORED_MODULES": "proj_out"}, "fsdp_ignored_modules"),
    ],
)
def test_what_is_not_supported_is_named(settings: dict[str, str], message: str, launched: pytest.MonkeyPatch) -> None:
    for name, value in settings.items():
        launched.setenv(name, value)
    with pytest.raises(UsageError, match=message) as caught:
        sharding_from_environment()
    assert caught.value.exit_code == 3


def test_a_transformer_without_known_blocks_is_refused() -> None:
    nowhere: Any = None
    with pytest.raises(
        UsageError, match=r"the Linear cannot be sharded, since it does not say what its blocks are: name"
    ):
        shard(torch.nn.Linear(2, 2), nowhere)
    with pytest.raises(UsageError, match=r"the Sequential cannot be sharded, since it has no Block: name"):
        shard(torch.nn.Sequential(torch.nn.Linear(2, 2)), nowhere, blocks=("Linear", "Block"))


def test_whole_tensors_stay_as_they_are() -> None:
    tensor = torch.nn.Parameter(torch.arange(3.0))
    assert not is_sharded(tensor)
    assert whole(tensor) is tensor and local(tensor) is tensor
    value = torch.ones(3)
    assert placed_as(tensor, value) is value
    copied = kept({"a": tensor}, keep=True)["a"]
    assert torch.equal(copied, tensor) and copied.data_ptr() != tensor.data_ptr() and not copied.requires_grad
    assert kept({"a": tensor}, keep=False) == {}


def test_what_is_not_sharded_follows_to_the_device_but_for_text_encoders(sd3_folder: Path) -> None:
    policy = policy_of(sd3_folder)
    model = policy.model
    settle(model, torch.device("meta"))
    assert model.device.type == "meta"
    assert {p.device.type for p in model.pipeline.vae.parameters()} == {"meta"}
    assert {p.device.type for p in policy.tensors("policy").values()} == {"meta"}
    assert {p.device.type for p in model.pipeline.text_encoder.parameters()} == {"cpu"}


def test_settling_where_it_is_changes_nothing(sd3_folder: Path) -> None:
    policy, other = policy_of(sd3_folder), policy_of(sd3_folder)
    change(policy)
    change(other)
    settle(policy.model, torch.device("cpu"))
    assert torch.equal(velocity(policy.view("policy")), velocity(other.view("policy")))
    assert load(sd3_folder).device == policy.model.device
