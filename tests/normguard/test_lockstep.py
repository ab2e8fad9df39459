"""Processes that share weights stay in step: idle batches, and an evaluation that one leads and the others join."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from train_fakes import REWARD, fake_training, make_trainer, train_config
from train_processes import FSDP, forked, said, void

import nbench.normguard.lockstep as lockstep_module
from nbench.normguard.checkpoint import TrainingFolder
from nbench.normguard.observer import Quiet
from nbench.normguard.policy import RoleView
from nbench.normguard.processes import make_accelerator
from nbench.normguard.trainer import Trainer
from nbench.testing import FakeScorer


def config(base: Path, **changes: Any) -> Any:
    settings = {"rollout__prompts": 3, "rollout__batch_size": 2, "optim__batch_size": 2, **changes}
    return train_config(base, **settings)


def test_whole_weights_need_no_step(sd3_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(config(sd3_folder), tmp_path)
    lockstep = trainer.lockstep
    assert not lockstep.active
    assert lockstep.most(3) == 3
    lockstep.idle("policy", 5)
    assert type(lockstep.view("policy")) is RoleView
    assert lockstep.led(lambda: "done") == "done"
    assert dict(trainer.watch.seconds) == {}


def test_a_process_with_less_to_do_makes_as_many_forwards(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three prompts with two pictures each one process has two, in batches of two: it is one batch ahead."""
    settings = config(sd3_folder)

    def work(rank: int) -> None:
        trainer = Trainer(
            settings,
            TrainingFolder(tmp_path / "out"),
            make_accelerator(settings, tmp_path),
            Quiet(),
            {REWARD: FakeScorer()},
        )
        calls = {"forwards": 0, "idle batches": 0}
        velocity, idle = RoleView.velocity, trainer.objective.idle

        def counted_velocity(*args: Any, **options: Any) -> Any:
            calls["forwards"] += 1
            return velocity(*args, **options)

        def counted_idle(*args: Any, **options: Any) -> None:
            calls["idle batches"] += 1
            idle(*args, **options)

        monkeypatch.setattr(RoleView, "velocity", counted_velocity)
        trainer.objective.idle = counted_idle  # type: ignore[method-assign]
        trainer.run_epoch()
        (tmp_path / f"{rank}.json").write_text(json.dumps(calls))

    assert forked(2, work, tmp_path, environment=FSDP) == [0, 0], said(tmp_path)
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    # 2 batches of 3 steps, and 2 of the old policy, the reference (for the log) and the policy
    assert one == {"forwards": 12, "idle batches": 0}
    assert two == {"forwards": 12, "idle batches": 1}


@pytest.mark.parametrize(
    "changes",
    [{"evaluate__every": 1, "evaluate__ema": True}, pytest.param({"model__tuning": "full"}, marks=pytest.mark.slow)],
    ids=["lora", "full"],
)
def test_an_evaluation_of_shared_weights_is_that_of_whole_ones(
    changes: dict[str, Any], sd3_folder: Path, tmp_path: Path
) -> None:
    """Two processes train to the same bits either way with LoRA, so that pictures and figures are the same too."""
    settings = config(sd3_folder, optim__epochs=1, optim__eps=1e-4, evaluate__steps=[2], **changes)
    found = []
    for name, environment in (("shared", FSDP), ("whole", {})):
        codes = forked(
            2, lambda rank, name=name: void(fake_training(settings, tmp_path / name)), tmp_path, environment=environment
        )
        assert codes == [0, 0], said(tmp_path)
        files = sorted((tmp_path / name / "evaluations").glob("*.json"))
        found.append({file.name: figures(json.loads(file.read_text())) for file in files})
        norms = [json.loads(file.read_text())["norms"] for file in files]
        assert norms[-1][0]["ratio"]["mean"] > 0
    assert len(found[0]) == (2 if "evaluate__every" in changes else 1)
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        if "evaluate__every" in changes:
            assert found[0][name] == found[1][name]
        else:
            assert found[0][name] == pytest.approx(found[1][name], rel=1e-4, abs=1e-4)


def figures(content: Any, prefix: str = "") -> dict[str, Any]:
    """All numbers of an evaluation by their path, but for what the clock says."""
    found: dict[str, Any] = {}
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(value, dict | list):
            found.update(figures(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float) and key != "seconds":
            found[f"{prefix}{key}"] = value
    return found


def test_every_role_has_a_number_to_announce_it_by() -> None:
    import typing

    from nbench.normguard.policy import Role

    assert set(lockstep_module._ROLES) == set(typing.get_args(Role))
