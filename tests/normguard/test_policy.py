"""Roles over one transformer: which weights are in, which are trained, and what is saved of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from train_parts import SIZE, bank_of, change, load, members, policy_of, states, velocity

from nbench.errors import UsageError
from nbench.flow.family import DiffusersFlowModel
from nbench.flow.model import FlowModel
from nbench.flow.norms import rms
from nbench.flow.sample import sample
from nbench.normguard.config import ModelConfig
from nbench.normguard.guards import norm_hinge, reference_kl
from nbench.normguard.policy import LORA_DEFAULTS, Policy, Role
from nbench.normguard.rollout import roll_out

ROLES: tuple[Role, ...] = ("policy", "old", "ema", "reference")


@pytest.fixture(params=["sd3", "flux"])
def base(request: pytest.FixtureRequest, sd3_folder: Path, flux_folder: Path) -> Path:
    return {"sd3": sd3_folder, "flux": flux_folder}[request.param]


@pytest.fixture(params=["sd3-lora", "flux-lora", "sd3-full"])
def kind(request: pytest.FixtureRequest, sd3_folder: Path, flux_folder: Path) -> tuple[Path, Any]:
    """A base, and how it is tuned."""
    family, tuning = request.param.split("-")
    return {"sd3": sd3_folder, "flux": flux_folder}[family], tuning


@pytest.fixture(params=["lora", "full"])
def tuning(request: pytest.FixtureRequest) -> Any:
    return request.param


def trained(policy: Policy) -> set[int]:
    """Everything that gets gradients, in any copy of the transformer."""
    modules = [policy.model.pipeline.transformer, *getattr(policy, "_copies", {}).values()]
    return {id(p) for module in modules for p in module.parameters() if p.requires_grad}


def storages(module: torch.nn.Module) -> dict[int, int]:
    """Address -> bytes of every distinct storage."""
    return {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in module.parameters()}


def pictures(model: FlowModel, guidance: float = 1.0) -> Tensor:
    x, _, cond = states(model, 3, guidance)
    sigmas = model.sigmas(3, height=SIZE[0], width=SIZE[1])
    return model.decode(sample(model, cond, x, sigmas, guidance=guidance).latents)


# Roles.


def test_every_role_starts_as_the_base_exactly(kind: tuple[Path, Any]) -> None:
    base, tuning = kind
    with torch.no_grad():
        wanted = velocity(load(base), 3)
        policy = policy_of(base, tuning=tuning)
        for role in ROLES:
            found = velocity(policy.view(role), 3)
            assert torch.equal(found, wanted)
            assert torch.equal(rms(found) / rms(wanted), torch.ones(3))
            assert norm_hinge(found, wanted).tolist() == [0, 0, 0]
            assert reference_kl(found, wanted, torch.ones(3)).tolist() == [0, 0, 0]


def test_a_role_that_changes_changes_no_other(kind: tuple[Path, Any]) -> None:
    base, tuning = kind
    policy = policy_of(base, tuning=tuning)
    with torch.no_grad():
        for moved in ("policy", "old", "ema"):
            before = {role: velocity(policy.view(role)) for role in ROLES}
            change(policy, moved)
            after = {role: velocity(policy.view(role)) for role in ROLES}
            assert [role for role in ROLES if not torch.equal(before[role], after[role])] == [moved]
            assert (before[moved] - after[moved]).abs().mean() > 1e-4


def test_rollouts_follow_the_policy_and_the_reference_stays(kind: tuple[Path, Any]) -> None:
    base, tuning = kind
    policy = policy_of(base, tuning=tuning)

    def rolled(role: Role) -> Tensor:
        view = policy.view(role)
        made = roll_out(view, bank_of(view), members(), steps=2, guidance=1.0, size=SIZE, batch_size=6, seed=0)
        return made.clean

    before = {role: rolled(role) for role in ("policy", "old", "reference")}
    optimizer = torch.optim.AdamW(policy.tensors("policy").values(), lr=1e-2)
    for _ in range(2):  # after the first step the LoRA's A is still as drawn
        optimizer.zero_grad()
        velocity(policy.view("policy")).square().mean().backward()
        optimizer.step()
    assert (rolled("policy") - before["policy"]).abs().max() > 1e-3
    assert (rolled("reference") - before["reference"]).abs().max() == 0
    assert torch.equal(rolled("old"), before["old"])
    policy.blend("old", 0.0)
    assert torch.equal(rolled("old"), rolled("policy"))
    assert (rolled("reference") - before["reference"]).abs().max() == 0


def test_exactly_the_policys_weights_get_gradients_whatever_was_switched(kind: tuple[Path, Any]) -> None:
    base, tuning = kind
    policy = policy_of(base, tuning=tuning)
    wanted = {id(tensor) for tensor in policy.tensors("policy").values()}
    assert wanted == trained(policy)
    for role in ROLES:
        with policy.use(role):
            assert trained(policy) == wanted
        with torch.no_grad():
            velocity(policy.view(role))
        assert trained(policy) == wanted
    with pytest.raises(RuntimeError), policy.use("reference"):
        raise RuntimeError
    policy.blend("ema", 0.5)
    policy.load("old", dict(policy.tensors("policy")))
    assert trained(policy) == wanted
    policy.check()

    change(policy)
    loss = velocity(policy.view("policy"))
    with torch.no_grad():
        velocity(policy.view("reference"))  # a forward between the policy's and its backward
    loss.square().mean().backward()
    assert all(tensor.grad is not None for tensor in policy.tensors("policy").values())
    assert all(tensor.grad is None for role in ("old", "ema") for tensor in policy.tensors(role).values())
    assert any(tensor.grad.any() for tensor in policy.tensors("policy").values() if tensor.grad is not None)


def test_the_policy_is_in_after_every_switch_and_after_an_error(kind: tuple[Path, Any]) -> None:
    base, tuning = kind
    policy = policy_of(base, tuning=tuning)
    change(policy)
    with torch.no_grad():
        wanted = velocity(policy.view("policy"))
        assert not torch.equal(wanted, velocity(policy.view("reference")))
        assert torch.equal(velocity(policy.model), wanted)
        with pytest.raises(RuntimeError), policy.use("old"):
            raise RuntimeError
        assert torch.equal(velocity(policy.model), wanted)


def test_check_refuses_other_trainable_weights(sd3_folder: Path) -> None:
    policy = policy_of(sd3_folder)
    next(iter(policy.tensors("ema").values())).requires_grad_(True)
    with pytest.raises(AssertionError, match="parameters get gradients"):
        policy.check()


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
def test_blend_is_its_formula(sd3_folder: Path, tuning: Any, decay: float) -> None:
    policy = policy_of(sd3_folder, tuning=tuning)
    change(policy, "policy", seed=1)
    change(policy, "ema", seed=2)
    before = {name: tensor.detach().double() for name, tensor in policy.tensors("ema").items()}
    source = {name: tensor.detach().clone() for name, tensor in policy.tensors("policy").items()}
    policy.blend("ema", decay)
    for name, tensor in policy.tensors("ema").items():
        wanted = decay * before[name] + (1 - decay) * source[name].double()
        torch.testing.assert_close(tensor.detach().double(), wanted, rtol=1e-6, atol=1e-7)  # float32 against float64
        assert torch.equal(policy.tensors("policy")[name], source[name])
        if decay == 0:
            assert torch.equal(tensor, source[name])


def test_saved_weights_come_back_and_others_are_refused(sd3_folder: Path, tuning: Any) -> None:
    policy = policy_of(sd3_folder, tuning=tuning)
    change(policy)
    kept = {name: tensor.detach().clone() for name, tensor in policy.tensors("policy").items()}
    change(policy, seed=2)
    policy.load("policy", kept)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in policy.tensors("policy").items())
    name = next(iter(kept))
    for wrong in ({key: value for key, value in kept.items() if key != name}, {**kept, name: torch.zeros(1, 1)}):
        with pytest.raises(UsageError, match="the saved weights of 'policy' do not fit this model"):
            policy.load("policy", wrong)


# LoRA.


def test_no_role_of_a_lora_copies_the_base(base: Path) -> None:
    model = load(base)
    before = storages(model.transformer)
    policy = Policy(model, ModelConfig(base=str(base)), ["old", "anchor", "ema"], seed=0)
    after = storages(policy.model.pipeline.transformer)
    assert before.items() <= after.items()  # the same memory, nothing moved
    adapters = sum(tensor.numel() * 4 for tensor in policy.tensors("policy").values())
    assert sum(after.values()) - sum(before.values()) == 4 * adapters
    roles: list[Role] = ["policy", "old", "anchor", "ema"]
    assert len({tensor.data_ptr() for role in roles for tensor in policy.tensors(role).values()}) == 4 * len(
        policy.tensors("policy")
    )
    assert not hasattr(policy, "_copies")


def test_full_tuning_keeps_one_frozen_copy_per_role(sd3_folder: Path) -> None:
    policy = policy_of(sd3_folder, ("ema",), tuning="full")
    assert set(policy._copies) == {"reference", "ema"}
    addresses = [set(storages(module)) for module in (policy.model.transformer, *policy._copies.values())]
    assert not addresses[0] & addresses[1] and not addresses[0] & addresses[2] and not addresses[1] & addresses[2]
    assert not any(p.requires_grad for module in policy._copies.values() for p in module.parameters())


def test_families_have_their_usual_ranks_and_layers(base: Path) -> None:
    model = load(base)
    policy = Policy(model, ModelConfig(base=str(base)), [], seed=0)
    rank, alpha, _ = LORA_DEFAULTS[model.family]
    names = {name.rpartition(".")[0] for name in policy.tensors("policy")}
    kinds = {name.split(".", 2)[2] for name in names}
    attention = {f"attn.{name}" for name in ("to_q", "to_k", "to_v")}
    streams = {"attn.to_out.0", *(f"attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"))}
    feed = {"ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"}
    assert kinds == attention | streams | (feed if model.family == "flux" else set())
    assert all(t.shape[0] == rank for name, t in policy.tensors("policy").items() if name.endswith("lora_A"))
    assert alpha / rank == 2
    assert policy._scale == 2


@pytest.mark.parametrize(("lora", "scale"), [({"rank": 8}, 2.0), ({"rank": 8, "alpha": 4}, 0.5), ({"alpha": 32}, 1.0)])
def test_alpha_follows_the_rank_unless_it_is_given(sd3_folder: Path, lora: dict[str, Any], scale: float) -> None:
    assert policy_of(sd3_folder, lora=lora)._scale == scale


def test_targets_that_match_no_layer_are_refused(sd3_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"model.lora.targets \['attn.q'\] match no layer of this SD3Transformer"):
        policy_of(sd3_folder, lora={"targets": ["attn.q"]})


def test_adapters_follow_their_seed_and_leave_the_global_generator_alone(sd3_folder: Path) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one = policy_of(sd3_folder)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    two = policy_of(sd3_folder, ("ema",))
    for name, tensor in one.tensors("policy").items():
        assert torch.equal(tensor, two.tensors("policy")[name])
        assert torch.equal(tensor, one.tensors("old")[name])
        assert bool(tensor.any()) == name.endswith("lora_A")
    other = Policy(load(sd3_folder), ModelConfig.model_validate({"base": "x", "lora": {"rank": 4}}), [], seed=1)
    name = next(iter(one.tensors("policy")))
    assert not torch.equal(other.tensors("policy")[name], one.tensors("policy")[name])


def test_adapters_are_float32_on_a_base_that_is_not(sd3_folder: Path) -> None:
    policy = policy_of(sd3_folder, dtype="bfloat16")
    assert {tensor.dtype for role in policy.roles for tensor in policy.tensors(role).values()} == {torch.float32}
    change(policy)
    found = velocity(policy.view("policy"))
    assert found.dtype == torch.bfloat16
    found.float().square().mean().backward()
    assert all(tensor.grad is not None for tensor in policy.tensors("policy").values())


# Saving a LoRA.


def stock(folder: Path, lora: Path) -> Any:
    """Plain diffusers, as any user would load it."""
    index = diffusers.DiffusionPipeline.load_config(folder)
    absent = {name: None for name, entry in index.items() if isinstance(entry, list) and entry[1] is None}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **absent)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(lora))
    return pipeline


def stock_pictures(pipeline: Any, noise: Tensor, prompts: list[str], guidance: float) -> Tensor:
    if isinstance(pipeline, diffusers.FluxPipeline):
        noise = pipeline._pack_latents(noise, *noise.shape)
    found: Tensor = pipeline(
        prompts, latents=noise, num_inference_steps=3, guidance_scale=guidance, height=SIZE[0], width=SIZE[1],
        output_type="pt",
    ).images  # fmt: skip
    return found


# The saved B is B alpha / rank, rounded once to float32: exact where alpha / rank is a power of two, and else an error
# of 2^-24 per weight, which leaves velocities of size 1 within a few 1e-6 and pictures in [0, 1] likewise.
SCALES: list[tuple[dict[str, Any], float, Role]] = [
    ({"rank": 4}, 0.0, "policy"),
    ({"rank": 4, "alpha": 1}, 0.0, "ema"),
    ({"rank": 3, "alpha": 5}, 5e-6, "policy"),
]


@pytest.mark.parametrize(("lora", "tolerance", "role"), SCALES, ids=["double", "quarter", "five-thirds"])
def test_a_saved_lora_is_the_role_in_memory_for_nbench_and_for_plain_diffusers(
    base: Path, tmp_path: Path, lora: dict[str, Any], tolerance: float, role: Role
) -> None:
    policy = policy_of(base, lora=lora)
    change(policy, "policy", seed=1)
    change(policy, "ema", seed=2)
    path = policy.save(role, tmp_path / "lora")
    assert path.name == "pytorch_lora_weights.safetensors"
    assert [file.name for file in (tmp_path / "lora").iterdir()] == [path.name]

    loaded, view = load(base, path), policy.view(role)
    guidance = 4.0 if view.family == "sd3" else 3.5
    with torch.no_grad():
        found, wanted = (velocity(one, 3, guidance) for one in (loaded, view))
        assert (wanted - velocity(policy.view("reference"), 3, guidance)).abs().max() > 0.01
    assert (found - wanted).abs().max() <= tolerance
    shown = pictures(view, guidance)
    assert (pictures(loaded, guidance) - shown).abs().max() <= tolerance
    x, _, _ = states(view, 3)
    prompts = ["a red cube", "two dogs", "a photo of a cat"]
    assert (stock_pictures(stock(base, tmp_path / "lora"), x, prompts, guidance) - shown).abs().max() <= tolerance
    assert (pictures(policy.view("reference"), guidance) - shown).abs().max() > 1e-3


@pytest.mark.parametrize("alpha", [8, 2])
def test_a_bfloat16_policy_samples_as_its_saved_lora_inside_in_model_dtype(
    sd3_folder: Path, tmp_path: Path, alpha: float
) -> None:
    policy = policy_of(sd3_folder, dtype="bfloat16", lora={"rank": 4, "alpha": alpha})
    change(policy)
    kept = {name: tensor.detach().clone() for name, tensor in policy.tensors("policy").items()}
    loaded = load(sd3_folder, policy.save("policy", tmp_path), dtype="bfloat16")
    with torch.no_grad(), policy.in_model_dtype():
        assert torch.equal(velocity(policy.view("policy"), 3), velocity(loaded, 3))
    for name, tensor in policy.tensors("policy").items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, kept[name])
    policy.check()


def test_saving_changes_nothing_in_memory(kind: tuple[Path, Any], tmp_path: Path) -> None:
    base, tuning = kind
    policy = policy_of(base, tuning=tuning)
    change(policy)
    with torch.no_grad():
        before = {role: velocity(policy.view(role)) for role in ROLES}
        policy.save("ema", tmp_path / "ema")
        policy.save("policy", tmp_path / "policy")
        assert all(torch.equal(velocity(policy.view(role)), before[role]) for role in ROLES)
    policy.check()


def test_saving_again_writes_the_same_bytes(sd3_folder: Path, tmp_path: Path) -> None:
    policy = policy_of(sd3_folder)
    change(policy)
    one, two = (policy.save("policy", tmp_path / name).read_bytes() for name in "ab")
    assert one == two
    assert all(
        tensor.dtype == torch.float32
        for tensor in load_file(tmp_path / "a" / "pytorch_lora_weights.safetensors").values()
    )


# Saving after full tuning.


@pytest.mark.parametrize("role", ["policy", "ema"])
def test_full_tuning_saves_a_checkpoint_like_any_other(
    sd3_folder: Path, flux_folder: Path, tmp_path: Path, role: Role
) -> None:
    base = sd3_folder if role == "policy" else flux_folder
    policy = policy_of(base, tuning="full")
    change(policy, "policy", seed=1, size=0.02)
    change(policy, "ema", seed=2, size=0.02)
    saved = policy.save(role, tmp_path / "saved")
    assert saved == tmp_path / "saved"
    loaded = load(saved)
    assert torch.equal(pictures(loaded), pictures(policy.view(role)))
    assert not torch.equal(pictures(loaded), pictures(policy.view("reference")))
    assert (loaded.resolution, loaded.default_guidance, loaded.max_sequence_length) == (
        policy.model.resolution,
        policy.model.default_guidance,
        policy.model.max_sequence_length,
    )


def strings(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from (str(key), *strings(one))
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, str):
        yield value


def test_no_file_of_a_saved_checkpoint_names_the_machine(base: Path, tmp_path: Path) -> None:
    policy_of(base, tuning="full").save("policy", tmp_path / "saved")
    found = 0
    for path in (tmp_path / "saved").rglob("*.json"):
        found += 1
        for text in strings(json.loads(path.read_text(encoding="utf-8"))):
            assert str(base) not in text and str(tmp_path) not in text, path
    assert found > 5
    for path in (tmp_path / "saved").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(base).encode() not in content and str(tmp_path).encode() not in content, path


# Gradient checkpointing.


def test_gradient_checkpointing_gives_the_same_gradients(kind: tuple[Path, Any]) -> None:
    base, tuning = kind
    found: list[dict[str, Tensor]] = []
    recomputed: list[int] = []
    for checkpointing in (False, True):
        policy = policy_of(base, tuning=tuning, gradient_checkpointing=checkpointing)
        change(policy, size=0.05)
        change(policy, "old", seed=5)
        calls = count_calls(policy.model)
        loss = velocity(policy.view("policy"), 3)
        forward = len(calls)
        with torch.no_grad():  # other roles' forwards must not be what the backward pass recomputes with
            for role in ("old", "reference"):
                velocity(policy.view(role), 3)
        others = len(calls)
        loss.square().mean().backward()
        recomputed.append((len(calls) - others) // forward)
        found.append({name: t.grad.clone() for name, t in policy.tensors("policy").items() if t.grad is not None})
    assert recomputed == [0, 1]  # it was on
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert any(grad.any() for grad in found[0].values())


def count_calls(model: DiffusersFlowModel) -> list[int]:
    calls: list[int] = []
    block = model.pipeline.transformer.transformer_blocks[0].attn.to_q
    block.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    return calls


# The view.


def test_a_view_is_the_shared_model_in_everything_but_its_velocity(base: Path) -> None:
    policy = policy_of(base)
    view, model = policy.view("ema"), policy.model
    assert view.weights_hash == model.base_hash
    assert (view.family, view.resolution, view.size_multiple) == (model.family, model.resolution, model.size_multiple)
    assert torch.equal(view.noise([5], height=16, width=16), model.noise([5], height=16, width=16))
    assert torch.equal(view.sigmas(4, height=16, width=16), model.sigmas(4, height=16, width=16))
    assert view.latent_shape(16, 16) == model.latent_shape(16, 16)
    x = view.noise([5], height=16, width=16)
    assert torch.equal(view.decode(x), model.decode(x))
    view.offload_text_encoders()
