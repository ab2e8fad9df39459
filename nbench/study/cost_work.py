"""How much there is to compute in a study, counted from its plan alone: rows through the transformer, pictures, scores.

What is counted is what the code does when nothing fails: every picture has a reward, the rewards of a group differ, and
guards find their weight at the first optimiser step. Text encoding, decoding and scoring are no forwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from nbench.normguard.config import PromptConfig, TrainConfig
from nbench.normguard.prompting import training_prompts
from nbench.study.cost_bases import Base
from nbench.study.plan import Group, Plan, PlannedRun


@dataclass(frozen=True)
class Work:
    """What is computed.

    Attributes:
        forwards: rows through the transformer without gradient.
        trained: rows through it with gradient, and back.
        pictures: decoded.
        scores: scorer -> pictures that it looks at.
        stored: pictures that are kept, among those decoded.
    """

    forwards: int = 0
    trained: int = 0
    pictures: int = 0
    scores: Mapping[str, int] = field(default_factory=dict)
    stored: int = 0

    def __add__(self, other: Work) -> Work:
        scores = {
            name: self.scores.get(name, 0) + other.scores.get(name, 0)
            for name in dict.fromkeys((*self.scores, *other.scores))
        }
        return Work(
            self.forwards + other.forwards,
            self.trained + other.trained,
            self.pictures + other.pictures,
            scores,
            self.stored + other.stored,
        )

    def times(self, count: int) -> Work:
        """So many times over."""
        return Work(
            self.forwards * count,
            self.trained * count,
            self.pictures * count,
            {name: number * count for name, number in self.scores.items()},
            self.stored * count,
        )

    def equivalents(self, *, checkpointing: bool = False) -> int:
        """In forwards: a forward and its backward are three, and gradient checkpointing is one more.

        With adapters it is rather less, since frozen weights need no gradient of their own.
        """
        return self.forwards + self.trained * (4 if checkpointing else 3)


def total(works: Iterable[Work]) -> Work:
    """All of them."""
    found = Work()
    for work in works:
        found += work
    return found


def sweep(steps: Iterable[int]) -> int:
    """Forwards of a picture at several step counts from one noise: the first velocity is shared."""
    counts = set(steps)
    return sum(counts) - max(0, len(counts) - 1)


def epoch_work(config: TrainConfig, base: Base | None) -> Work:
    """A rollout with its rewards and all optimiser steps on it."""
    from nbench.normguard.guarding import additive_guards
    from nbench.normguard.methods import make_method

    method, guards = make_method(config), additive_guards(config.guards)
    pictures = config.rollout.prompts * config.rollout.group_size
    units = config.rollout.prompts if method.rows_per_unit > 1 else pictures  # DPO takes a pair of each group
    rows = units * method.rows_per_unit
    compared = {*method.forwards, *(guard.role for guard in guards if guard.weight != 0)}
    if any(guard.weight == 0 for guard in guards):
        compared.add("reference")  # it is only measured
    logged = 0 if "reference" in compared else 1  # the log has norm ratios of the first of an epoch's draws
    scale = 1 if base is None else base.network_rows(config.model)
    return Work(
        forwards=scale * (pictures * config.rollout.steps + rows * (config.times.count * len(compared) + logged)),
        trained=scale * rows * config.times.count,
        pictures=pictures,
        scores={term.scorer: pictures for term in config.rewards},
    )


def evaluation_epochs(config: TrainConfig) -> tuple[int, ...]:
    """After how many epochs a training evaluates what it has come to; the base comes on top, once."""
    every, epochs = config.evaluate.every, config.optim.epochs
    return (*(range(every, epochs, every) if every else ()), epochs)


def evaluation_work(config: TrainConfig, base: Base | None, held_out: int) -> Work:
    """A training's own evaluations on so many held-out prompts: the base once, what is trained with norm ratios."""
    wanted = config.evaluate
    models = len(evaluation_epochs(config)) * (2 if wanted.ema and config.optim.ema.decay else 1)
    rows = held_out * wanted.seeds
    scale = 1 if base is None else base.network_rows(config.model)
    pictures = rows * len(set(wanted.steps)) * (1 + models)
    scorers = dict.fromkeys((*(term.scorer for term in config.rewards), *wanted.scorers))
    return Work(
        forwards=scale * rows * sweep(wanted.steps) * (1 + 2 * models),
        pictures=pictures,
        scores=dict.fromkeys(scorers, pictures),
        stored=pictures,
    )


