"""What a study would cost: for every task what there is to compute, how long that takes, and what it leaves on disk.

Time is measured where this study, or another one beside it, has trained or sampled the same base; else it follows from
floating-point operations of the transformer alone, over what a device is said to reach. Decoding, text encoders and
scorers (judges above all) come on top of the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

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
Basis = Literal["done", "measured", "operations", "unknown"]

#: bf16, without sparsity, that dense layers of this size reach at most on one H100, in 10^12 per second
DEFAULT_TFLOPS = 400.0
#: share of it that whole trainings reach
DEFAULT_UTILISATION = 0.35
#: devices that DiffusionNFT, Flow-GRPO and AWM name for one training
PUBLISHED_DEVICES = 8

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
        basis: where seconds come from; "done" is what the finished task took.
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
    models = {one.base: one.config.model for one in plan.trainings}
    estimator = _Estimator(plan, folder, models, {name: find_base(model) for name, model in models.items()})
    wanted = {task.name for task in tasks}
    lines = estimator.timed([line for line in estimator.lines() if line.task in wanted], 1e12 * tflops * utilisation)
    unknown = tuple(dict.fromkeys(models[one.base].base for one in lines if one.flops is None))
    return StudyCost(plan.study.name, tuple(lines), tflops, utilisation, unknown)


class _Estimator:
    def __init__(
        self, plan: Plan, folder: StudyFolder, models: dict[str, ModelConfig], bases: dict[str, Base | None]
    ) -> None:
        self._plan, self._models, self._bases = plan, models, bases
        self._speeds = (measure(folder.path), measure_beside(folder.path))
        self._held_out = HeldOut()
        self._trainings = {f"train-{one.name}": one for one in plan.trainings}
        finished = {f"train-{one.name}" for one in plan.trainings if folder.is_trained(one)}
        self._took = {
            str(one["task"]): float(one["seconds"])
            for one in folder.noted()
            if one["task"] in finished or one["stage"] != "train"
        }

    def lines(self) -> Iterator[TaskCost]:
        """Every task of the study, group by group, without seconds."""
        runs = list(run_works(self._plan, self._bases))
        for group in self._plan.groups:
            base = self._bases[group.base]
            for one in group.trainings:
                yield self._training(one, base)
            for run, work in runs:
                if run.group.name == group.name:
                    yield self._line(f"run-{run.name}", "evaluate", group.base, work)
            analyses: tuple[tuple[str, Work | None], ...] = (
                ("adjoint", adjoint_work(self._plan, group, base)),
                ("ratios", ratio_work(self._plan, group, base)),
            )
            for name, found in analyses:
                if found is not None:
                    yield self._line(f"{name}-{group.name}", "analyze", group.base, found)

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
            measured = self._seconds(line, lines)
            if line.task in self._took:
                line = replace(line, seconds=self._took[line.task], basis="done")
            elif measured is not None:
                line = replace(line, seconds=measured, basis="measured")
            elif line.flops is not None:
                line = replace(line, seconds=line.flops / rate, basis="operations")
            found.append(line)
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
