"""The commands that a study consists of, each a public `nbench` command, and what must be there before it can run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import yaml

from nbench.normguard.config import GrpoConfig
from nbench.scoring.differentiable import differentiable_scorers
from nbench.study.folder import StudyFolder
from nbench.study.plan import BASE, Group, Plan, PlannedRun, Training, suite_content

Stage = Literal["train", "evaluate", "analyze", "report"]
STAGES: tuple[Stage, ...] = ("train", "evaluate", "analyze", "report")


@dataclass(frozen=True)
class Task:
    """One command of a study.

    Attributes:
        name: of its log.
        stage: that it belongs to.
        arguments: after `nbench`; paths are relative to the study's folder, where it runs.
        group: whose work it is.
        trainings: what must be finished before, and what it makes if it is a training.
        done: whether it has been done.
        prepare: writes what the command reads.
    """

    name: str
    stage: Stage
    arguments: tuple[str, ...]
    group: str
    trainings: tuple[Training, ...]
    done: Callable[[], bool]
    prepare: Callable[[], None]


def make_tasks(plan: Plan, folder: StudyFolder) -> tuple[Task, ...]:
    """All tasks but the report, group by group, so that a group is looked at as soon as it is trained."""
    differentiable = frozenset(differentiable_scorers())
    return tuple(task for group in plan.groups for task in _of_group(plan, folder, group, differentiable))


def _of_group(plan: Plan, folder: StudyFolder, group: Group, differentiable: Collection[str]) -> Iterator[Task]:
    for training in group.trainings:
        yield _train(folder, training)
    for run in plan.runs():
        if run.group.name == group.name:
            yield _run(plan, folder, run)
    yield from _adjoint(plan, folder, group, differentiable)
    yield from _ratios(plan, folder, group)


def _train(folder: StudyFolder, training: Training) -> Task:
    config, out = folder.config(training), folder.training(training).path

    def prepare() -> None:
        folder.write(config, training.config.to_yaml())

    return Task(
        name=f"train-{training.name}",
        stage="train",
        arguments=("train", folder.relative(config), "--out", folder.relative(out)),
        group=training.group,
        trainings=(training,),
        done=lambda: folder.is_trained(training),
        prepare=prepare,
    )


def _run(plan: Plan, folder: StudyFolder, run: PlannedRun) -> Task:
    path = folder.suite(run)
    loras = {name: folder.relative(folder.lora(training, epoch)) for name, (training, epoch) in run.checkpoints.items()}
    content = suite_content(plan, run, loras, folder.relative(folder.prompts))

    def prepare() -> None:
        # A suite's paths lead from its own folder.
        moved = {**content, "prompts": f"../{content['prompts']}"}
        moved["checkpoints"] = [
            {**one, **({"lora": f"../{one['lora']}"} if one.get("lora") else {})} for one in content["checkpoints"]
        ]
        folder.write(path, yaml.safe_dump(moved, sort_keys=False, allow_unicode=True, width=110))

    used = tuple(dict.fromkeys(training for training, _ in run.checkpoints.values()))
    return Task(
        name=f"run-{run.name}",
        stage="evaluate",
        arguments=("run", folder.relative(path), "--store", "store"),
        group=run.group.name,
        trainings=used,
        done=lambda: folder.is_run(run, content),
        prepare=prepare,
    )


def _analysis(plan: Plan, folder: StudyFolder, group: Group, steps: int) -> list[str]:
    """The arguments that both analyses share."""
    model = group.trainings[0].config.model
    found = ["--prompts", folder.relative(folder.prompts), "--steps", str(steps)]
    if plan.study.analyses.limit is not None:
        found += ["--limit", str(plan.study.analyses.limit)]
    if model.guidance is not None:
        found += ["--guidance", str(model.guidance)]
    if model.height is not None:
        found += ["--size", f"{model.height}x{model.width}"]
    found += ["--seeds", str(plan.study.analyses.seeds), "--batch-size", str(plan.study.evaluation.batch_size)]
    return [*found, "--out", folder.relative(folder.analysis(group.name))]


def _adjoint(plan: Plan, folder: StudyFolder, group: Group, differentiable: Collection[str]) -> Iterator[Task]:
    steps, terms = plan.study.analyses.adjoint_steps, plan.study.rewards[group.reward]
    unguarded = group.of(plan.study.claims.unguarded)
    if steps is None or not unguarded or len(terms) != 1 or terms[0].scorer not in differentiable:
        return
    base = group.trainings[0].config.model.base
    checkpoints = [f"{one.checkpoint}={base}+{folder.relative(folder.lora(one, None))}" for one in unguarded]
    arguments = [part for one in (f"{BASE}={base}", *checkpoints) for part in ("--checkpoint", one)]
    arguments += ["--reward", terms[0].scorer, *_analysis(plan, folder, group, steps)]
    yield _analyze(folder, "adjoint", arguments, group, unguarded)


def _ratios(plan: Plan, folder: StudyFolder, group: Group) -> Iterator[Task]:
    steps, unguarded = plan.study.analyses.ratio_steps, group.of(plan.study.claims.unguarded)
    if steps is None or not unguarded or group.method != "grpo":
        return
    method = unguarded[0].config.method
    assert isinstance(method, GrpoConfig)
    base = unguarded[0].config.model.base
    arguments: list[str] = []
    for one in unguarded:
        epoch = plan.study.analyses.ratio_epoch or one.config.checkpoint_every
        lora = folder.lora(one, min(epoch, one.config.optim.epochs))
        arguments += ["--checkpoint", f"{one.checkpoint}={base}+{folder.relative(lora)}"]
    arguments += ["--eta", str(method.eta), "--clip", str(method.clip), *_analysis(plan, folder, group, steps)]
    yield _analyze(folder, "ratios", arguments, group, unguarded)


def _analyze(
    folder: StudyFolder, name: str, arguments: Sequence[str], group: Group, trainings: tuple[Training, ...]
) -> Task:
    """An analysis, which is done again, in place of the old one, when the study asks for another."""
    whole = ("analyze", name, *arguments)
    files = [folder.analysis(group.name) / f"{name}.{ending}" for ending in ("json", "parquet", "svg")]
    asked, command = files[0].with_suffix(".command"), command_line(whole) + "\n"

    def as_asked() -> bool:
        return not asked.is_file() or asked.read_text(encoding="utf-8") == command

    def prepare() -> None:
        if not as_asked():
            for file in files:
                file.unlink(missing_ok=True)
        folder.write(asked, command)

    def done() -> bool:
        return files[0].is_file() and as_asked()

    return Task(f"{name}-{group.name}", "analyze", whole, group.name, trainings, done, prepare)


def command_line(arguments: Sequence[str]) -> str:
    """A command as it is given to a shell."""
    return shlex.join(["nbench", *arguments])
