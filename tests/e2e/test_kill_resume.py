"""kill -9 at any moment: the finished run equals one that nobody disturbed, bit for bit.

Children are forked, so that 60 of them cost one import of torch. They are killed from outside at random moments, and by
themselves before, within and after single file operations.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from run_fakes import Fakes, contents, fake_suite

import nbench.runs.files
import nbench.runs.journal
from nbench.runs.execute import execute
from nbench.runs.store import Store

KILLS_PER_STAGE = 10
KILLS_AT_OPERATIONS = 24


def run(root: Path, *, delay: float = 0.0, observer: Any = None) -> None:
    fakes = Fakes(delay=delay, score_delay=delay / 4, nan_prompts={"prompt number 3"})
    suite = fake_suite(checkpoints=["base=b", "nft=b+l", "other=c"], norm_ratio=True, batch_size=4)
    execute(suite, Store(root), backend=fakes.backend(), observer=observer)


class Reporter:
    """Writes each stage's first letter into a pipe, so that the killer knows where it strikes."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def stage(self, name: str, total: int, done: int) -> None:
        os.write(self.descriptor, name[:1].encode())

    def advance(self, count: int) -> None:
        pass

    def note(self, message: str) -> None:
        pass


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a child, which never returns into the test; its pid."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(70)
    return child


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module", autouse=True)
def _no_fsync() -> Iterator[None]:
    """A killed process loses nothing that it wrote, synced or not; waiting for the disk would only take time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        gc.freeze()  # children then collect only what they made themselves
        yield
        gc.unfreeze()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("undisturbed")
    run(root)
    found = contents(root)
    assert len([path for path in found if path.endswith(".png")]) == 3 * 2 * 3 * 2  # one prompt of four is NaN
    return found


def timed_child(root: Path, delay: float) -> tuple[int, int]:
    """A child that runs, and the pipe it reports its stages in."""
    reader, writer = os.pipe()

    def work() -> None:
        os.close(reader)
        run(root, delay=delay, observer=Reporter(writer))

    child = forked(work)
    os.close(writer)
    return child, reader


def stage_times(root: Path, delay: float) -> dict[str, float]:
    """How long each stage of an undisturbed run takes here."""
    child, reader = timed_child(root, delay)
    moments = {}
    while letter := os.read(reader, 1):
        moments[letter.decode()] = time.perf_counter()
    end = time.perf_counter()
    assert status_of(child) == 0
    os.close(reader)
    return {"g": moments["s"] - moments["g"], "s": end - moments["s"]}


def test_killed_at_random_moments_in_both_stages(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    delay = 0.002
    durations = stage_times(tmp_path / "timing", delay)
    chance = random.Random(20261121)
    killed = {"g": 0, "s": 0}
    for trial in range(6 * KILLS_PER_STAGE):
        stage = "gs"[trial % 2]
        if killed[stage] >= KILLS_PER_STAGE:
            continue
        root = tmp_path / str(trial)
        child, reader = timed_child(root, delay)
        while (letter := os.read(reader, 1).decode()) not in (stage, ""):
            pass
        time.sleep(chance.uniform(0, 0.8 * durations[stage]))
        os.kill(child, signal.SIGKILL)
        ended = status_of(child)
        letters = letter + os.read(reader, 10).decode()
        os.close(reader)
        if ended == 0 or letters[-1] != stage:
            continue  # it was quicker this time: no kill in this stage
        assert ended == -signal.SIGKILL
        killed[stage] += 1
        assert not (root / "runs/demo/done.json").exists()
        assert contents(root).items() <= undisturbed.items()
        run(root)
        assert contents(root) == undisturbed, f"killed in stage {stage!r}, trial {trial}"
    assert killed == {"g": KILLS_PER_STAGE, "s": KILLS_PER_STAGE}


class Assassin:
    """Counts file operations, and kills its process at one of them.

    A write is cut in half; a replace or an fsync is killed before or after it is done, by turns.
    """

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0
        self.lock = threading.Lock()
        self.write, self.replace, self.sync = nbench.runs.files.write_all, os.replace, os.fsync

    def due(self) -> bool:
        with self.lock:
            self.count += 1
            return self.count == self.at

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    def write_all(self, descriptor: int, data: bytes) -> None:
        if self.due():
            os.write(descriptor, data[: len(data) // 2])
            self.die()
        self.write(descriptor, data)

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

    def run(self, root: Path) -> int:
        """Do a run under watch; returns the number of operations."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nbench.runs.files, "write_all", self.write_all)
            patch.setattr(nbench.runs.journal, "write_all", self.write_all)
            patch.setattr(os, "replace", self.os_replace)
            patch.setattr(os, "fsync", self.fsync)
            run(root)
        return self.count


def test_killed_at_single_file_operations(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    operations = Assassin(at=0).run(tmp_path / "counted")
    assert operations > 3 * KILLS_AT_OPERATIONS
    assert contents(tmp_path / "counted") == undisturbed
    points = sorted({1 + round(i * (operations - 1) / KILLS_AT_OPERATIONS) for i in range(KILLS_AT_OPERATIONS)})
    points += range(operations - 10, operations)  # tables and done.json, where nothing may be half there
    for point in sorted(set(points)):
        root = tmp_path / str(point)
        child = forked(lambda point=point, root=root: Assassin(point).run(root))
        assert status_of(child) == -signal.SIGKILL, f"operation {point} of {operations} was never reached"
        if (root / "runs/demo/done.json").exists():
            assert contents(root) == undisturbed
        run(root)
        assert contents(root) == undisturbed, f"killed at operation {point} of {operations}"


def test_killed_again_and_again_it_still_ends(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    chance = random.Random(5)
    points = [kills + chance.randint(10, 60) for kills in range(100)]  # ever later, so that there is progress
    ends = []
    for point in points:
        ends.append(status_of(forked(lambda point=point: Assassin(point).run(tmp_path))))
        if ends[-1] == 0:
            break
    assert ends[-1] == 0, "100 attempts did not end"
    assert ends.count(-signal.SIGKILL) >= 5
    assert contents(tmp_path) == undisturbed
