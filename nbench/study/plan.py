"""A study as work to do: its trainings, and the runs that look at them. A pure function of the config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nbench.errors import UsageError, did_you_mean
from nbench.normguard.config import NORM_GUARDS, TrainConfig
from nbench.normguard.config_file import make_config, read_config
from nbench.normguard.prompting import training_prompts
from nbench.prompts import PromptSet, load_prompt_set
from nbench.study.config import StudyConfig

#: what a run of a study looks at; see `PlannedRun`
RunKind = Literal["final", "trajectory", "rescale-full", "rescale-one-sided"]

#: name of the base in every run
BASE = "base"


@dataclass(frozen=True)
class Training:
    """One training of the grid.

    Attributes:
        base, method, reward, arm: names in the study's config.
        seed: of the training.
        config: what `nbench train` is given.
    """

    base: str
    method: str
    reward: str
    arm: str
    seed: int
    config: TrainConfig

    @property
    def group(self) -> str:
        """Trainings of one base by one method for one reward."""
        return f"{self.base}-{self.method}-{self.reward}"

    @property
    def checkpoint(self) -> str:
        """What the runs of its group call the finished training."""
        return f"{self.arm}-s{self.seed}"

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.group}-{self.checkpoint}"

    def at(self, epoch: int) -> str:
        """What the trajectory run of its group calls the training after so many epochs."""
        return f"{self.checkpoint}-e{epoch:04d}"


@dataclass(frozen=True)
class Group:
    """Trainings that differ in arm and seed alone: what is compared with each other.

    Attributes:
        name: "BASE-METHOD-REWARD".
        base, method, reward: names in the study's config.
        trainings: in the order of the grid.
    """

    name: str
    base: str
    method: str
    reward: str
    trainings: tuple[Training, ...]

    def of(self, arm: str) -> tuple[Training, ...]:
        """Trainings of one arm, by seed."""
        return tuple(sorted((one for one in self.trainings if one.arm == arm), key=lambda one: one.seed))


@dataclass(frozen=True)
class PlannedRun:
    """One `nbench run` of the study.

    Attributes:
        name: of the run in the study's store.
        kind: "final": finished checkpoints at every step count, with norm ratios; "trajectory": earlier checkpoints of
            the same trainings, likewise with norm ratios; "rescale-...": finished unguarded checkpoints with
            their velocities pulled back to the base's norm while sampling.
        group: whose trainings.
        checkpoints: name in the run -> (training, epoch); epoch None is the end. The base comes first and is not here.
    """

    name: str
    kind: RunKind
    group: Group
    checkpoints: Mapping[str, tuple[Training, int | None]]


@dataclass(frozen=True)
class Plan:
    """All of a study's work.

    Attributes:
        study: the config.
        trainings: each once, in the order of the grid.
        groups: in the order of the grid.
        prompts: what every checkpoint is evaluated on.
    """

    study: StudyConfig
    trainings: tuple[Training, ...]
    groups: tuple[Group, ...]
    prompts: PromptSet

    def group(self, name: str) -> Group:
        """A group by name.

        Raises:
            KeyError: there is none.
        """
        return next(one for one in self.groups if one.name == name)

    def runs(self) -> Iterator[PlannedRun]:
        """The runs, group by group."""
        for group in self.groups:
            yield from _runs(self.study, group)


def make_plan(study: StudyConfig) -> Plan:
    """Lay out a study.

    Raises:
        UsageError: a template does not exist, a config is refused, or trainings that would be compared
            differ in base, guidance, size or held-out prompts.
    """
    found: dict[str, Training] = {}
    for block in study.grid:
        for base in block.bases:
            for method in block.methods:
                for reward in block.rewards:
                    for seed in block.seeds:
                        for arm in block.arms:
                            training = _training(study, base, method, reward, arm, seed)
                            found.setdefault(training.name, training)
    trainings = tuple(found.values())
    _check_twins(trainings)
    names = dict.fromkeys(one.group for one in trainings)
    groups = []
    for name in names:
        mine = tuple(one for one in trainings if one.group == name)
        groups.append(Group(name, mine[0].base, mine[0].method, mine[0].reward, mine))
    return Plan(study, trainings, tuple(groups), _prompts(study, trainings))


def _training(study: StudyConfig, base: str, method: str, reward: str, arm: str, seed: int) -> Training:
    template = study.templates[base][method]
    chosen = study.arms[arm]
    overrides = {
        **study.settings,
        **study.base_settings.get(base, {}),
        **study.method_settings.get(method, {}),
        **chosen.settings,
    }
    if study.evaluation.trajectory_every:
        overrides["checkpoint_every"] = study.evaluation.trajectory_every
    content = read_config(template, overrides).model_dump(mode="json")
    name = f"{base}-{method}-{reward}-{arm}-s{seed}"
    content["guards"] = [
        *(guard for guard in content["guards"] if guard["name"] not in NORM_GUARDS),
        *(dict(guard) for guard in chosen.guards),
    ]
    content["rewards"] = [term.model_dump() for term in study.rewards[reward]]
    content["seed"] = seed
    content["name"] = name
    config = make_config(content, where=f"training {name}")
    if config.method.name != method:
        raise UsageError(f"templates.{base}.{method} is {template!r}, which trains by {config.method.name}.")
    if config.model.tuning != "lora":
        raise UsageError(f"{template!r} tunes the whole transformer: a study needs model.tuning lora.")
    return Training(base, method, reward, arm, seed, config)


def _check_twins(trainings: tuple[Training, ...]) -> None:
    """See that what is compared shares a base, guidance, size and prompts."""
    first: dict[str, Training] = {}
    for one in trainings:
        other = first.setdefault(one.base, one)
        for key in ("base", "revision", "guidance", "height", "width", "max_sequence_length"):
            mine, theirs = getattr(one.config.model, key), getattr(other.config.model, key)
            if mine != theirs:
                raise UsageError(
                    f"{one.name} has model.{key} {mine}, and {other.name} has {theirs}: trainings of one base are "
                    "compared, so give them the same, for example in the study's settings."
                )


def _prompts(study: StudyConfig, trainings: tuple[Training, ...]) -> PromptSet:
    """What checkpoints are evaluated on, which no training may have seen."""
    limit = study.evaluation.limit
    trained: set[str] = set()
    held: dict[str, PromptSet] = {}
    for one in trainings:
        split = training_prompts(_whole(one.config))
        trained |= {prompt.text for prompt in split.trained}
        held[one.name] = split.held_out
    if study.evaluation.prompts is not None:
        chosen = load_prompt_set(study.evaluation.prompts)
    else:
        sets = {prompts.content_hash: prompts for prompts in held.values()}
        if len(sets) > 1:
            raise UsageError(
                "the trainings hold out different prompts: give them the same prompts in the study's settings, or name "
                "a set in evaluation.prompts."
            )
        chosen = next(iter(sets.values()))
    shared = sorted(trained & {prompt.text for prompt in chosen})
    if shared:
        raise UsageError(
            f"{len(shared)} prompts of the evaluation are trained on, such as {shared[0]!r}: evaluate on others."
        )
    return chosen if limit is None else chosen.limited(limit)


def _whole(config: TrainConfig) -> TrainConfig:
    """The config without the limit that its own evaluation has."""
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"limit": None})})


def _runs(study: StudyConfig, group: Group) -> Iterator[PlannedRun]:
    finished: dict[str, tuple[Training, int | None]] = {one.checkpoint: (one, None) for one in group.trainings}
    yield PlannedRun(group.name, "final", group, finished)
    earlier = {one.at(epoch): (one, epoch) for one in group.trainings for epoch in trajectory_epochs(study, one.config)}
    if earlier:
        yield PlannedRun(f"{group.name}-trajectory", "trajectory", group, earlier)
    unguarded = {one.checkpoint: (one, None) for one in group.of(study.claims.unguarded)}
    if unguarded:
        for mode in study.evaluation.rescale:
            kind: RunKind = "rescale-full" if mode == "full" else "rescale-one-sided"
            yield PlannedRun(f"{group.name}-{kind}", kind, group, dict(unguarded))


def trajectory_epochs(study: StudyConfig, config: TrainConfig) -> tuple[int, ...]:
    """After how many epochs a training's earlier checkpoints are evaluated; the last is its end."""
    every = study.evaluation.trajectory_every
    return tuple(range(every, config.optim.epochs + 1, every)) if every else ()


