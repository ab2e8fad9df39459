from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from study_parts import study_content

from nbench.errors import InfrastructureError, RunInterruptedError
from nbench.study.config import make_study
from nbench.study.folder import StudyFolder
from nbench.study.plan import make_plan
from nbench.study.schedule import Progress, check, run_tasks
from nbench.study.tasks import Stage, Task


class _Watcher:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def started(self, task: Task, place: int, total: int) -> None:
        self.heard.append(f"{place}/{total} {task.name}")

    def ended(self, task: Task, seconds: float, failure: str) -> None:
        self.heard.append(f"{task.name}: {failure or 'done'}")


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    found = StudyFolder(tmp_path / "study")
    found.path.mkdir()
    return found


def _task(folder: StudyFolder, name: str, *arguments: str, makes: bool = True, stage: Stage = "train") -> Task:
    """A task that runs `nbench ARGUMENTS` and counts as done once it has printed something."""
    log = folder.log(name)
    return Task(
        name=name,
        stage=stage,
        arguments=arguments,
        group="group",
        trainings=(),
        done=lambda: makes and log.is_file() and log.stat().st_size > 0,
        prepare=lambda: None,
    )


def test_tasks_run_as_public_commands_in_the_study_folder_and_are_noted_with_their_time(folder: StudyFolder) -> None:
    watcher = _Watcher()
    progress = run_tasks([_task(folder, "list", "prompts", "list")], folder, watcher)
    assert progress == Progress(("list",), (), {}, ())
    assert "core" in folder.log("list").read_text(encoding="utf-8")
    (record,) = folder.noted()
    assert record["command"] == "nbench prompts list"
    assert record["seconds"] > 0
    assert watcher.heard == ["1/1 list", "list: done"]


def test_what_is_done_is_not_done_again(folder: StudyFolder) -> None:
    task = _task(folder, "list", "prompts", "list")
    run_tasks([task], folder, _Watcher())
    watcher = _Watcher()
    progress = run_tasks([task], folder, watcher)
    assert progress.before == ("list",)
    assert watcher.heard == []
    assert len(folder.noted()) == 1


def test_a_failure_is_reported_with_its_last_line_and_the_others_go_on(folder: StudyFolder) -> None:
    bad = _task(folder, "bad", "prompts", "show", "no-such-set")
    good = _task(folder, "good", "prompts", "list")
    progress = run_tasks([bad, good], folder, _Watcher(), jobs=2)
    assert progress.done == ("good",)
    assert "no-such-set" in progress.failed["bad"]
    with pytest.raises(InfrastructureError, match=r"bad failed: .*no-such-set.*the same command tries"):
        check(progress, folder)
    assert [record["task"] for record in folder.noted()] == ["good"]


def test_a_command_that_ends_well_without_its_result_has_failed(folder: StudyFolder) -> None:
    progress = run_tasks([_task(folder, "nothing", "prompts", "list", makes=False)], folder, _Watcher())
    assert list(progress.failed) == ["nothing"]


def test_an_evaluation_waits_for_its_trainings(folder: StudyFolder) -> None:
    training = make_plan(make_study(study_content())).trainings[0]
    waits = Task("looks", "evaluate", ("prompts", "list"), "g", (training,), lambda: False, lambda: None)
    progress = run_tasks([waits], folder, _Watcher())
    assert progress == Progress((), (), {}, ("looks",))
    assert not folder.log("looks").exists()


def test_ctrl_c_stops_what_runs_and_says_how_to_go_on(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []
    usual = subprocess.Popen

    def spy(*arguments: object, **named: object) -> subprocess.Popen[bytes]:
        begun.append(usual(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))  # ends as its input does
        return begun[-1]

    monkeypatch.setattr("nbench.study.schedule.subprocess.Popen", spy)

    slept = time.sleep
    pressed: list[bool] = []

    def press_once(seconds: float) -> None:
        if not pressed:
            pressed.append(True)
            raise KeyboardInterrupt
        slept(seconds)

    monkeypatch.setattr(time, "sleep", press_once)
    with pytest.raises(RunInterruptedError, match="same command"):
        run_tasks([_task(folder, "long", "prompts", "list")], folder, _Watcher())
    assert begun[0].returncode is not None


def test_each_gpu_gets_one_process_that_sees_it_alone(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    usual = subprocess.Popen

    def spy(command: list[str], **named: object) -> subprocess.Popen[bytes]:
        environment = named["env"]
        assert isinstance(environment, dict)
        seen.append(environment["CUDA_VISIBLE_DEVICES"])
        return usual(command, **named)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr("nbench.study.schedule.subprocess.Popen", spy)
    tasks = [_task(folder, f"list-{i}", "prompts", "list") for i in range(2)]
    run_tasks(tasks, folder, _Watcher(), gpus=["3", "5"])
    assert seen == ["3", "5"]


def test_cores_are_shared_among_the_processes(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbench.study import schedule

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert schedule._environment(2, (), 0)["OMP_NUM_THREADS"] == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert schedule._environment(2, (), 0)["OMP_NUM_THREADS"] == "1"
