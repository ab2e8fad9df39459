"""What each process holds of shared weights, and what is written from the parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from train_fakes import REWARD, fake_training, trained_state
from train_processes import FSDP, FULL, forked, said, shared_config, train_shared

from nbench.normguard.checkpoint import TrainingFolder
from nbench.normguard.observer import Quiet
from nbench.normguard.processes import make_accelerator
from nbench.normguard.sharding import is_sharded, local
from nbench.normguard.trainer import Trainer
from nbench.testing import FakeScorer

pytestmark = pytest.mark.usefixtures("quick_trainings")


def make_trainer(settings: Any, out: Path) -> Trainer:
    return Trainer(
        settings, TrainingFolder(out), make_accelerator(settings, out), Quiet(), {REWARD: FakeScorer(REWARD)}
    )


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def read(folder: Path, count: int) -> list[Any]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


def test_each_process_holds_half_of_the_frozen_base_and_all_of_the_adapters(sd3_folder: Path, tmp_path: Path) -> None:
    settings = shared_config(sd3_folder)

    def work(rank: int) -> None:
        trainer = make_trainer(settings, tmp_path / "out")
        trainer.run_epoch()  # afterwards it is still so
        adapters = {id(t) for role in trainer.policy.roles for t in trainer.policy.tensors(role).values()}
        weights = [t for t in trainer.policy.model.transformer.parameters() if id(t) not in adapters]
        assert len(adapters) > 0
        assert all(is_sharded(t) and not t.requires_grad for t in weights)
        assert not any(is_sharded(t) for t in trainer.trained.values())
        write(tmp_path / f"{rank}.json", [sum(local(t).numel() for t in weights), sum(t.numel() for t in weights)])

    assert forked(2, work, tmp_path, environment=FSDP) == [0, 0], said(tmp_path)
    (mine, all_of_it), (theirs, _) = read(tmp_path, 2)
    assert mine + theirs == all_of_it
    assert 0.4 < mine / all_of_it < 0.6


def test_each_process_holds_half_of_every_copy_gradient_and_moment_tuning_all_weights(
    sd3_folder: Path, tmp_path: Path
) -> None:
    settings = shared_config(sd3_folder, **FULL)

    def work(rank: int) -> None:
        trainer = make_trainer(settings, tmp_path / "out")
        trainer.run_epoch()
        kept = {role: list(trainer.policy.tensors(role).values()) for role in (*trainer.policy.roles, "reference")}
        kept["gradient"] = [tensor.grad for tensor in trainer.trained.values()]
        for moment in ("exp_avg", "exp_avg_sq"):
            kept[moment] = [trainer.optimizer.state[tensor][moment] for tensor in trainer.trained.values()]
        write(
            tmp_path / f"{rank}.json",
            {
                name: [sum(local(t).numel() for t in found), sum(t.numel() for t in found)]
                for name, found in kept.items()
            },
        )

    assert forked(2, work, tmp_path, environment=FSDP) == [0, 0], said(tmp_path)
    mine, theirs = read(tmp_path, 2)
    assert mine.keys() == {"policy", "old", "ema", "reference", "gradient", "exp_avg", "exp_avg_sq"}
    for name, (count, all_of_it) in mine.items():
        assert count + theirs[name][0] == all_of_it
        assert 0.4 < count / all_of_it < 0.6, name


def test_one_process_alone_shards_nothing(sd3_folder: Path, tmp_path: Path) -> None:
    def work(rank: int) -> None:
        trainer = make_trainer(shared_config(sd3_folder), tmp_path / "out")
        assert not any(is_sharded(tensor) for tensor in trainer.policy.model.transformer.parameters())
        trainer.run_epoch()

    assert forked(1, work, tmp_path, environment=FSDP) == [0], said(tmp_path)


def test_pipelines_written_from_parts_are_those_of_whole_weights(sd3_folder: Path, tmp_path: Path) -> None:
    from nbench.flow.load import CheckpointSpec, load_model

    settings = shared_config(sd3_folder, optim__epochs=1, **FULL)
    train_shared(settings, tmp_path / "two", tmp_path)
    fake_training(settings, tmp_path / "one")
    tensors, _ = trained_state(tmp_path / "two")
    for role in ("policy", "ema"):
        one, two = (tmp_path / name / "final" / role for name in ("one", "two"))
        files = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
        assert files == {path.relative_to(two) for path in two.rglob("*") if path.is_file()}
        for path in files:
            if path.suffix == ".json":
                assert (one / path).read_bytes() == (two / path).read_bytes(), path
        model = load_model(CheckpointSpec(role, str(two), device="cpu"))
        for name, weight in model.transformer.named_parameters():  # type: ignore[attr-defined]
            assert torch.equal(weight, tensors[f"{role}/{name}"]), name
