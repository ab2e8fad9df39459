"""What a study would cost: for every task what there is to compute, how long that takes, and what it leaves on disk.

Time is measured where this study, or another one beside it, has trained or sampled the same base; that of the bundled
pocket checkpoints is typical of a CPU's core; else it follows from floating-point operations of the transformer alone,
over what a device is said to reach. Decoding, text encoders and scorers (judges above all) come on top of the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nbench.flow.weights import BUNDLED
from nbench.normguard.config import ModelConfig
from nbench.study.cost_bases import Base, find_base
from nbench.study.cost_speed import Speeds, measure, measure_beside
from nbench.study.cost_work import (
    HeldOut,
    Work,
    adjoint_work,
    epoch_work,
    evaluation_work,
    ratio_work,
    run_works,
    total,
    training_bytes,
)
from nbench.study.folder import StudyFolder
from nbench.study.plan import Plan, Training
from nbench.study.tasks import Stage, Task

#: where seconds come from
Basis = Literal["done", "measured", "typical", "operations", "unknown"]

#: bf16, without sparsity, that dense layers of this size reach at most on one H100, in 10^12 per second
DEFAULT_TFLOPS = 400.0
#: share of it that whole trainings reach
DEFAULT_UTILISATION = 0.35
#: devices that the public codes of DiffusionNFT and AWM name for one training
PUBLISHED_DEVICES = 8

#: per forward of a pocket checkpoint, or what counts as one: trainings by all methods took 3.7 to 6 ms with their
#: rewards, and runs 4 ms, on one core of a server's CPU
POCKET_FORWARD_SECONDS = 0.0045

#: bytes per pixel of a PNG where none was made yet, as for `nbench run --dry-run`
_PNG_BYTES = 1.7


@dataclass(frozen=True)
class TaskCost:
    """One task of a study.

    Attributes:
        task: its name.
        stage: that it belongs to.
        base: in the study's config.
        work: what is computed.
        flops: floating-point operations of the transformer; None of a base that is not known.
        seconds: on one device, or on this machine where it was measured; None where nothing tells.
        basis: where seconds come from; "done" is what the finished task took, as far as it was noted.
        size: bytes that it leaves, where the base is known.
    """

    task: str
    stage: Stage
    base: str
    work: Work
    flops: float | None
    seconds: float | None
    basis: Basis
    size: float | None

    @property
    def kind(self) -> str:
        """The task's command: "train", "run", "adjoint" or "ratios"."""
        return self.task.partition("-")[0]


@dataclass(frozen=True)
class StudyCost:
    """All of a study.

    Attributes:
        study: its name.
        tasks: in the order in which they are done.
        tflops: of a device, in 10^12 operations per second.
        utilisation: share of them that is reached.
        unknown: bases of which nothing is known but what is to be computed; guidance may double that.
    """

    study: str
    tasks: tuple[TaskCost, ...]
    tflops: float = DEFAULT_TFLOPS
    utilisation: float = DEFAULT_UTILISATION
    unknown: tuple[str, ...] = ()

    def of(self, stage: Stage | None = None) -> tuple[TaskCost, ...]:
        """Tasks of a stage; None is all."""
        return tuple(one for one in self.tasks if stage in (None, one.stage))

    def work(self, stage: Stage | None = None) -> Work:
        """What a stage computes."""
        return total(one.work for one in self.of(stage))

    def seconds(self, stage: Stage | None = None, *, remaining: bool = False) -> float | None:
        """Of one device; None where a task's are not known.

        Args:
            stage: None is all.
            remaining: leave out tasks that are done.
        """
        return _sum([one.seconds for one in self.of(stage) if not (remaining and one.basis == "done")])

    def flops(self, stage: Stage | None = None) -> float | None:
        """Of the transformer."""
        return _sum([one.flops for one in self.of(stage)])

    def size(self, stage: Stage | None = None) -> float | None:
        """Bytes on disk."""
        return _sum([one.size for one in self.of(stage)])


def estimate_study(
    plan: Plan,
    folder: StudyFolder,
    tasks: Sequence[Task],
    *,
    tflops: float = DEFAULT_TFLOPS,
    utilisation: float = DEFAULT_UTILISATION,
) -> StudyCost:
    """Say what tasks of a study cost. Nothing is loaded and nothing is written.

    Args:
        plan: of the study.
        folder: of the study; what is finished there tells how fast this machine is.
        tasks: those that are asked for.
        tflops: of a device, in 10^12 operations per second, where nothing was measured.
        utilisation: share of them that is reached.

    Raises:
        UsageError, PromptSetError: a training's prompts are missing.
        CheckpointError: a base is a folder that is no checkpoint.
    """
    estimator = _Estimator(plan, folder, tasks)
    lines = estimator.timed(list(estimator.lines()), 1e12 * tflops * utilisation)
    models = {one.base: one.config.model.base for one in plan.trainings}
    unknown = tuple(dict.fromkeys(models[one.base] for one in lines if one.flops is None))
    return StudyCost(plan.study.name, tuple(lines), tflops, utilisation, unknown)


