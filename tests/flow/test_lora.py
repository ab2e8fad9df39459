"""LoRAs: swapped under one transformer, switched off for the reference, and refused when they do not fit."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nbench.errors import CheckpointError
from nbench.flow.family import DiffusersFlowModel
from nbench.flow.load import CheckpointSpec, load_model, reference_view, swap_lora, weights_hash
from nbench.flow.lora import ZeroLoraWarning, resolve_lora
from nbench.flow.sample import sample
from nbench.testing import tiny_lora

FAMILIES = ["sd3", "flux"]


@pytest.fixture
def base(request: pytest.FixtureRequest, sd3_folder: Path, flux_folder: Path) -> Path:
    return {"sd3": sd3_folder, "flux": flux_folder}[getattr(request, "param", "sd3")]


def _load(base: Path, lora: Path | None = None, scale: float = 1.0) -> DiffusersFlowModel:
    spec = CheckpointSpec("x", str(base), lora=None if lora is None else str(lora), lora_scale=scale, device="cpu")
    model = load_model(spec)
    assert model.weights_hash == weights_hash(spec)
    return model


@torch.no_grad()
def _velocity(model: DiffusersFlowModel) -> torch.Tensor:
    cond = model.encode(["a red cat", "two dogs"], guidance=3.0)
    return model.velocity(model.noise([1, 2], height=32, width=32), torch.tensor(0.7), cond, guidance=3.0)


def _rewrite(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """A copy of a diffusers-format LoRA with other tensors; its metadata, which would name layers, is left out."""
    target.mkdir()
    save_file(change(load_file(next(source.glob("*.safetensors")))), target / "pytorch_lora_weights.safetensors")
    return target


# Swapping.


@pytest.mark.parametrize("base", FAMILIES, indirect=True)
def test_swapping_never_reloads_the_base_and_equals_fresh_loads(base: Path, tmp_path: Path) -> None:
    one, two = (tiny_lora(tmp_path / str(seed), base, seed=seed) for seed in (1, 2))
    small = tiny_lora(tmp_path / "small", base, seed=3, rank=2)
    model = _load(base)
    transformer, pipeline = model.transformer, model.pipeline
    weights = {id(parameter) for parameter in transformer.parameters()}
    bare = _velocity(model)
    seen = [bare]
    for lora, scale in ((one, 1.0), (two, 1.0), (small, 1.0), (one, 0.5), (None, 1.0), (one, 1.0)):
        swap_lora(model, None if lora is None else str(lora), scale)
        assert model.transformer is transformer
        assert model.pipeline is pipeline
        assert pipeline.transformer is transformer
        assert weights <= {id(parameter) for parameter in transformer.parameters()}
        fresh = _load(base, lora, scale)
        assert model.weights_hash == fresh.weights_hash
        assert (model.lora, model.lora_scale) == (fresh.lora, fresh.lora_scale)
        found = _velocity(model)
        assert torch.equal(found, _velocity(fresh))
        if lora is None:
            assert torch.equal(found, bare)
        seen.append(found)
    distinct = [velocity for velocity in seen[:5]]
    for i, a in enumerate(distinct):
        assert all((a - b).abs().max() > 1e-3 for b in distinct[:i])


@pytest.mark.parametrize("base", FAMILIES, indirect=True)
def test_the_reference_view_is_the_base_over_the_same_transformer(base: Path, tmp_path: Path) -> None:
    lora = tiny_lora(tmp_path / "lora", base, seed=1)
    bare, model = _load(base), _load(base, lora)
    reference = reference_view(model)
    assert reference.weights_hash == bare.weights_hash != model.weights_hash
    with_lora = _velocity(model)
    cond = reference.encode(["a red cat", "two dogs"], guidance=3.0)
    noise = reference.noise([1, 2], height=32, width=32)
    with torch.no_grad():
        found = reference.velocity(noise, torch.tensor(0.7), cond, guidance=3.0)
    assert torch.equal(found, _velocity(bare))
    assert torch.equal(_velocity(model), with_lora)
    sigmas = reference.sigmas(3, height=32, width=32)
    traced = sample(model, cond, noise, sigmas, guidance=3.0, reference=reference)
    assert (traced.ratios - 1).abs().max() > 1e-3
    base_alone = sample(reference, cond, noise, sigmas, guidance=3.0)
    assert torch.equal(base_alone.latents, sample(bare, cond, noise, sigmas, guidance=3.0).latents)
    swap_lora(model, None)
    assert torch.equal(sample(model, cond, noise, sigmas, guidance=3.0, reference=reference).ratios, torch.ones(3, 2))


def test_the_reference_view_leaves_gradients_of_the_lora_alone(base: Path, tmp_path: Path) -> None:
    model = _load(base, tiny_lora(tmp_path / "lora", base, seed=1))
    before = {name: parameter.requires_grad for name, parameter in model.transformer.named_parameters()}
    assert any(before.values())
    cond = model.encode(["a red cat"], guidance=1.0)
    noise = model.noise([1], height=32, width=32)
    v = model.velocity(noise, torch.tensor(0.7), cond, guidance=1.0)
    v_ref = reference_view(model).velocity(noise, torch.tensor(0.7), cond, guidance=1.0)
    (v - v_ref.detach()).square().mean().backward()
    assert {name: parameter.requires_grad for name, parameter in model.transformer.named_parameters()} == before
    gradients = [p.grad for name, p in model.transformer.named_parameters() if "lora_B" in name]
    assert gradients
    assert any(gradient is not None and gradient.any() for gradient in gradients)


@pytest.mark.parametrize("base", FAMILIES, indirect=True)
def test_peft_and_diffusers_formats_of_one_lora_are_the_same(base: Path, tmp_path: Path) -> None:
    ours = tiny_lora(tmp_path / "diffusers", base, seed=1)
    peft = tiny_lora(tmp_path / "checkpoint-10" / "lora", base, seed=1, peft_format=True)
    wanted = _velocity(_load(base, ours))
    assert torch.equal(_velocity(_load(base, peft)), wanted)
    assert torch.equal(_velocity(_load(base, peft.parent)), wanted)  # trainers name the folder above
    assert torch.equal(_velocity(_load(base, next(ours.glob("*.safetensors")))), wanted)
    assert not torch.equal(_velocity(_load(base)), wanted)


def test_dropout_that_a_lora_was_trained_with_is_off(base: Path, tmp_path: Path) -> None:
    lora = tiny_lora(tmp_path / "lora", base, seed=1, peft_format=True)
    config = json.loads((lora / "adapter_config.json").read_text())
    wanted = _velocity(_load(base, lora))
    (lora / "adapter_config.json").write_text(json.dumps(config | {"lora_dropout": 0.5}))
    assert torch.equal(_velocity(_load(base, lora)), wanted)


def test_dropout_in_diffusers_metadata_is_off_too(base: Path, sd3_lora: Path, tmp_path: Path) -> None:
    file = next(sd3_lora.glob("*.safetensors"))
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    settings = json.loads(metadata["lora_adapter_metadata"]) | {"transformer.lora_dropout": 0.5}
    save_file(
        load_file(file),
        tmp_path / "pytorch_lora_weights.safetensors",
        metadata=metadata | {"lora_adapter_metadata": json.dumps(settings)},
    )
    model = _load(base, tmp_path)
    assert any(type(module).__name__ == "Dropout" and module.p == 0.5 for module in model.transformer.modules())
    assert torch.equal(_velocity(model), _velocity(_load(base, sd3_lora)))


# LoRAs that change nothing.


@pytest.mark.parametrize("base", FAMILIES, indirect=True)
def test_a_lora_with_zero_b_matrices_warns_that_it_changes_nothing(base: Path, tmp_path: Path) -> None:
    lora = tiny_lora(tmp_path / "zero", base, seed=1, zero=True)
    with pytest.warns(ZeroLoraWarning, match="changes nothing: its B matrices are all zero"):
        model = _load(base, lora)
    assert torch.equal(_velocity(model), _velocity(_load(base)))


def test_scale_zero_warns_and_a_trained_lora_does_not(base: Path, sd3_lora: Path) -> None:
    with pytest.warns(ZeroLoraWarning, match="its scale is 0"):
        _load(base, sd3_lora, scale=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ZeroLoraWarning)
        _load(base, sd3_lora)


# LoRAs that do not fit. The one that was in stays in.


def _refused(model: DiffusersFlowModel, lora: Path | str, *words: str) -> None:
    before, identity = _velocity(model), model.weights_hash
    with pytest.raises(CheckpointError) as caught:
        swap_lora(model, str(lora))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert model.weights_hash == identity
    assert torch.equal(_velocity(model), before)


@pytest.fixture
def model(sd3_folder: Path, sd3_lora: Path) -> DiffusersFlowModel:
    return _load(sd3_folder, sd3_lora)


def test_a_lora_of_another_family_is_refused(model: DiffusersFlowModel, flux_lora: Path) -> None:
    _refused(model, flux_lora, "another architecture", "SD3Transformer2DModel", "Give the base it was trained on")


def test_a_lora_of_another_width_is_refused(model: DiffusersFlowModel, sd3_lora: Path, tmp_path: Path) -> None:
    def widen(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            key: torch.cat([value] * 2, dim=1 if "lora_A" in key else 0).contiguous() for key, value in state.items()
        }

    lora = _rewrite(sd3_lora, tmp_path / "wide", widen)
    _refused(model, lora, "another architecture", "has 32 inputs, not 64")


def test_a_lora_of_a_deeper_model_is_refused(model: DiffusersFlowModel, sd3_lora: Path, tmp_path: Path) -> None:
    def deepen(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        deep = {key.replace("blocks.0.", "blocks.7."): value for key, value in state.items() if "blocks.0." in key}
        assert deep
        return state | {key: value.clone() for key, value in deep.items()}

    lora = _rewrite(sd3_lora, tmp_path / "deep", deepen)
    _refused(model, lora, "transformer_blocks.7.attn", "is no layer of it")


def test_a_lora_that_matches_no_layer_is_refused(model: DiffusersFlowModel, sd3_lora: Path, tmp_path: Path) -> None:
    def rename(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {f"unet.down_blocks.{i}.to_q.lora_A.weight": value for i, value in enumerate(state.values())}

    lora = _rewrite(sd3_lora, tmp_path / "unet", rename)
    _refused(model, lora, "matches no layer of SD3Transformer2DModel", "unet.down_blocks.0")
    _refused(model, _rewrite(sd3_lora, tmp_path / "none", lambda _: {}), "matches no layer")


def test_a_lora_on_a_text_encoder_is_refused(model: DiffusersFlowModel, sd3_lora: Path, tmp_path: Path) -> None:
    def add(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return state | {"text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 32)}

    _refused(model, _rewrite(sd3_lora, tmp_path / "text", add), "also changes the text encoder", "merge it")


def test_a_lora_that_lacks_a_factor_is_refused(model: DiffusersFlowModel, sd3_lora: Path, tmp_path: Path) -> None:
    def halve(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: value for key, value in state.items() if not ("blocks.0.attn.to_q" in key and "lora_B" in key)}

    _refused(model, _rewrite(sd3_lora, tmp_path / "half", halve), "only one of the two factors of transformer.")


def test_full_weights_in_a_lora_file_are_refused(model: DiffusersFlowModel, sd3_lora: Path, tmp_path: Path) -> None:
    def add(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return state | {"transformer.proj_out.weight": torch.ones(16, 32)}

    _refused(model, _rewrite(sd3_lora, tmp_path / "full", add), "no LoRA (transformer.proj_out.weight)")


def test_another_kind_of_adapter_is_refused(model: DiffusersFlowModel, sd3_folder: Path, tmp_path: Path) -> None:
    lora = tiny_lora(tmp_path / "lora", sd3_folder, seed=1, peft_format=True)
    config = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "LOHA"}))
    _refused(model, lora, "is a LOHA adapter, not a LoRA")


def test_missing_pickled_torn_and_ambiguous_files_are_refused(
    model: DiffusersFlowModel, sd3_lora: Path, tmp_path: Path
) -> None:
    _refused(model, "./no/lora", "there is no LoRA ./no/lora")
    _refused(model, "no-such-org/no-such-lora", "hub", "offline")
    _refused(model, tmp_path, "holds no .safetensors file")
    (tmp_path / "pytorch_lora_weights.bin").write_bytes(b"\x80")
    _refused(model, tmp_path, "pickled weights only (pytorch_lora_weights.bin)")
    _refused(model, tmp_path / "pytorch_lora_weights.bin", "is pickled")
    for name in ("a", "b"):
        shutil.copy(next(sd3_lora.glob("*.safetensors")), tmp_path / f"{name}.safetensors")
    _refused(model, tmp_path, "several files (a.safetensors, b.safetensors)")
    assert resolve_lora(str(tmp_path / "a.safetensors")).weights_hash() == resolve_lora(str(sd3_lora)).weights_hash()
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes((tmp_path / "a.safetensors").read_bytes()[:-1000])
    _refused(model, torn, "torn.safetensors cannot be read")


def test_a_missing_lora_fails_before_the_base_is_loaded(sd3_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbench.flow.load._load_diffusers", lambda *_: pytest.fail("the base was loaded"))
    with pytest.raises(CheckpointError, match="there is no LoRA"):
        _load(sd3_folder, Path("/no/lora"))


def test_a_lora_that_breaks_while_it_is_loaded_leaves_the_base_and_says_so(
    sd3_folder: Path, sd3_lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = _load(sd3_folder)
    model = _load(sd3_folder, sd3_lora)

    def broken(*args: object, **options: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(type(model.pipeline), "load_lora_weights", broken)
    with pytest.raises(CheckpointError, match=r"could not be loaded \(broken\)"):
        swap_lora(model, str(tiny_lora(tmp_path / "other", sd3_folder, seed=2)))
    assert (model.lora, model.weights_hash) == (None, plain.weights_hash)
    assert torch.equal(_velocity(model), _velocity(plain))
