"""Trainings epoch by epoch, and the epoch at which one matches another: what claims 8 and 11 share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nbench.stats.bootstrap import Floats
from nbench.study.claims.reader import Reader, named
from nbench.study.claims.scores import Scores, by_prompt
from nbench.study.claims.wording import number
from nbench.study.plan import Group, Training, trajectory_epochs


@dataclass(frozen=True)
class Trajectory:
    """A training's earlier checkpoints, the base (epoch 0) first.

    Attributes:
        epochs: 0 and those that were evaluated, ascending.
        prompts: ids.
        reward: trained reward, gain over the base in its standard deviations, [prompts, epochs]; 0 at epoch 0.
        outcome: what is judged at the match, mean over its measures, likewise.
        outcomes: each of its measures by name, likewise.
        norm: mean norm ratio to the base, [prompts, epochs]; 1 at epoch 0; None where it was not asked for.
        doubts: why judges' numbers among them may be shown but not gated on.
    """

    epochs: tuple[int, ...]
    prompts: tuple[str, ...]
    reward: Floats
    outcome: Floats
    outcomes: dict[str, Floats]
    norm: Floats | None
    doubts: tuple[str, ...] = ()

    def columns(self) -> dict[str, list[float | None]]:
        """Means over prompts, as columns for a figure."""
        found: dict[str, list[float | None]] = {"epoch": [float(epoch) for epoch in self.epochs]}
        lines = {"reward": self.reward, "outcome": self.outcome, **self.outcomes}
        if self.norm is not None:
            lines["norm"] = self.norm
        for name, values in lines.items():
            known = np.isfinite(values).all(axis=1)
            means = values[known].mean(axis=0) if known.any() else np.full(values.shape[1], np.nan)
            found[name] = [number(float(mean)) for mean in means]
        return found


def trajectory(
    reader: Reader,
    group: Group,
    training: Training,
    outcomes: Callable[[str], Sequence[Scores]],
    *,
    norms: bool,
) -> Trajectory | None:
    """A training's trajectory; None, and noted, where any of it is missing.

    Args:
        reader: of the evidence.
        group: of the training.
        training: which.
        outcomes: measures that are judged, by the checkpoint's name in the trajectory run; none where they are missing.
        norms: whether norm ratios are needed.
    """
    epochs = trajectory_epochs(reader.evidence.plan.study, training.config)
    if not epochs:
        reader.lacks("earlier checkpoints: set evaluation.trajectory_every in the study")
        return None
    rewards: list[Floats] = []
    ratios: list[Floats] = []
    judged: dict[str, list[Floats]] = {}
    doubts: dict[str, None] = {}
    prompts: tuple[str, ...] = ()
    for epoch in epochs:
        name = training.at(epoch)
        reward = reader.reward(group, "trajectory", name)
        measures = [] if reward is None else outcomes(name)
        ratio = reader.norm_ratio(group, "trajectory", name) if norms and reward is not None else None
        if reward is None or not measures or (norms and ratio is None):
            return None
        prompts = reward.prompts
        rewards.append(by_prompt(reward.gain))
        for one in measures:
            judged.setdefault(one.name, []).append(by_prompt(one.gain))
            doubts |= {one.doubt: None} if one.doubt else {}
        if ratio is not None:
            place = {prompt: i for i, prompt in enumerate(ratio.prompts)}
            ratios.append(by_prompt(ratio.mean)[[place[prompt] for prompt in prompts]])
    start = np.zeros(len(prompts))
    lines = {name: np.stack([start, *values], axis=1) for name, values in judged.items() if len(values) == len(epochs)}
    if not lines:
        return None
    return Trajectory(
        epochs=(0, *epochs),
        prompts=prompts,
        reward=np.stack([start, *rewards], axis=1),
        outcome=np.mean(list(lines.values()), axis=0),
        outcomes=lines,
        norm=np.stack([start + 1, *ratios], axis=1) if norms else None,
        doubts=tuple(doubts),
    )


def comparable(first: Trajectory, second: Trajectory) -> tuple[Trajectory, Trajectory] | None:
    """Both with the outcome over the same measures: those that both have for at least half of the prompts.

    A scorer that has no value for most prompts, such as one that reads words, would take those prompts from all others.
    """

    def complete(values: Floats) -> bool:
        return bool(np.isfinite(values).all(axis=1).mean() >= 0.5)

    names = [
        name
        for name, values in first.outcomes.items()
        if name in second.outcomes and complete(values) and complete(second.outcomes[name])
    ]
    if not names:
        return None
    kept = [
        replace(
            one,
            outcomes={name: one.outcomes[name] for name in names},
            outcome=np.mean([one.outcomes[name] for name in names], axis=0),
        )
        for one in (first, second)
    ]
    return kept[0], kept[1]


#: name, trajectories of the unguarded training and of its guarded twin
Twins = tuple[str, Trajectory, Trajectory]


def twin_trajectories(
    reader: Reader, methods: Sequence[str], arm: str, read: Callable[[Group, Training], Trajectory | None]
) -> list[Twins]:
    """Unguarded trainings with their twins of an arm, wherever both were measured alike; what is missing is noted."""
    found: list[Twins] = []
    for group in reader.groups(methods):
        for training, twin in reader.twins(group, arm):
            first, second = read(group, training), read(group, twin)
            both = None if first is None or second is None else comparable(first, second)
            if both is not None:
                found.append((named(group, training), *both))
    return found


def lines_of(pairs: Sequence[Twins], unguarded: str, guarded: str) -> dict[str, dict[str, list[float | None]]]:
    """Lines for a figure: both trainings of each pair, epoch by epoch."""
    arms = (unguarded, guarded)
    return {f"{name} {arm}": one.columns() for name, *both in pairs for arm, one in zip(arms, both, strict=True)}


def match(curve: Floats, target: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Where a curve first crosses a target, between checkpoints by linear interpolation.

    Args:
        curve: means, [..., checkpoints].
        target: [...].

    Returns:
        Position from 0 to checkpoints - 1, [...], and whether it was reached, [...]; where it was not, the position is
        that of the end nearest in value.
    """
    gap = curve - np.asarray(target)[..., None]
    crossed = gap[..., :-1] * gap[..., 1:] <= 0
    reached = crossed.any(axis=-1)
    first = crossed.argmax(axis=-1)
    before = np.take_along_axis(gap, first[..., None], -1)[..., 0]
    after = np.take_along_axis(gap, first[..., None] + 1, -1)[..., 0]
    length = before - after
    share = np.divide(before, length, out=np.zeros_like(length), where=length != 0)
    nearest = np.where(np.abs(gap[..., 0]) <= np.abs(gap[..., -1]), 0, curve.shape[-1] - 1)
    return np.asarray(np.where(reached, first + share, nearest)), np.asarray(reached)


def at(curve: Floats, position: Floats) -> Floats:
    """A curve [..., checkpoints] at positions [...], between checkpoints by linear interpolation."""
    last = curve.shape[-1] - 1
    low = np.clip(np.floor(position).astype(np.int64), 0, max(last - 1, 0))
    share = position - low
    before = np.take_along_axis(curve, low[..., None], -1)[..., 0]
    after = np.take_along_axis(curve, np.minimum(low + 1, last)[..., None], -1)[..., 0]
    return np.asarray(before + share * (after - before))
