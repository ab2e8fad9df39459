"""The loop as a whole: what every method must do, and what must change nothing."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from train_fakes import (
    METHODS,
    assert_same_training,
    fake_training,
    log_without_times,
    make_trainer,
    train_config,
    trained_state,
)

from nbench.flow.load import CheckpointSpec, load_model
from nbench.normguard.policy import Role
from nbench.normguard.rollout import roll_out
from nbench.normguard.tally import Tally

pytestmark = pytest.mark.usefixtures("quick_trainings")


@pytest.fixture(scope="module")
def plain(sd3_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a plain training of two epochs by a method, which runs once."""
    done: dict[str, Path] = {}

    def get(method: str) -> Path:
        if method not in done:
            out = tmp_path_factory.mktemp("plain") / method
            fake_training(train_config(sd3_folder, method), out)
            done[method] = out
        return done[method]

    return get


def velocity_of(base: Path, lora: Path | None) -> torch.Tensor:
    model = load_model(CheckpointSpec("one", str(base), lora=None if lora is None else str(lora), device="cpu"))
    noise = model.noise([1], height=16, width=16)
    with torch.no_grad():
        cond = model.encode(["a red cube"], guidance=1.0)
        return model.velocity(noise, torch.tensor(0.7), cond, guidance=1.0)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_changes_the_policy_and_writes_loras_that_load(
    method: str, plain: Callable[[str], Path], sd3_folder: Path
) -> None:
    out = plain(method)
    tensors, facts = trained_state(out)
    assert (facts["epoch"], facts["step"]) == (2, 2)
    moved = [name for name in tensors if name.startswith("policy/") and name.endswith("lora_B") and tensors[name].any()]
    assert moved
    base = velocity_of(sd3_folder, None)
    found = {}
    for place in ("final", "checkpoints/epoch-0001", "checkpoints/epoch-0002"):
        for role in ("policy", "ema"):
            file = out / place / role / "pytorch_lora_weights.safetensors"
            found[place, role] = velocity_of(sd3_folder, file)
            assert not torch.equal(found[place, role], base)
    assert torch.equal(found["final", "policy"], found["checkpoints/epoch-0002", "policy"])
    assert torch.equal(found["final", "ema"], found["checkpoints/epoch-0002", "ema"])
    assert not torch.equal(found["final", "policy"], found["checkpoints/epoch-0001", "policy"])
    assert not torch.equal(found["final", "policy"], found["final", "ema"])


def test_flux_trains_by_the_same_code(flux_folder: Path, tmp_path: Path) -> None:
    fake_training(train_config(flux_folder, "nft", model__guidance=3.5, optim__epochs=1), tmp_path)
    lora = tmp_path / "final" / "policy" / "pytorch_lora_weights.safetensors"
    model = load_model(CheckpointSpec("one", str(flux_folder), device="cpu"))
    cond = model.encode(["a red cube"], guidance=3.5)
    noise = model.noise([1], height=16, width=16)
    with torch.no_grad():
        before = model.velocity(noise, torch.tensor(0.7), cond, guidance=3.5)
        model.swap_lora(str(lora))  # type: ignore[attr-defined]
        after = model.velocity(noise, torch.tensor(0.7), cond, guidance=3.5)
    assert not torch.equal(before, after)


