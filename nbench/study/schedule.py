"""Runs the commands of a study, several at a time, each in a process of its own; a stopped study goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nbench import keeper
from nbench.errors import InfrastructureError, RunInterruptedError
from nbench.runs.files import store_errors
from nbench.study.folder import StudyFolder
from nbench.study.tasks import Task, command_line

_POLL = 0.2  # seconds


class Watcher(Protocol):
    """Hears of progress."""

    def started(self, task: Task, place: int, total: int) -> None:
        """A task begins; `place` counts from 1."""

    def ended(self, task: Task, seconds: float, failure: str) -> None:
        """A task is over; `failure` is "" or the last line that it printed."""


@dataclass(frozen=True)
class Progress:
    """What a call did.

    Attributes:
        done: tasks that this call finished.
        before: that were finished before.
        failed: task -> the last line that it printed.
        waiting: tasks whose trainings are not finished.
    """

    done: tuple[str, ...]
    before: tuple[str, ...]
    failed: Mapping[str, str]
    waiting: tuple[str, ...]


@dataclass
class _Running:
    task: Task
    process: subprocess.Popen[bytes]
    slot: int
    started: float


def run_tasks(
    tasks: Sequence[Task],
    folder: StudyFolder,
    watcher: Watcher,
    *,
    jobs: int = 1,
    gpus: Sequence[str] = (),
) -> Progress:
    """Run every task that is not done, as soon as the trainings that it needs are finished.

    A task that fails is reported and the others go on. Ctrl-C stops the tasks that run, each resumably.

    Args:
        tasks: in order of preference.
        folder: of the study.
        watcher: hears of progress.
        jobs: processes at a time; cores are shared evenly among them unless OMP_NUM_THREADS is set.
        gpus: one job at a time on each of these (CUDA_VISIBLE_DEVICES), in place of `jobs`.

    Raises:
        RunInterruptedError: the user pressed Ctrl-C.
        StoreError: the folder cannot be written.
    """
    slots = list(range(len(gpus) if gpus else jobs))
    before = tuple(task.name for task in tasks if task.done())
    left = [task for task in tasks if task.name not in before]
    total, begun = len(left), 0
    running: list[_Running] = []
    done: list[str] = []
    failed: dict[str, str] = {}
    try:
        while True:
            for one in list(running):
                code = one.process.poll()
                if code is None:
                    continue
                running.remove(one)
                slots.append(one.slot)
                failure = _close(one, code, folder, watcher)
                if failure:
                    failed[one.task.name] = failure
                else:
                    done.append(one.task.name)
            while slots:
                task = next((task for task in left if _ready(task, folder)), None)
                if task is None:
                    break
                left.remove(task)
                begun += 1
                slot = min(slots)
                slots.remove(slot)
                watcher.started(task, begun, total)
                running.append(_start(task, folder, slot, _environment(jobs, gpus, slot)))
            if not running:
                break
            time.sleep(_POLL)
    except KeyboardInterrupt:
        _stop(running)
        raise RunInterruptedError(
            "the study was stopped; what is finished is kept. Go on with the same command."
        ) from None
    except BaseException:
        _stop(running)
        raise
    return Progress(tuple(done), before, failed, tuple(task.name for task in left))


def check(progress: Progress, folder: StudyFolder) -> None:
    """See that nothing failed.

    Raises:
        InfrastructureError: a task did; the first is named.
    """
    if progress.failed:
        name, line = next(iter(progress.failed.items()))
        count = len(progress.failed)
        more = f" (and {count - 1} more)" if count > 1 else ""
        raise InfrastructureError(
            f"{name} failed{more}: {line or 'it printed nothing'} Its log is {folder.log(name)}; the same command "
            "tries again."
        )


def _ready(task: Task, folder: StudyFolder) -> bool:
    return task.stage == "train" or all(folder.is_trained(training) for training in task.trainings)


def _environment(jobs: int, gpus: Sequence[str], slot: int) -> dict[str, str]:
    found = dict(os.environ)
    found.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // max(1, len(gpus) or jobs))))
    if gpus:
        found["CUDA_VISIBLE_DEVICES"] = gpus[slot]
    return found


def _start(task: Task, folder: StudyFolder, slot: int, environment: Mapping[str, str]) -> _Running:
    task.prepare()
    log = folder.log(task.name)
    with store_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            process = subprocess.Popen(
                # The keeper ends the command when this process ends, even by kill -9; Ctrl-C comes to us alone.
                [sys.executable, "-S", "-E", keeper.__file__, sys.executable, "-m", "nbench", *task.arguments],
                cwd=folder.path,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
    return _Running(task, process, slot, time.monotonic())


def _close(one: _Running, code: int, folder: StudyFolder, watcher: Watcher) -> str:
    seconds = time.monotonic() - one.started
    failure = ""
    if code or not one.task.done():
        failure = _last_line(folder, one.task) or f"it ended with exit code {code}."
    else:
        folder.note(_record(one.task, seconds))
    watcher.ended(one.task, seconds, failure)
    return failure


def _record(task: Task, seconds: float) -> dict[str, object]:
    return {
        "task": task.name,
        "stage": task.stage,
        "command": command_line(task.arguments),
        "seconds": round(seconds, 1),
    }


def _last_line(folder: StudyFolder, task: Task) -> str:
    text = folder.log(task.name).read_text(encoding="utf-8", errors="replace")
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _stop(running: Sequence[_Running]) -> None:
    """Stop what runs: each keeper ends its command once its standard input is closed."""
    for one in running:
        if one.process.stdin is not None:
            one.process.stdin.close()
    for one in running:
        one.process.wait()