class _Estimator:
    def __init__(self, plan: Plan, folder: StudyFolder, tasks: Sequence[Task]) -> None:
        self._plan = plan
        self._models: dict[str, ModelConfig] = {one.base: one.config.model for one in plan.trainings}
        self._bases = {name: find_base(model) for name, model in self._models.items()}
        self._speeds = (measure(folder.path), measure_beside(folder.path))
        self._held_out = HeldOut()
        self._trainings = {f"train-{one.name}": one for one in plan.trainings}
        self._wanted = {task.name for task in tasks}
        self._done = {task.name for task in tasks if task.done()}
        self._took = {
            str(one["task"]): float(one["seconds"]) for one in folder.noted() if str(one["task"]) in self._done
        }

    def lines(self) -> Iterator[TaskCost]:
        """The tasks, group by group, without seconds."""
        runs = list(run_works(self._plan, self._bases))
        for group in self._plan.groups:
            base = self._bases[group.base]
            for one in group.trainings:
                if f"train-{one.name}" in self._wanted:
                    yield self._training(one, base)
            for run, work in runs:
                if run.group.name == group.name and f"run-{run.name}" in self._wanted:
                    yield self._line(f"run-{run.name}", "evaluate", group.base, work)
            for name, count in (("adjoint", adjoint_work), ("ratios", ratio_work)):
                if f"{name}-{group.name}" in self._wanted:
                    yield self._line(f"{name}-{group.name}", "analyze", group.base, count(self._plan, group, base))

    def _training(self, training: Training, base: Base | None) -> TaskCost:
        config = training.config
        evaluation = evaluation_work(config, base, self._held_out.count(config))
        work = epoch_work(config, base).times(config.optim.epochs) + evaluation
        line = self._line(f"train-{training.name}", "train", training.base, work, config.model.gradient_checkpointing)
        if base is None or line.size is None:
            return replace(line, size=None)
        return replace(line, size=line.size + training_bytes(config, base.lora_parameters(config.model)))

    def _line(self, task: str, stage: Stage, name: str, work: Work, checkpointing: bool = False) -> TaskCost:
        model, base = self._models[name], self._bases[name]
        flops = None
        if base is not None:
            flops = base.forward_flops(model) * work.equivalents(checkpointing=checkpointing)
        picture = self._measured(lambda speeds: speeds.picture_bytes(model))
        if picture is None and base is not None:
            picture = (model.height or base.resolution[0]) * (model.width or base.resolution[1]) * _PNG_BYTES
        size = None if picture is None else work.stored * picture
        return TaskCost(task, stage, name, work, flops, None, "unknown", size)

    def timed(self, lines: list[TaskCost], rate: float) -> list[TaskCost]:
        """The same with seconds, at `rate` operations per second where nothing was measured."""
        found = []
        for line in lines:
            measured = self._took.get(line.task, self._seconds(line, lines))
            if measured is not None:
                line = replace(line, seconds=measured, basis="measured")
            elif self._models[line.base].base in BUNDLED:
                typical = POCKET_FORWARD_SECONDS * line.work.equivalents()
                line = replace(line, seconds=typical, basis="typical")
            elif line.flops is not None:
                line = replace(line, seconds=line.flops / rate, basis="operations")
            found.append(replace(line, basis="done") if line.task in self._done else line)
        return found

    def _seconds(self, line: TaskCost, lines: list[TaskCost]) -> float | None:
        """As measured: of trainings by their logs, of others by finished tasks like them, else by any forwards."""
        model = self._models[line.base]
        per_forward = self._measured(lambda speeds: speeds.forward_seconds(model))
        training = self._trainings.get(line.task)
        if training is not None:
            config = training.config
            epoch = self._measured(lambda speeds: speeds.epoch_seconds(config))
            if epoch is None:
                return None
            evaluation = evaluation_work(config, self._bases[line.base], self._held_out.count(config))
            return epoch * config.optim.epochs + evaluation.forwards * (per_forward or 0.0)
        alike = [one for one in lines if one.kind == line.kind and one.base == line.base and one.task in self._took]
        forwards = sum(one.work.equivalents() for one in alike)
        if forwards:
            per_forward = sum(self._took[one.task] for one in alike) / forwards
        return None if per_forward is None else per_forward * line.work.equivalents()

    def _measured(self, ask: Callable[[Speeds], float | None]) -> float | None:
        """What this study tells, else what those beside it do."""
        own, others = self._speeds
        found = ask(own)
        return ask(others) if found is None else found


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
