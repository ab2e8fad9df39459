"""A training that was stopped goes on where its last checkpoint stands, and ends with the bits of one that was not."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from train_fakes import (
    NoEvaluator,
    assert_same_training,
    fake_training,
    log_without_times,
    snapshot,
    train_config,
    trained_state,
)

import nbench.normguard.trainer as trainer_module
from nbench.errors import CardMismatchError, CheckpointError, RunInterruptedError, RunLockedError, UsageError
from nbench.normguard.checkpoint import TrainingFolder
from nbench.normguard.trainer import Quiet

#: what each method has of its own: an old policy, an anchor, a calibrated guard, an EMA of every second step, warm-up
VARIANTS: dict[str, dict[str, Any]] = {
    "nft": {
        "guards": [{"name": "symmetric_norm", "calibrate": {"gradient_ratio": 0.3}}],
        "optim__ema": {"decay": 0.9, "every": 2},
    },
    "awm": {"method": {"name": "awm", "anchor_weight": 1.0}, "optim__updates_per_epoch": 2},
    "dpo": {"guards": [{"name": "norm_hinge", "weight": 0.1}]},
    "grpo": {"guards": [{"name": "ratio_norm"}, {"name": "state_kl", "weight": 0.04}], "optim__updates_per_epoch": 2},
    "full": {"model__tuning": "full", "optim__learning_rate": 1e-3},
    "bfloat16": {"method": "nft", "model__dtype": "bfloat16"},
}


pytestmark = pytest.mark.usefixtures("quick_trainings")


def config(base: Path, variant: str = "nft", **changes: Any) -> Any:
    settings = {"method": variant if variant != "full" else "nft", **VARIANTS[variant], **changes}
    return train_config(base, **{"optim__epochs": 3, "optim__warmup": 4, **settings})


@pytest.fixture(scope="module")
def straight(sd3_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an undisturbed training of a variant, which runs once."""
    done: dict[str, Path] = {}

    def get(variant: str) -> Path:
        if variant not in done:
            out = tmp_path_factory.mktemp("straight") / variant
            fake_training(config(sd3_folder, variant), out)
            done[variant] = out
        return done[variant]

    return get


class Stopper(Quiet):
    """Presses Ctrl-C when an epoch is logged, which is before its checkpoint; or at a phase of it."""

    def __init__(self, epoch: int, phase: str = "") -> None:
        self.at, self.at_phase, self.now = epoch, phase, 0

    def phase(self, name: str, total: int) -> None:
        if (self.now, name) == (self.at, self.at_phase):
            raise KeyboardInterrupt

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.now = record["epoch"] + 1
        if not self.at_phase and record["epoch"] == self.at:
            raise KeyboardInterrupt


def stop(out: Path, settings: Any, epoch: int, phase: str = "") -> None:
    with pytest.raises(RunInterruptedError, match=r"training 'tiny' was stopped; .*Go on with the same command") as why:
        fake_training(settings, out, observer=Stopper(epoch, phase))
    assert why.value.exit_code == 4
    assert not (out / "result.json").exists()


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_resumed_training_equals_a_straight_one(
    variant: str, straight: Callable[[str], Path], sd3_folder: Path, tmp_path: Path
) -> None:
    settings = config(sd3_folder, variant)
    stop(tmp_path, settings, epoch=1)  # logged twice, saved once
    assert len(log_without_times(tmp_path)) == 2
    assert trained_state(tmp_path)[1]["epoch"] == 1
    fake_training(settings, tmp_path)
    assert_same_training(straight(variant), tmp_path)


def test_stopped_before_the_first_checkpoint_it_begins_again(
    straight: Callable[[str], Path], sd3_folder: Path, tmp_path: Path
) -> None:
    stop(tmp_path, config(sd3_folder), epoch=0, phase="update")
    fake_training(config(sd3_folder), tmp_path)
    assert_same_training(straight("nft"), tmp_path)


def test_rare_checkpoints_change_nothing(straight: Callable[[str], Path], sd3_folder: Path, tmp_path: Path) -> None:
    settings = config(sd3_folder, checkpoint_every=2)
    stop(tmp_path, settings, epoch=2, phase="update")
    assert trained_state(tmp_path)[1]["epoch"] == 2
    fake_training(settings, tmp_path)
    assert_same_training(straight("nft"), tmp_path)


def test_a_torn_log_line_and_a_half_written_checkpoint_do_no_harm(
    straight: Callable[[str], Path], sd3_folder: Path, tmp_path: Path
) -> None:
    stop(tmp_path, config(sd3_folder), epoch=1)
    log = tmp_path / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-40])
    half = tmp_path / "checkpoints" / ".nbench-tmp-0002"
    (half / "policy").mkdir(parents=True)
    (half / "state.safetensors").write_bytes(b"half of it")
    (tmp_path / ".nbench-tmp-99-abc").write_text("half a file")
    fake_training(config(sd3_folder), tmp_path)
    assert_same_training(straight("nft"), tmp_path)
    assert not half.exists()


def test_an_older_checkpoint_is_gone_on_from_when_the_newest_is_deleted(
    straight: Callable[[str], Path], sd3_folder: Path, tmp_path: Path
) -> None:
    import shutil

    fake_training(config(sd3_folder), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "epoch-0003")
    fake_training(config(sd3_folder), tmp_path)
    assert_same_training(straight("nft"), tmp_path)


