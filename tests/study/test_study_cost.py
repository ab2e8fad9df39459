"""What whole studies cost, and which speeds of this machine that follows from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from study_parts import study_content
from train_fakes import train_config

import nbench.study.tasks as tasks_module
from nbench.normguard.config import TrainConfig
from nbench.runs.facts import Facts, Speed, write_facts
from nbench.runs.store import Store
from nbench.runs.suite import make_suite
from nbench.study.config import make_study, read_study
from nbench.study.cost import POCKET_FORWARD_SECONDS, StudyCost, estimate_study
from nbench.study.cost_bases import find_base
from nbench.study.cost_speed import Speeds, measure
from nbench.study.cost_work import epoch_work, evaluation_epochs, evaluation_work, sweep
from nbench.study.folder import StudyFolder
from nbench.study.plan import Plan, make_plan, suite_content
from nbench.study.tasks import make_tasks


@pytest.fixture(autouse=True)
def differentiable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking every scorer takes a second."""
    monkeypatch.setattr(tasks_module, "differentiable_scorers", lambda: ["pocket-aesthetic"])


def test_evaluations_fall_on_their_epochs_and_the_end(sd3_folder: Path) -> None:
    assert evaluation_epochs(train_config(sd3_folder, optim__epochs=5)) == (5,)
    assert evaluation_epochs(train_config(sd3_folder, optim__epochs=6, evaluate__every=2)) == (2, 4, 6)
    assert evaluation_epochs(train_config(sd3_folder, optim__epochs=5, evaluate__every=2)) == (2, 4, 5)


def test_a_sweep_shares_its_first_forward() -> None:
    assert sweep([8]) == 8
    assert sweep([4, 8, 8]) == 11
    assert sweep([]) == 0


def small_plan(base: str = "pocket-sd3", **settings: Any) -> Plan:
    content = study_content()
    content["settings"] |= {"model.base": base, **settings}
    return make_plan(make_study(content))


def costs(plan: Plan, out: Path, **options: Any) -> StudyCost:
    folder = StudyFolder(out)
    return estimate_study(plan, folder, make_tasks(plan, folder), **options)


@pytest.mark.parametrize(("name", "trainings", "days"), [("sd35-medium", 21, (30, 150)), ("flux1-dev", 17, (60, 250))])
def test_bundled_studies_of_public_models_have_a_cost(
    name: str, trainings: int, days: tuple[int, int], tmp_path: Path
) -> None:
    plan = make_plan(read_study(name))
    found = costs(plan, tmp_path / "none")
    assert len(found.of("train")) == trainings
    assert {one.task for one in found.tasks} == {one.name for one in make_tasks(plan, StudyFolder(tmp_path / "none"))}
    assert {one.basis for one in found.tasks} == {"operations"}
    seconds, size = found.seconds(), found.size()
    assert seconds is not None and size is not None
    assert days[0] < seconds / 86400 < days[1]
    assert 1e10 < size < 1e12
    faster = costs(plan, tmp_path / "none", tflops=800).seconds()
    assert faster == pytest.approx(seconds / 2)
    assert not (tmp_path / "none").exists()


def test_what_was_trained_and_run_here_gives_the_speed(tmp_path: Path) -> None:
    plan = small_plan()
    out = tmp_path / "studies" / "one"
    typical = costs(plan, out)
    assert {one.basis for one in typical.tasks} == {"typical"}
    assert typical.seconds() == pytest.approx(
        POCKET_FORWARD_SECONDS * sum(one.work.equivalents() for one in typical.tasks)
    )
    first, second = plan.trainings
    write_training(out, first.name, first.config, seconds=[9.0, 7.0, 11.0])
    for study in (out, tmp_path / "studies" / "two"):  # the second has nothing of its own: it looks beside
        (out / "study.yaml").write_text("name: one")
        found = {one.task: one for one in costs(plan, study).tasks}
        base = find_base(first.config.model)
        assert base is not None
        per_forward = 9.0 / epoch_work(first.config, base).equivalents()
        held = evaluation_work(first.config, base, 2).forwards
        line = found[f"train-{first.name}"]
        assert line.basis == "measured"
        assert line.seconds == pytest.approx(2 * 9.0 + held * per_forward)
        guarded = found[f"train-{second.name}"]  # another arm of the method, with more forwards: by its share of them
        assert guarded.seconds == pytest.approx(
            per_forward * (2 * epoch_work(second.config, base).equivalents() + held)
        )
        run = found["run-pocket-sd3-nft-aesthetic"]
        assert run.seconds == pytest.approx(per_forward * run.work.forwards)


