"""One process by itself, and launchers that are refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from train_fakes import train_config
from train_processes import FSDP, forked, said

from nbench.errors import UsageError
from nbench.normguard.processes import Processes, make_accelerator


def test_one_process_talks_to_nobody() -> None:
    processes = Processes(Accelerator(cpu=True))
    assert (processes.count, processes.index, processes.main, processes.sharded) == (1, 0, True, False)
    tensor = torch.ones(2)
    assert processes.sum(tensor) is tensor
    rows = [1, 2]
    assert processes.gather(rows) is rows
    assert processes.from_main(7) == 7
    processes.wait()


def test_one_process_shards_nothing_whatever_the_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    assert not Processes(Accelerator(cpu=True)).sharded


def test_two_processes_hear_each_other(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        processes = Processes(Accelerator(cpu=True))
        assert (processes.count, processes.index, processes.main) == (2, rank, rank == 0)
        assert processes.sum(torch.tensor([1.0, float(rank)])).tolist() == [2.0, 1.0]
        assert processes.gather([rank] * (rank + 1)) == [0, 1, 1]
        assert processes.from_main(10 + rank) == 10
        processes.wait()

    assert forked(2, work, tmp_path) == [0, 0], said(tmp_path)


@pytest.mark.parametrize("kind", ["DEEPSPEED", "MEGATRON_LM"])
def test_other_kinds_of_sharding_are_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate

    def launched(**settings: Any) -> Any:
        return SimpleNamespace(distributed_type=accelerate.utils.DistributedType[kind], device=torch.device("cpu"))

    monkeypatch.setattr(accelerate, "Accelerator", launched)
    with pytest.raises(UsageError, match=rf"{kind} is not supported: start with torchrun, .* --use_fsdp"):
        make_accelerator(train_config(tmp_path), tmp_path)


def test_another_device_than_the_launchers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate

    def launched(**settings: Any) -> Any:
        return SimpleNamespace(distributed_type="NO", device=torch.device("cuda:1"))

    monkeypatch.setattr(accelerate, "Accelerator", launched)
    with pytest.raises(UsageError, match=r"model\.device is cpu, but this process trains on cuda:1: leave it at auto"):
        make_accelerator(train_config(tmp_path), tmp_path)