def test_the_log_has_a_line_per_epoch_that_begins_at_the_reference(plain: Callable[[str], Path]) -> None:
    for method in METHODS:
        first, second = log_without_times(plain(method))
        assert (first["epoch"], first["step"], second["epoch"], second["step"]) == (0, 1, 1, 2)
        assert first["samples"] == 4 and first["failed"] == 0 and first["constant_groups"] == 0
        assert first["reward"]["mean"] == pytest.approx(first["reward"]["terms"]["fake-score"])
        # Adapters begin with B = 0: the policy is the base, bit for bit.
        stats = first["stats"]
        assert (stats["norm_ratio"]["mean"], stats["norm_ratio"]["std"]) == (1.0, 0.0)
        assert stats["reference_distance"]["mean"] == 0.0
        assert second["stats"]["norm_ratio"]["mean"] != 1.0
        assert second["stats"]["reference_distance"]["mean"] > 0.0
        assert first["learning_rate"] == pytest.approx(1e-2 / 3)  # two steps of warm-up
        assert second["learning_rate"] == pytest.approx(2e-2 / 3)
    grpo = log_without_times(plain("grpo"))
    for line in grpo:  # one update per rollout: the rollout's policy is the policy
        assert abs(line["stats"]["log_ratio"]["mean"]) < 1e-6
        assert line["stats"]["clipped"]["mean"] == 0.0
    dpo = log_without_times(plain("dpo"))
    assert dpo[0]["units"] == 2
    assert dpo[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert log_without_times(plain("awm"))[1]["stats"]["ratio_distance"]["mean"] == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_a_guard_of_weight_zero_changes_no_bit(
    method: str, plain: Callable[[str], Path], sd3_folder: Path, tmp_path: Path
) -> None:
    guards = [{"name": name, "weight": 0.0} for name in ("norm_hinge", "symmetric_norm", "reference_kl")]
    guards += [{"name": "old_policy_hinge", "weight": 0.0}] if method == "nft" else []
    guards += [{"name": "state_kl", "weight": 0.0}] if method == "grpo" else []
    fake_training(train_config(sd3_folder, method, guards=guards), tmp_path)
    mine, _ = trained_state(plain(method))
    guarded, _ = trained_state(tmp_path)
    assert mine.keys() == guarded.keys()
    for name in mine:
        assert torch.equal(mine[name], guarded[name]), name
    for one, other in zip(log_without_times(plain(method)), log_without_times(tmp_path), strict=True):
        assert one["loss"] == other["loss"] and one["grad_norm"] == other["grad_norm"]
        assert other["guards"]["norm_hinge"] == 0.0
        assert "norm_hinge/active" in other["stats"]


def test_a_guard_with_weight_changes_the_weights(
    plain: Callable[[str], Path], sd3_folder: Path, tmp_path: Path
) -> None:
    guards = [{"name": "symmetric_norm", "weight": 10.0}]
    fake_training(train_config(sd3_folder, "nft", guards=guards), tmp_path)
    mine, _ = trained_state(plain("nft"))
    guarded, _ = trained_state(tmp_path)
    assert any(not torch.equal(mine[name], guarded[name]) for name in mine)


def test_two_trainings_of_one_config_are_equal(plain: Callable[[str], Path], sd3_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(999)  # whatever the process did before
    fake_training(train_config(sd3_folder, "nft"), tmp_path)
    assert_same_training(plain("nft"), tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_accumulated_batches_give_the_gradient_of_one_big_batch(method: str, sd3_folder: Path, tmp_path: Path) -> None:
    """float32; away from the start, where half of a LoRA has no gradient."""
    guards = [{"name": "symmetric_norm", "weight": 0.3}]
    changes = {"guards": guards, "optim__grad_clip": 1e9, "times__count": 2, "rollout__group_size": 3}
    gradients, epoch = [], None
    for batch_size in (64, 1 if method != "dpo" else 2, 5):
        config = train_config(sd3_folder, method, optim__batch_size=batch_size, **changes)
        trainer = make_trainer(config, tmp_path)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for role in trainer.policy.roles:
                for tensor in trainer.policy.tensors(role).values():
                    tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
        if epoch is None:
            epoch, _ = trainer.collect()
        trainer.optimizer.step = lambda: None  # type: ignore[method-assign, assignment]
        trainer.updates(epoch, Tally())
        gradients.append(torch.cat([tensor.grad.flatten() for tensor in trainer.trained.values()]))
    scale = gradients[0].norm()
    assert scale > 1e-3
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() < 1e-5 * scale


@pytest.mark.parametrize("method", METHODS)
def test_one_optimiser_step_changes_rollouts_and_leaves_the_reference(
    method: str, sd3_folder: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(train_config(sd3_folder, method), tmp_path)

    def latents(role: Role) -> torch.Tensor:
        samples = trainer.collect()[0].samples
        made = roll_out(
            trainer.policy.view(role),
            trainer.bank, samples, steps=3, guidance=1.0, size=(16, 16), batch_size=8, seed=3,
        )  # fmt: skip
        return made.clean

    assert trainer.policy.model.lora is None
    before, base = latents(trainer.method.rollout_role), latents("reference")
    assert torch.equal(before, base)
    trainer.run_epoch()
    trainer.epoch = 0  # the same prompts and noise again
    assert not torch.equal(latents(trainer.method.rollout_role), before)
    assert torch.equal(latents("reference"), base)


def test_several_updates_on_one_rollout_leave_the_old_policy_behind(sd3_folder: Path, tmp_path: Path) -> None:
    method = {"name": "awm", "anchor_weight": 1.0}
    config = train_config(sd3_folder, method, optim__updates_per_epoch=2, optim__epochs=1, optim__warmup=0)
    fake_training(config, tmp_path)
    (line,) = log_without_times(tmp_path)
    assert line["updates"] == 2 and line["step"] == 2
    assert line["stats"]["ratio_distance"]["mean"] > 0.0
    tensors, _ = trained_state(tmp_path)
    roles = {name.partition("/")[0] for name in tensors}
    assert roles == {"policy", "old", "anchor", "ema", "exp_avg", "exp_avg_sq"}
    name = next(name.partition("/")[2] for name in tensors if name.startswith("policy/") and name.endswith("lora_B"))
    assert not tensors[f"old/{name}"].any(), "the old policy is that of the epoch's start"
    # decay 0.001 x 2 steps
    assert torch.allclose(tensors[f"anchor/{name}"], 0.998 * tensors[f"policy/{name}"], rtol=1e-5, atol=0)