def test_a_run_of_the_base_gives_seconds_per_forward_and_bytes_per_picture(tmp_path: Path) -> None:
    plan = small_plan(**{"model.guidance": 3.0})
    planned = next(plan.runs())
    store = Store(tmp_path / "store")
    run = store.run(planned.name)
    run.path.mkdir(parents=True)
    suite = make_suite(suite_content(plan, planned, dict.fromkeys(planned.checkpoints, "somewhere"), "pocket"))
    run.suite.write_text(suite.to_yaml())
    names = ("base", *planned.checkpoints)
    run.card.write_text(json.dumps({"checkpoints": {name: {"weights": f"w{i}"} for i, name in enumerate(names)}}))
    for i in range(len(names)):  # those of LoRAs are slower, since norm ratios ask the base too
        speed = Speed(step_seconds=0.5 + i, picture_bytes=1000.0)
        write_facts(store, f"w{i}", Facts("sd3", 4.5, (64, 64), 16, speed={"cpu:float32:64x64": speed}))
    found = {one.task: one for one in costs(plan, tmp_path).tasks}
    line = found[f"run-{planned.name}"]
    assert line.basis == "measured"
    assert line.seconds == pytest.approx(0.25 * line.work.forwards)  # guidance 3 takes two forwards a step
    assert line.size == 1000.0 * line.work.stored
    small = costs(small_plan(**{"model.height": 32, "model.width": 32}), tmp_path)
    assert {one.basis for one in small.tasks} == {"typical"}  # pictures of another size say nothing


def test_what_is_damaged_or_of_another_kind_is_passed_over(tmp_path: Path) -> None:
    plan = small_plan()
    for name, config, log in (
        ("no-config", None, '{"epoch": 0, "seconds": {"epoch": 1}}'),
        ("no-yaml", "a: [", '{"epoch": 0, "seconds": {"epoch": 1}}'),
        ("no-seconds", plan.trainings[0].config.to_yaml(), '{"epoch": 0}'),
        ("no-epoch", plan.trainings[0].config.to_yaml(), ""),
    ):
        folder = tmp_path / "trainings" / name
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_text(log)
        if config is not None:
            (folder / "config.yaml").write_text(config)
    run = Store(tmp_path / "store").run("x")
    run.path.mkdir(parents=True)
    run.card.write_text("{}")
    assert measure(tmp_path) == Speeds()
    assert {one.basis for one in costs(plan, tmp_path).tasks} == {"typical"}


def test_finished_tasks_take_what_they_took_and_are_not_left_to_do(tmp_path: Path) -> None:
    plan = small_plan()
    first, second = plan.trainings
    write_training(tmp_path, first.name, first.config, seconds=[9.0])
    (tmp_path / "trainings" / first.name / "result.json").write_text(json.dumps({"epochs": 2}))
    lines = [
        {"task": f"train-{first.name}", "stage": "train", "seconds": 33.0},
        {"task": f"train-{second.name}", "stage": "train", "seconds": 44.0},  # its folder is gone
    ]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = costs(plan, tmp_path)
    done, again = found.of("train")
    assert (done.basis, done.seconds) == ("done", 33.0)
    assert again.basis == "measured" and again.seconds != 44.0
    assert found.seconds("train") == pytest.approx(33.0 + (again.seconds or 0.0))
    assert found.seconds("train", remaining=True) == again.seconds


def test_a_base_that_is_not_here_has_forwards_but_no_time(tmp_path: Path) -> None:
    plan = small_plan("somebody/a-model")
    found = costs(plan, tmp_path)
    assert found.unknown == ("somebody/a-model",)
    assert found.seconds() is None and found.flops() is None and found.size() is None
    assert {one.basis for one in found.tasks} == {"unknown"}
    assert found.work() == costs(small_plan(), tmp_path).work()  # at guidance 1


def test_only_the_tasks_that_are_asked_for_are_counted(tmp_path: Path) -> None:
    plan, folder = small_plan(), StudyFolder(tmp_path)
    chosen = [task for task in make_tasks(plan, folder) if task.stage == "evaluate"]
    found = estimate_study(plan, folder, chosen)
    assert [one.task for one in found.tasks] == [task.name for task in chosen]
    assert not found.of("train")


def write_training(out: Path, name: str, config: TrainConfig, *, seconds: list[float]) -> None:
    folder = out / "trainings" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml())
    lines = [json.dumps({"epoch": i, "seconds": {"epoch": taken}}) for i, taken in enumerate(seconds)]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")