def select(plan: Plan, patterns: tuple[str, ...]) -> tuple[Training, ...]:
    """Trainings whose names match one of the shell patterns; all of them without a pattern.

    Raises:
        UsageError: a pattern matches none.
    """
    from fnmatch import fnmatchcase

    names = [one.name for one in plan.trainings]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"--only {pattern!r} matches no training of the study.{did_you_mean(pattern, names)}")
    return tuple(
        one for one in plan.trainings if not patterns or any(fnmatchcase(one.name, pattern) for pattern in patterns)
    )


def suite_content(plan: Plan, run: PlannedRun, loras: Mapping[str, str], prompts: str) -> dict[str, Any]:
    """The suite of a run, as `nbench run` reads it.

    Args:
        plan: of the study.
        run: which.
        loras: name in the run -> LoRA folder.
        prompts: file of the evaluation's prompts.
    """
    evaluation = plan.study.evaluation
    model = run.group.trainings[0].config.model
    trajectory = run.kind == "trajectory"
    seeds = evaluation.trajectory_seeds if trajectory and evaluation.trajectory_seeds else evaluation.seeds
    content: dict[str, Any] = {
        "name": run.name,
        "checkpoints": [
            {"name": BASE, "base": model.base, "revision": model.revision},
            *(
                {"name": name, "base": model.base, "revision": model.revision, "lora": loras[name]}
                for name in run.checkpoints
            ),
        ],
        "prompts": prompts,
        "steps": list(evaluation.trajectory_steps if trajectory else evaluation.steps),
        "seeds": seeds,
        "seed": evaluation.seed,
        "guidance": model.guidance,
        "height": model.height,
        "width": model.width,
        "batch_size": evaluation.batch_size,
        "scorers": list(evaluation.scorers),
        "norm_ratio": run.kind in ("final", "trajectory"),
    }
    for checkpoint in content["checkpoints"]:
        if model.max_sequence_length is not None:
            checkpoint["max_sequence_length"] = model.max_sequence_length
    if run.kind.startswith("rescale"):
        content["rescale"] = {"phi": 1.0, "one_sided": run.kind == "rescale-one-sided"}
    return content