def checkpoint_epochs(config: TrainConfig) -> tuple[int, ...]:
    """After how many epochs a training writes a checkpoint."""
    kept = range(config.checkpoint_every, config.optim.epochs + 1, config.checkpoint_every)
    return tuple(sorted({*kept, *evaluation_epochs(config)}))


def training_bytes(config: TrainConfig, lora_parameters: int) -> int:
    """Weights on disk: two adapters per checkpoint and at the end, and the state of the last two checkpoints.

    The state has every role's adapter and both moments, all in float32.
    """
    from nbench.normguard.methods import make_method

    checkpoints = len(checkpoint_epochs(config))
    roles = 2 + len(make_method(config).roles)
    return 4 * lora_parameters * (2 * (checkpoints + 1) + min(2, checkpoints) * (roles + 2))


class HeldOut:
    """How many prompts trainings evaluate on, each split read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[PromptConfig, str | None, int | None], int] = {}

    def count(self, config: TrainConfig) -> int:
        """Prompts of a training's own evaluation."""
        place = (config.prompts, config.evaluate.prompts, config.evaluate.limit)
        if place not in self._known:
            self._known[place] = len(training_prompts(config).held_out)
        return self._known[place]


def run_works(plan: Plan, bases: Mapping[str, Base | None]) -> Iterator[tuple[PlannedRun, Work]]:
    """The study's runs in their order; pictures that an earlier one has put into the store are not made again.

    Args:
        plan: of the study.
        bases: of each base's name in the study.
    """
    done: dict[tuple[object, ...], int] = {}
    evaluation = plan.study.evaluation
    for run in plan.runs():
        model, scale = run.group.trainings[0].config.model, _scale(bases[run.group.base], run.group)
        trajectory = run.kind == "trajectory"
        steps = evaluation.trajectory_steps if trajectory else evaluation.steps
        seeds = evaluation.trajectory_seeds if trajectory and evaluation.trajectory_seeds else evaluation.seeds
        place = (model.base, model.revision, model.guidance, model.height, model.width, model.max_sequence_length)
        work = Work()
        for trained in (None, *run.checkpoints.values()):
            identity: tuple[object, ...] = place
            if trained is not None:
                training, epoch = trained
                end = epoch is None or epoch == training.config.optim.epochs  # the same weights
                rescaled = run.kind if run.kind.startswith("rescale") else None
                identity = (training.name, None if end else epoch, rescaled)
            missing = [count for count in sorted(set(steps)) if done.get((*identity, count), 0) < seeds]
            pictures = sum(len(plan.prompts) * (seeds - done.get((*identity, count), 0)) for count in missing)
            for count in missing:
                done[*identity, count] = seeds
            # Norm ratios and rescaling both ask the base at every state; the base itself needs neither.
            calls = sweep(missing) * (1 if trained is None else 2)
            work += Work(
                forwards=scale * len(plan.prompts) * seeds * calls,
                pictures=pictures,
                scores=dict.fromkeys(evaluation.scorers, pictures),
                stored=pictures,
            )
        yield run, work


def adjoint_work(plan: Plan, group: Group, base: Base | None) -> Work:
    """Adjoint sensitivity of a group's unguarded checkpoints and its base."""
    steps, scorer = plan.study.analyses.adjoint_steps or 0, plan.study.rewards[group.reward][0].scorer
    rows = _samples(plan) * (1 + len(group.of(plan.study.claims.unguarded)))
    calls = rows * steps * _scale(base, group)  # forward, and again with gradient on the way back
    return Work(forwards=calls, trained=calls, pictures=rows, scores={scorer: rows})


def ratio_work(plan: Plan, group: Group, base: Base | None) -> Work:
    """Importance ratios of a group's unguarded checkpoints against its base; the last step is not measured."""
    steps = (plan.study.analyses.ratio_steps or 1) - 1
    rows = _samples(plan) * len(group.of(plan.study.claims.unguarded))
    return Work(forwards=2 * rows * steps * _scale(base, group))


def _samples(plan: Plan) -> int:
    """Of an analysis, per checkpoint."""
    wanted = plan.study.analyses
    prompts = len(plan.prompts) if wanted.limit is None else min(wanted.limit, len(plan.prompts))
    return prompts * wanted.seeds


def _scale(base: Base | None, group: Group) -> int:
    return 1 if base is None else base.network_rows(group.trainings[0].config.model)
