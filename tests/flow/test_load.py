"""Specs, hashes without loading, and every bad input with its own sentence."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nbench.errors import CheckpointError, InfrastructureError
from nbench.flow.load import (
    CheckpointSpec,
    is_generation_only,
    load_model,
    load_pipeline,
    parse_checkpoint,
    pick_device,
    swap_lora,
    weights_hash,
)
from nbench.flow.weights import file_digest
from nbench.testing import tiny_epsilon_pipeline, tiny_lumina2, tiny_sd3


@pytest.fixture
def copy(sd3_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sd3_folder, tmp_path / "copy"))


def _spec(base: Path | str, **options: object) -> CheckpointSpec:
    return CheckpointSpec("x", str(base), device="cpu", **options)


# Specs.


@pytest.mark.parametrize(
    ("text", "base", "lora", "revision"),
    [
        ("x=org/model", "org/model", None, None),
        ("x=org/model@v1", "org/model", None, "v1"),
        ("x=org/model+org/lora", "org/model", "org/lora", None),
        ("x=org/model+org/lora@v1", "org/model", "org/lora", "v1"),
        ("x=org/model@v1+org/lora", "org/model", "org/lora", "v1"),
        ("x=pocket-sd3", "pocket-sd3", None, None),
        ("x=a=b", "a=b", None, None),
    ],
)
def test_the_command_line_form(text: str, base: str, lora: str | None, revision: str | None) -> None:
    assert parse_checkpoint(text) == CheckpointSpec("x", base, lora=lora, revision=revision)


def test_signs_in_existing_paths_belong_to_the_path(tmp_path: Path) -> None:
    base, lora = tmp_path / "a+b@c", tmp_path / "l@2+"
    base.mkdir()
    lora.mkdir()
    assert parse_checkpoint(f"x={base}") == CheckpointSpec("x", str(base))
    assert parse_checkpoint(f"x={base}+{lora}") == CheckpointSpec("x", str(base), lora=str(lora))
    assert parse_checkpoint(f"x={base}+org/lora@r") == CheckpointSpec("x", str(base), lora="org/lora", revision="r")


@pytest.mark.parametrize("text", ["", "org/model", "./folder+lora"])
def test_a_checkpoint_without_a_name_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"has no name: write NAME=BASE\[\+LORA\], e\.g\. \w+"):
        parse_checkpoint(text)


@pytest.mark.parametrize("text", ["x=", "x=+lora", "x=base+", "x=org/base@", "x=org/base+org/lora@"])
def test_empty_parts_are_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"empty (base|LoRA|revision)"):
        parse_checkpoint(text)


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "a/b"])
def test_names_that_cannot_be_file_names_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="letters, digits"):
        parse_checkpoint(f"{name}=org/model")


# Hashes.


def test_the_hash_is_that_of_the_loaded_model_and_needs_no_torch(sd3_folder: Path, sd3_lora: Path) -> None:
    code = (
        "import sys; from nbench.flow.load import CheckpointSpec, weights_hash; "
        "spec = CheckpointSpec('x', sys.argv[1], lora=sys.argv[2]); print(weights_hash(spec)); "
        "assert not {'torch', 'diffusers', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(sd3_folder), str(sd3_lora)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert found == load_model(_spec(sd3_folder, lora=str(sd3_lora))).weights_hash
    assert len(found) == 64


def test_the_hash_does_not_depend_on_the_folder_but_on_every_file_that_is_read(sd3_folder: Path, copy: Path) -> None:
    wanted = weights_hash(_spec(sd3_folder))
    assert weights_hash(_spec(copy)) == wanted
    (copy / "README.md").write_text("not read by a load")
    assert weights_hash(_spec(copy)) == wanted
    seen = {wanted}
    for name in (
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder_2/model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
        "model_index.json",
    ):
        file = copy / name
        data = file.read_bytes()
        # One more space inside the JSON, of the file or of the safetensors header's padding, or one changed weight.
        changed = data[:-1] + bytes([data[-1] ^ 1]) if name.endswith(".safetensors") else data + b" "
        file.write_bytes(changed)
        assert weights_hash(_spec(copy)) not in seen
        seen.add(weights_hash(_spec(copy)))
    (copy / "nbench.json").write_text('{"guidance": 3}')
    assert weights_hash(_spec(copy)) not in seen


def test_a_file_of_the_hub_cache_is_known_by_the_name_of_its_blob(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    for name, wanted in (("ab" * 32, "ab" * 32), ("ab" * 20, hashlib.sha256(b"content").hexdigest())):
        (tmp_path / "blobs" / name).write_bytes(b"content")  # large files are named by sha256, small ones by a git hash
        link = tmp_path / f"link{len(name)}"
        link.symlink_to(tmp_path / "blobs" / name)
        assert file_digest(link) == wanted


def test_a_file_that_changes_is_hashed_again(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in (b"one", b"two!"):
        file.write_bytes(content)
        assert file_digest(file) == hashlib.sha256(content).hexdigest()


def test_lora_and_its_scale_are_in_the_hash(sd3_folder: Path, sd3_lora: Path) -> None:
    base = _spec(sd3_folder)
    specs = [base, replace(base, lora=str(sd3_lora)), replace(base, lora=str(sd3_lora), lora_scale=0.5)]
    assert len({weights_hash(spec) for spec in specs}) == 3
    file = next(sd3_lora.iterdir())
    assert weights_hash(replace(base, lora=str(file))) == weights_hash(specs[1])
    assert weights_hash(replace(base, name="y", dtype="bfloat16", device="cpu")) == weights_hash(base)


# What loads.


def test_sd3_saved_without_t5_loads(sd3_folder: Path) -> None:
    assert json.loads((sd3_folder / "model_index.json").read_text())["text_encoder_3"] == [None, None]
    model = load_model(_spec(sd3_folder))
    assert model.pipeline.text_encoder_3 is None
    assert (model.family, model.default_guidance, model.resolution, model.size_multiple) == ("sd3", 7.0, (32, 32), 4)


def test_flux_tells_its_own_facts(flux_folder: Path) -> None:
    model = load_model(_spec(flux_folder, dtype="bfloat16"))
    assert (model.family, model.default_guidance, model.resolution, model.size_multiple) == ("flux", 3.5, (32, 32), 4)
    assert model.dtype == torch.bfloat16
    assert model.latent_shape(32, 64) == (4, 16, 32)


def test_a_checkpoint_can_name_its_own_defaults(copy: Path) -> None:
    (copy / "nbench.json").write_text('{"guidance": 2.5, "max_sequence_length": 24, "resolution": [16, 32]}')
    model = load_model(_spec(copy))
    assert (model.default_guidance, model.max_sequence_length, model.resolution) == (2.5, 24, (16, 32))
    assert load_model(_spec(copy, max_sequence_length=40)).max_sequence_length == 40
    (copy / "nbench.json").write_text('{"guidence": 2.5}')
    with pytest.raises(CheckpointError, match="unknown key 'guidence': it may hold guidance"):
        load_model(_spec(copy))


def test_half_precision_variant_files_load_when_there_are_no_others(sd3_folder: Path, copy: Path) -> None:
    for file in copy.rglob("*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    ours, wanted = load_model(_spec(copy)), load_model(_spec(sd3_folder))
    for name, tensor in wanted.transformer.state_dict().items():
        assert torch.equal(ours.transformer.state_dict()[name], tensor)


def test_a_folder_named_with_a_home_sign_is_found(sd3_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(sd3_folder.parent))
    assert weights_hash(_spec(f"~/{sd3_folder.name}")) == weights_hash(_spec(sd3_folder))


# Bad input.


def _refused(spec: CheckpointSpec, *words: str) -> None:
    for action in (load_model, weights_hash):
        with pytest.raises(CheckpointError) as caught:
            action(spec)
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message, message


def test_a_missing_folder_is_refused() -> None:
    _refused(_spec("./no/such/folder"), "there is no checkpoint folder ./no/such/folder", "pocket-sd3")


def test_a_misspelt_bundled_name_gets_the_right_one() -> None:
    _refused(_spec("pocket-sd"), "did you mean pocket-sd3?")


def test_a_hub_id_that_cannot_be_had_is_refused() -> None:
    _refused(_spec("no-such-org/no-such-model", revision="v9"), "no-such-org/no-such-model@v9", "hub", "offline")


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path, sd3_lora: Path) -> None:
    _refused(_spec(tmp_path), "no model_index.json", "give the folder that holds")
    _refused(_spec(sd3_lora), "looks like a LoRA", "NAME=BASE+LORA")


def test_a_single_file_is_refused(sd3_folder: Path) -> None:
    _refused(_spec(sd3_folder / "transformer" / "diffusion_pytorch_model.safetensors"), "single file")


def test_a_broken_index_is_refused(copy: Path) -> None:
    (copy / "model_index.json").write_text("{")
    _refused(_spec(copy), "model_index.json cannot be read")
    (copy / "model_index.json").write_text('{"_class_name": ["my_module", "MyPipeline"]}')
    _refused(_spec(copy), "nbench runs no custom code")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_pipeline_that_is_not_flow_matching_is_refused(prediction: str, tmp_path: Path) -> None:
    folder = tiny_epsilon_pipeline(tmp_path / "sd", prediction_type=prediction)
    _refused(_spec(folder), f"DDIMScheduler scheduler ({prediction} prediction)", "flow-matching")
    with pytest.raises(CheckpointError, match="flow-matching"):
        load_pipeline(_spec(folder))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt"])
def test_pickled_weights_are_refused(suffix: str, copy: Path) -> None:
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(suffix))
    _refused(_spec(copy), "transformer", "pickled weights only", "safetensors")


def test_missing_weights_and_missing_components_are_refused(copy: Path) -> None:
    (copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    _refused(_spec(copy), "vae", "no safetensors weights")
    shutil.rmtree(copy / "vae")
    _refused(_spec(copy), "lacks the folder vae/")


def test_torn_weights_are_refused(copy: Path) -> None:
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="could not be loaded"):
        load_model(_spec(copy))


def test_a_family_without_adapter_is_sent_to_the_fallback(tmp_path: Path) -> None:
    folder = tiny_lumina2(tmp_path / "lumina")
    assert is_generation_only(_spec(folder))
    with pytest.raises(CheckpointError, match=r"Lumina2Pipeline .*load_pipeline"):
        load_model(_spec(folder))
    assert load_pipeline(_spec(folder)).weights_hash == weights_hash(_spec(folder))


def test_a_scheduler_that_takes_other_steps_goes_to_the_fallback(copy: Path, sd3_folder: Path) -> None:
    assert not is_generation_only(_spec(sd3_folder))
    file = copy / "scheduler" / "scheduler_config.json"
    plain = json.loads(file.read_text())
    for change in ({"stochastic_sampling": True}, {"_class_name": "FlowMatchHeunDiscreteScheduler"}):
        file.write_text(json.dumps(plain | change))
        assert is_generation_only(_spec(copy))


def test_a_device_that_is_not_there_is_refused() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(CheckpointError, match="device 'warp' cannot be used"):
        pick_device("warp")
    if not torch.cuda.is_available():
        with pytest.raises(CheckpointError, match="device 'cuda' cannot be used"):
            pick_device("cuda")
        assert pick_device("auto") == torch.device("cpu")


def test_other_weights_of_one_architecture_have_another_hash(tmp_path: Path) -> None:
    one, two = (tiny_sd3(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    assert weights_hash(_spec(one)) != weights_hash(_spec(two))


def test_a_model_that_takes_no_lora_says_so() -> None:
    class Bare:
        family = "bare"

    with pytest.raises(CheckpointError, match="a bare model cannot take a LoRA"):
        swap_lora(Bare(), "x")


def test_a_device_without_room_for_the_weights_says_what_to_do(
    sd3_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("diffusers.DiffusionPipeline.to", full)
    with pytest.raises(InfrastructureError, match=r"does not fit into the free memory of cpu in float32: use --dtype"):
        load_model(_spec(sd3_folder))
