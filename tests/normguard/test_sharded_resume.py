"""A training on shared weights that was killed, or goes on with whole ones, ends where a straight one does."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from train_fakes import assert_same_training, fake_training, trained_state
from train_processes import FSDP, FULL, assert_close, forked, shared_config, train_shared

from nbench.normguard.observer import Quiet

pytestmark = pytest.mark.usefixtures("quick_trainings")

KINDS = pytest.mark.parametrize("changes", [{}, pytest.param(FULL, marks=pytest.mark.slow)], ids=["lora", "full"])


class Killed(Quiet):
    """Dies by SIGKILL in the second epoch's updates."""

    def __init__(self) -> None:
        self.updates = 0

    def phase(self, name: str, total: int) -> None:
        self.updates += name == "update"

    def advance(self, count: int) -> None:
        if self.updates == 2:
            os.kill(os.getpid(), signal.SIGKILL)


@KINDS
def test_killed_and_resumed_it_equals_a_straight_one(changes: dict[str, Any], sd3_folder: Path, tmp_path: Path) -> None:
    settings = shared_config(sd3_folder, optim__epochs=2, **changes)
    train_shared(settings, tmp_path / "straight", tmp_path)

    def work(rank: int) -> None:
        fake_training(settings, tmp_path / "killed", observer=Killed() if rank == 1 else None)

    codes = forked(2, work, tmp_path, environment=FSDP)
    assert codes[1] == -signal.SIGKILL
    assert trained_state(tmp_path / "killed")[1]["epoch"] == 1
    train_shared(settings, tmp_path / "killed", tmp_path)
    assert_same_training(tmp_path / "straight", tmp_path / "killed")


@KINDS
def test_a_training_goes_on_sharded_or_not_whatever_it_was_before(
    changes: dict[str, Any], sd3_folder: Path, tmp_path: Path
) -> None:
    settings, shorter = (shared_config(sd3_folder, seed=5, optim__epochs=epochs, **changes) for epochs in (2, 1))
    fake_training(settings, tmp_path / "one")
    train_shared(shorter, tmp_path / "whole-later", tmp_path)
    fake_training(settings, tmp_path / "whole-later")
    fake_training(shorter, tmp_path / "sharded-later")
    train_shared(settings, tmp_path / "sharded-later", tmp_path)
    assert_close(tmp_path / "one", tmp_path / "whole-later")
    assert_close(tmp_path / "one", tmp_path / "sharded-later")
