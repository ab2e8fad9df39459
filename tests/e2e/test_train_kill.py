"""kill -9 at any moment of a training: the finished one equals one that nobody disturbed, bit for bit.

Children are forked with the base loaded already. They kill themselves before, within and after file operations: between
the files of a checkpoint, in the middle of a line of the log, between a log line and its checkpoint.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from train_fakes import NoEvaluator, assert_same_training, fake_training, train_config

import nbench.cli as cli
import nbench.normguard.trainer as trainer_module
from nbench.flow.load import CheckpointSpec, load_model
from nbench.normguard.checkpoint import TrainingFolder
from nbench.normguard.config import TrainConfig


def settings(base: Path, **changes: Any) -> TrainConfig:
    guards = [{"name": "symmetric_norm", "calibrate": {"gradient_ratio": 0.3}}]
    return train_config(base, "nft", guards=guards, optim__epochs=3, checkpoint_every=1, **changes)


def forked(work: Callable[[], object]) -> int:
    """Run `work` in a child, which never returns into the test; its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module", autouse=True)
def _quick(sd3_folder: Path) -> Iterator[None]:
    """No evaluations, no waiting for the disk, and a base that is loaded once and for every child its own."""
    loaded = load_model(CheckpointSpec("base", str(sd3_folder), device="cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(trainer_module, "Evaluator", NoEvaluator)
        patch.setattr(trainer_module, "load_model", lambda spec: copy.copy(loaded))
        gc.freeze()  # children then collect only what they made themselves
        yield
        gc.unfreeze()


@pytest.fixture(scope="module")
def undisturbed(sd3_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert forked(lambda: fake_training(settings(sd3_folder), out)) == 0
    return out


class Assassin:
    """Counts the file operations of a training, and kills its process at one of them.

    A write (of tensors, of the log) is cut in half; a replace or an fsync is killed before or after it, by turns.
    """

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0
        self.replace, self.save = os.replace, safetensors.torch.save_file
        self.append = TrainingFolder.append

    def due(self) -> bool:
        self.count += 1
        return self.count == self.at

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    def os_replace(self, source: Any, target: Any, **options: Any) -> None:
        due = self.due()
        if due and self.at % 2:
            self.die()
        self.replace(source, target, **options)
        if due:
            self.die()

    def fsync(self, descriptor: int) -> None:
        if self.due():
            self.die()

    def save_file(self, tensors: Any, path: Any, *rest: Any, **options: Any) -> None:
        self.save(tensors, path, *rest, **options)
        if self.due():
            os.truncate(path, Path(path).stat().st_size // 2)
            self.die()

    def append_line(self, folder: TrainingFolder, record: Any) -> None:
        if self.due():
            line = json.dumps(record)
            with folder.log.open("a") as handle:
                handle.write(line[: len(line) // 2])
            self.die()
        self.append(folder, record)

    def run(self, base: Path, out: Path) -> int:
        """Train under watch; returns the number of operations."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", self.os_replace)
            patch.setattr(os, "fsync", self.fsync)
            patch.setattr(safetensors.torch, "save_file", self.save_file)
            patch.setattr(TrainingFolder, "append", lambda folder, record: self.append_line(folder, record))
            fake_training(settings(base), out)
        return self.count


def count_operations(base: Path, out: Path) -> int:
    def work() -> None:
        counted = Assassin(at=0).run(base, out)
        (out.parent / "count").write_text(str(counted))

    assert forked(work) == 0
    return int((out.parent / "count").read_text())


def disturbed(base: Path, undisturbed: Path, out: Path, point: int) -> None:
    assert forked(lambda: Assassin(point).run(base, out)) == -signal.SIGKILL, f"operation {point} was never reached"
    assert forked(lambda: fake_training(settings(base), out)) == 0, f"killed at operation {point}"
    assert_same_training(undisturbed, out)


def test_killed_at_file_operations_of_a_training(sd3_folder: Path, tmp_path: Path, undisturbed: Path) -> None:
    operations = count_operations(sd3_folder, tmp_path / "counted")
    assert operations > 40
    assert_same_training(undisturbed, tmp_path / "counted")
    for point in (1, operations // 3, operations // 2, operations - 1):
        disturbed(sd3_folder, undisturbed, tmp_path / str(point), point)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_every_file_operation_of_a_training(sd3_folder: Path, tmp_path: Path, undisturbed: Path) -> None:
    operations = count_operations(sd3_folder, tmp_path / "counted")
    for point in range(1, operations + 1):
        disturbed(sd3_folder, undisturbed, tmp_path / str(point), point)


def test_killed_again_and_again_it_still_ends(sd3_folder: Path, tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "out"
    ends = []
    for attempt in range(30):
        ends.append(forked(lambda point=13 + 2 * attempt: Assassin(point).run(sd3_folder, out)))
        if ends[-1] == 0:
            break
    assert ends[-1] == 0, "30 attempts did not end"
    assert ends.count(-signal.SIGKILL) >= 3
    assert_same_training(undisturbed, out)


@pytest.mark.parametrize("phase", ["rollout", "update"])
def test_killed_from_outside_in_the_middle_of_an_epoch(
    phase: str, sd3_folder: Path, tmp_path: Path, undisturbed: Path
) -> None:
    class Reporter(trainer_module.Quiet):
        def __init__(self, descriptor: int) -> None:
            self.descriptor = descriptor

        def phase(self, name: str, total: int) -> None:
            os.write(self.descriptor, name[:1].encode())

        def advance(self, count: int) -> None:
            time.sleep(0.05)

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            fake_training(settings(sd3_folder), tmp_path, observer=Reporter(writer))
            os._exit(0)
        except BaseException:
            os._exit(70)
    os.close(writer)
    seen = b""
    while seen.count(phase[:1].encode()) < 2:  # of the second epoch
        letter = os.read(reader, 1)
        assert letter, seen
        seen += letter
    time.sleep(0.03)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    os.close(reader)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
    assert forked(lambda: fake_training(settings(sd3_folder), tmp_path)) == 0
    assert_same_training(undisturbed, tmp_path)


def test_the_dead_process_leaves_no_lock(sd3_folder: Path, tmp_path: Path) -> None:
    def work() -> None:
        with TrainingFolder(tmp_path).locked():
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(work) == -signal.SIGKILL
    with TrainingFolder(tmp_path).locked():
        pass


def test_ctrl_c_of_the_command_says_how_to_go_on(sd3_folder: Path, tmp_path: Path) -> None:
    """SIGINT, the message, exit code 4; the same command then ends with what a straight one has."""
    rewards = [{"scorer": "image-stats", "metric": "saturation"}]
    file, out = tmp_path / "train.yaml", tmp_path / "out"
    file.write_text(settings(sd3_folder, rewards=rewards).to_yaml())

    def command(folder: Path) -> int:
        """A child that runs the command as the console script does; its pid. What it says is in said.txt."""
        child = os.fork()
        if child == 0:
            try:
                with (tmp_path / "said.txt").open("w") as sys.stderr:
                    sys.argv = ["nbench", "train", str(file), "--out", str(folder)]
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    cli.main()
            except SystemExit as end:
                os._exit(int(end.code or 0))
            except BaseException:
                os._exit(70)
            os._exit(71)
        return child

    child = command(out)
    end = time.monotonic() + 100
    while not (out / "checkpoints" / "epoch-0001").exists() and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(child, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    errors = " ".join((tmp_path / "said.txt").read_text().split())
    assert "training 'tiny' was stopped; its last checkpoint is kept. Go on with the same command." in errors
    assert "Traceback" not in errors
    assert not (out / "result.json").exists()
    kept = (out / "checkpoints" / "epoch-0001" / "policy" / "pytorch_lora_weights.safetensors").read_bytes()
    for folder in (out, tmp_path / "straight"):
        assert os.waitstatus_to_exitcode(os.waitpid(command(folder), 0)[1]) == 0, (tmp_path / "said.txt").read_text()
    assert (out / "checkpoints" / "epoch-0001" / "policy" / "pytorch_lora_weights.safetensors").read_bytes() == kept
    assert_same_training(tmp_path / "straight", out)
