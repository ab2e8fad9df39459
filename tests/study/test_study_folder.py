from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from study_parts import study_content

from nbench.errors import CardMismatchError, UsageError
from nbench.runs.suite import read_suite
from nbench.study.config import make_study, read_study
from nbench.study.folder import StudyFolder
from nbench.study.plan import make_plan
from nbench.study.tasks import Task, make_tasks


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study")


def test_a_study_is_written_so_that_it_reads_back_equal(folder: StudyFolder) -> None:
    study = make_study(study_content())
    folder.begin(study)
    assert read_study(folder.study) == study


def test_a_folder_with_other_settings_is_refused_by_name(folder: StudyFolder) -> None:
    folder.begin(make_study(study_content()))
    changed = study_content()
    changed["settings"] = {**changed["settings"], "optim.epochs": 3}
    with pytest.raises(CardMismatchError, match="other settings"):
        folder.begin(make_study(changed))


def test_a_study_may_grow(folder: StudyFolder) -> None:
    folder.begin(make_study(study_content()))
    grown = study_content()
    grown["grid"] = [{**grown["grid"][0], "seeds": [0, 1]}]
    folder.begin(make_study(grown))
    assert read_study(folder.study).grid[0].seeds == (0, 1)


def test_a_folder_with_something_else_is_refused(folder: StudyFolder) -> None:
    folder.path.mkdir()
    (folder.path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="holds files, but no study"):
        folder.begin(make_study(study_content()))


def test_a_training_is_finished_once_it_has_the_epochs_that_are_asked_for(folder: StudyFolder) -> None:
    training = make_plan(make_study(study_content())).trainings[0]
    result = folder.training(training).result
    assert not folder.is_trained(training)
    result.parent.mkdir(parents=True)
    result.write_text(json.dumps({"epochs": 1}))
    assert not folder.is_trained(training)
    result.write_text(json.dumps({"epochs": 2}))
    assert folder.is_trained(training)
    result.write_text("{")
    assert not folder.is_trained(training)


def test_a_torn_last_line_of_the_task_list_is_left_out(folder: StudyFolder) -> None:
    folder.begin(make_study(study_content()))
    folder.note({"task": "a", "stage": "train", "command": "nbench train a", "seconds": 1.0})
    with folder.journal.open("a") as file:
        file.write('{"task": "b", "st')
    assert [record["task"] for record in folder.noted()] == ["a"]
    folder.note({"task": "c", "stage": "train", "command": "nbench train c", "seconds": 1.0})
    assert [record["task"] for record in folder.noted()] == ["a", "c"]


def test_the_suite_of_a_run_leads_from_its_own_place_to_the_trained_weights(folder: StudyFolder) -> None:
    plan = make_plan(make_study(study_content()))
    run = next(one for one in make_tasks(plan, folder) if one.name == "run-pocket-sd3-nft-aesthetic")
    for training in plan.trainings:
        folder.lora(training, None).mkdir(parents=True)
    folder.prompts.parent.mkdir(parents=True)
    folder.prompts.write_text("[]")
    run.prepare()
    suite = read_suite(folder.path / run.arguments[1])
    assert [one.name for one in suite.checkpoints] == ["base", "unguarded-s0", "normguard-s0"]
    assert [one.lora for one in suite.checkpoints] == [None, *(str(folder.lora(t, None)) for t in plan.trainings)]
    assert suite.prompts == str(folder.prompts)
    assert suite.norm_ratio
    assert suite.guidance == plan.trainings[0].config.model.guidance


def test_no_path_in_a_config_a_suite_or_a_command_depends_on_where_the_folder_lies(folder: StudyFolder) -> None:
    plan = make_plan(make_study(study_content()))
    for task in make_tasks(plan, folder):
        if task.stage != "analyze":
            task.prepare()
        assert not any(str(folder.path) in part for part in task.arguments), task
    for path in folder.path.rglob("*.yaml"):
        assert str(folder.path) not in path.read_text(encoding="utf-8"), path


def test_configs_of_a_pair_differ_in_guard_and_name_alone(folder: StudyFolder) -> None:
    plan = make_plan(make_study(study_content()))
    for task in make_tasks(plan, folder):
        if task.stage == "train":
            task.prepare()
    unguarded, guarded = (yaml.safe_load(folder.config(one).read_text()) for one in plan.trainings)
    assert {key for key in unguarded if unguarded[key] != guarded[key]} == {"name", "guards"}


def test_a_complete_run_counts_only_with_the_suite_that_is_asked_for(folder: StudyFolder) -> None:
    plan = make_plan(make_study(study_content()))
    for training in plan.trainings:
        folder.lora(training, None).mkdir(parents=True)
    folder.prompts.parent.mkdir(parents=True)
    folder.prompts.write_text("[]")
    task = next(one for one in make_tasks(plan, folder) if one.name == "run-pocket-sd3-nft-aesthetic")
    task.prepare()
    run = folder.store.run("pocket-sd3-nft-aesthetic")
    run.path.mkdir(parents=True)
    suite = read_suite(folder.path / task.arguments[1])
    run.suite.write_text(suite.to_yaml())
    assert not task.done()
    run.done.write_text("{}")
    assert task.done()
    run.suite.write_text(suite.model_copy(update={"steps": (2,)}).to_yaml())
    assert not task.done()


def test_an_analysis_is_done_again_when_another_is_asked_for(folder: StudyFolder) -> None:
    def task(**analyses: int) -> Task:
        content = study_content()
        content["analyses"] = {**content["analyses"], **analyses}
        tasks = make_tasks(make_plan(make_study(content)), folder)
        return next(one for one in tasks if one.name.startswith("adjoint"))

    first, other = task(), task(seeds=2)
    first.prepare()
    found = folder.analysis(first.group) / "adjoint.json"
    assert not first.done()
    found.write_text("{}")
    assert first.done()
    assert not other.done()
    first.prepare()
    assert found.exists()
    other.prepare()
    assert not found.exists()