@pytest.mark.parametrize("variant", ["nft", "awm"])
def test_more_epochs_go_on_and_equal_a_longer_training(
    variant: str, straight: Callable[[str], Path], sd3_folder: Path, tmp_path: Path
) -> None:
    fake_training(config(sd3_folder, variant, optim__epochs=1), tmp_path)
    assert (tmp_path / "result.json").is_file()
    fake_training(config(sd3_folder, variant, name="longer"), tmp_path)
    assert_same_training(straight(variant), tmp_path)


def test_a_finished_training_is_not_trained_again(
    straight: Callable[[str], Path], sd3_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = straight("nft")
    before = snapshot(out)

    def never(*args: object) -> None:
        raise AssertionError

    monkeypatch.setattr(trainer_module.Trainer, "run_epoch", never)
    result = fake_training(config(sd3_folder), out)
    assert (result.epochs, result.step) == (3, 3)
    assert snapshot(out) == before


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"optim__learning_rate": 0.5}, "optim.learning_rate: 0.01 -> 0.5"),
        ({"guards": []}, r"guards.* -> 'absent'|guards: 'absent' -> \[\]"),
        ({"seed": 4}, "seed: 3 -> 4"),
        ({"evaluate__limit": 1}, "evaluate.limit: None -> 1"),
    ],
)
def test_a_changed_config_is_refused_and_nothing_is_touched(
    changes: dict[str, Any], key: str, straight: Callable[[str], Path], sd3_folder: Path
) -> None:
    out = straight("nft")
    before = snapshot(out)
    with pytest.raises(CardMismatchError, match=key) as caught:
        fake_training(config(sd3_folder, **changes), out)
    assert caught.value.exit_code == 3
    assert snapshot(out) == before


def test_another_base_under_the_same_name_is_refused(
    straight: Callable[[str], Path], sd3_folder: Path, tmp_path: Path
) -> None:
    import shutil

    from nbench.testing import tiny_sd3

    base = tmp_path / "base"
    shutil.copytree(sd3_folder, base)
    stop(tmp_path / "out", config(base), epoch=1)
    shutil.rmtree(base)
    tiny_sd3(base, seed=1)
    before = snapshot(tmp_path / "out")
    with pytest.raises(CheckpointError, match="was trained from another base than"):
        fake_training(config(base), tmp_path / "out")
    assert snapshot(tmp_path / "out") == before


def test_a_folder_with_other_files_is_refused(sd3_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds files, but no training"):
        fake_training(config(sd3_folder), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_second_process_is_refused_while_the_first_trains(straight: Callable[[str], Path], sd3_folder: Path) -> None:
    out = straight("nft")
    before = snapshot(out)
    with (
        TrainingFolder(out).locked(),
        pytest.raises(RunLockedError, match=r"another process is training in .*: wait for it"),
    ):
        fake_training(config(sd3_folder, optim__epochs=5), out)
    assert snapshot(out) == before


def test_a_calibrated_weight_is_not_calibrated_again(
    straight: Callable[[str], Path], sd3_folder: Path, tmp_path: Path
) -> None:
    weights = [line["guards"]["symmetric_norm"] for line in log_without_times(straight("nft"))]
    assert weights[0] is None and weights[1] is not None
    fake_training(config(sd3_folder, optim__epochs=2), tmp_path)
    notes: list[str] = []

    class Listener(Quiet):
        def note(self, message: str) -> None:
            notes.append(message)

    fake_training(config(sd3_folder), tmp_path, observer=Listener())
    assert notes == []
    assert [line["guards"]["symmetric_norm"] for line in log_without_times(tmp_path)] == weights


def test_an_evaluation_that_was_missed_is_made_up_for(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[str] = []

    class Recording(NoEvaluator):
        def evaluate(self, checkpoints: Any, *, name: str) -> Any:
            evaluated.append(f"{name}: {' '.join(checkpoints)}")
            if evaluated == ["epoch-0000: base", "epoch-0001: base policy"]:
                raise KeyboardInterrupt  # after the checkpoint, before the evaluation
            return super().evaluate(checkpoints, name=name)

    monkeypatch.setattr(trainer_module, "Evaluator", Recording)
    settings = config(sd3_folder, optim__epochs=2, evaluate__every=1)
    with pytest.raises(RunInterruptedError):
        fake_training(settings, tmp_path)
    assert trained_state(tmp_path)[1]["epoch"] == 1
    fake_training(settings, tmp_path)
    assert evaluated[2:] == ["epoch-0001: base policy", "epoch-0002: base policy"]
    assert len(list((tmp_path / "evaluations").iterdir())) == 3


def test_full_tuning_writes_pipelines_that_load(straight: Callable[[str], Path], sd3_folder: Path) -> None:
    from nbench.flow.load import CheckpointSpec, load_model

    out = straight("full")
    tensors, _ = trained_state(out)
    base = load_model(CheckpointSpec("base", str(sd3_folder), device="cpu"))
    for role in ("policy", "ema"):
        model = load_model(CheckpointSpec(role, str(out / "final" / role), device="cpu"))
        weights = dict(model.transformer.named_parameters())  # type: ignore[attr-defined]
        start = dict(base.transformer.named_parameters())  # type: ignore[attr-defined]
        assert any(not torch.equal(weights[name], start[name]) for name in weights)
        for name, weight in weights.items():
            assert torch.equal(weight, tensors[f"{role}/{name}"]), name
