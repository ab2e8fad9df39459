"""What a training writes beside its checkpoints: calibrated weights, TensorBoard events, evaluations."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from train_fakes import fake_training, log_without_times, make_trainer, train_config, trained_state

import nbench.normguard.trainer as trainer_module
from nbench.errors import UsageError
from nbench.normguard.tally import Tally
from nbench.normguard.trainer import Quiet

pytestmark = pytest.mark.usefixtures("quick_trainings")


class Notes(Quiet):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_a_calibrated_weight_is_found_once_logged_and_saved(sd3_folder: Path, tmp_path: Path) -> None:
    guards = [{"name": "symmetric_norm", "calibrate": {"gradient_ratio": 0.3}}]
    config = train_config(sd3_folder, "nft", guards=guards, optim__epochs=3)
    notes = Notes()
    fake_training(config, tmp_path, observer=notes)
    weights = [line["guards"]["symmetric_norm"] for line in log_without_times(tmp_path)]
    assert weights[0] is None, "at the first step the policy is the reference"
    assert weights[1] is not None and weights[1] > 0
    assert weights[2] == weights[1]
    assert trained_state(tmp_path)[1]["guards"] == {"symmetric_norm": weights[1]}
    assert notes.notes == [f"symmetric_norm: weight {weights[1]:.4g}, calibrated at optimiser step 2."]


def test_calibration_sets_the_ratio_of_the_gradients(sd3_folder: Path, tmp_path: Path) -> None:
    gradients = {}
    for name, weight in {"base": 0.0, "guarded": 1.0, "found": None}.items():
        guard: dict[str, Any] = {"name": "symmetric_norm"}
        guard |= {"calibrate": {"gradient_ratio": 0.3}} if weight is None else {"weight": weight}
        trainer = make_trainer(train_config(sd3_folder, guards=[guard], optim__grad_clip=1e9), tmp_path)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for tensor in trainer.policy.tensors("policy").values():
                tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
        epoch, _ = trainer.collect()
        trainer.optimizer.step = lambda: None  # type: ignore[method-assign, assignment]
        trainer.updates(epoch, Tally())
        gradients[name] = torch.cat([tensor.grad.flatten() for tensor in trainer.trained.values()])
        found = trainer.guards[0].weight
    assert torch.equal(gradients["found"], gradients["base"]), "it counts from the next step on"
    penalty = gradients["guarded"] - gradients["base"]
    assert found is not None
    assert float(found * penalty.norm()) == pytest.approx(0.3 * float(gradients["base"].norm()), rel=1e-3)


def test_tensorboard_events_are_written_when_asked(sd3_folder: Path, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fake_training(train_config(sd3_folder, tensorboard=True), tmp_path)
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    reader = event_accumulator.EventAccumulator(str(events.parent))
    reader.Reload()
    logged = log_without_times(tmp_path)
    found = [event.value for event in reader.Scalars("reward/mean")]
    assert found == pytest.approx([line["reward"]["mean"] for line in logged])
    assert "stats/norm_ratio/mean" in reader.Tags()["scalars"]


def test_without_tensorboard_asking_for_it_is_refused(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.utils.is_tensorboard_available", lambda: False)
    with pytest.raises(UsageError, match="tensorboard is not installed"):
        fake_training(train_config(sd3_folder, tensorboard=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evaluations_use_the_given_scorers_and_stand_in_files(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbench.normguard.evaluate import Evaluator

    monkeypatch.setattr(trainer_module, "Evaluator", Evaluator)
    config = train_config(
        sd3_folder, optim__epochs=3, evaluate__every=2, evaluate__scorers=["image-stats"], evaluate__ema=True
    )
    result = fake_training(config, tmp_path)
    files = sorted(path.name for path in (tmp_path / "evaluations").iterdir())
    assert files == ["epoch-0000.json", "epoch-0002.json", "epoch-0003.json"]
    for comparison in result.evaluation.comparisons:
        assert comparison.coverage == 1.0
    scorers = {comparison.scorer for comparison in result.evaluation.comparisons}
    assert scorers == {"fake-score", "image-stats"}
    assert {one.checkpoint for one in result.evaluation.comparisons} == {"policy", "ema"}
    written = json.loads((tmp_path / "result.json").read_text())
    assert (written["epochs"], written["steps"]) == (3, 3)
    last = json.loads((tmp_path / "evaluations" / "epoch-0003.json").read_text())
    assert last == {"epoch": 3, **written["evaluation"]}
    assert result.policy == tmp_path / "final" / "policy" / "pytorch_lora_weights.safetensors"
