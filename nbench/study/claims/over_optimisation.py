"""Claim 11: over-optimisation, the proxy up and what was held out down, shrinks at equal proxy reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from nbench.stats.bootstrap import Floats
from nbench.study.claims.claim import Claim
from nbench.study.claims.pooling import Figured, figure_effects, pooling_caveats
from nbench.study.claims.reader import Reader
from nbench.study.claims.rules import SUPERIORITY, superiority
from nbench.study.claims.scores import Scores
from nbench.study.claims.trajectories import Trajectory, at, lines_of, match, trajectory, twin_trajectories
from nbench.study.claims.wording import ALL, GRPO_GUARD, SD, counted, part, shown, small, untold
from nbench.study.plan import Group, Training

_STATEMENT = "With ratio normalisation, what was held out is better at equal proxy reward."
_RULE = (
    "Mean over all measures that were not trained on (rewards, judge, realism), guarded minus unguarded, each where "
    "its training first reaches the lower of the two final rewards: it {superiority}."
)


def claim_over_optimisation(reader: Reader) -> Claim:
    """GRPO with and without ratio normalisation, at equal reward."""
    smallest = reader.settings.smallest
    rule = _RULE.format(superiority=SUPERIORITY.format(smallest=smallest))
    arm = reader.settings.ratio_guarded
    pairs = twin_trajectories(reader, ("grpo",), arm, partial(_trajectory, reader))
    effect, each = figure_effects([_figured(*pair) for pair in pairs], SD)
    if effect is None:
        return untold(11, "over-optimisation", GRPO_GUARD, _STATEMENT, rule, reader.missing)
    parts = [
        part(name, one, superiority(one, smallest), _facts(plain, guarded))
        for (name, plain, guarded), one in zip(pairs, each, strict=True)
    ]
    verdict = superiority(effect, smallest)
    flat = sum(1 for one in parts if not float(one.facts.get("reward at the match") or 0) > 0)
    return Claim(
        number=11,
        key="over-optimisation",
        source=GRPO_GUARD,
        statement=_STATEMENT,
        rule=rule,
        verdict=verdict,
        effect=effect,
        parts=(part("all", effect, verdict, scope=ALL), *parts),
        summary=(
            f"Held-out measures at equal reward, with ratio normalisation minus without: {shown(effect)}, over "
            f"{counted(effect)}.{small(effect, smallest)}"
        ),
        caveats=(
            *pooling_caveats(effect),
            *dict.fromkeys(doubt for _, *both in pairs for one in both for doubt in one.doubts),
            *((f"In {flat} of {len(parts)} pairs the reward at the match is not above the base's, so there is no gain "
               "to over-optimise.",) if flat else ()),
            "Between checkpoints reward and outcome are interpolated linearly.",
        ),
        missing=reader.missing,
        series=lines_of(pairs, reader.settings.unguarded, arm),
    )  # fmt: skip


def _trajectory(reader: Reader, group: Group, training: Training) -> Trajectory | None:
    def held_out(checkpoint: str) -> Sequence[Scores]:
        found = reader.held_out(group, "trajectory", checkpoint)
        if not found:
            reader.lacks(f"a measure that {group.name} was not trained on: add one to the study's evaluation.scorers")
        return found

    return trajectory(reader, group, training, held_out, norms=False)


def _figured(name: str, plain: Trajectory, guarded: Trajectory) -> Figured:
    columns = np.concatenate([plain.reward, plain.outcome, guarded.reward, guarded.outcome], axis=1)
    return Figured(name, plain.prompts, columns, _gain(len(plain.epochs), len(guarded.epochs)))


def _gain(first: int, second: int) -> Callable[[Floats], Floats]:
    def gain(means: Floats) -> Floats:
        reward, outcome, reward_guarded, outcome_guarded = np.split(
            means, [first, 2 * first, 2 * first + second], axis=-1
        )
        target = np.minimum(reward[..., -1], reward_guarded[..., -1])
        plain = at(outcome, match(reward, target)[0])
        return np.asarray(at(outcome_guarded, match(reward_guarded, target)[0]) - plain)

    return gain


def _facts(plain: Trajectory, guarded: Trajectory) -> dict[str, float | str | None]:
    known = np.isfinite(np.concatenate([plain.reward, plain.outcome, guarded.reward, guarded.outcome], axis=1)).all(1)
    if not known.any():
        return {}
    rewards = [one.reward[known].mean(axis=0) for one in (plain, guarded)]
    outcomes = [one.outcome[known].mean(axis=0) for one in (plain, guarded)]
    target = np.asarray(min(float(one[-1]) for one in rewards))
    places = [match(one, target)[0] for one in rewards]
    epochs = [
        float(np.interp(float(p), range(len(t.epochs)), t.epochs))
        for p, t in zip(places, (plain, guarded), strict=True)
    ]
    return {
        "reward at the match": float(target),
        "held out, unguarded": float(at(outcomes[0], places[0])),
        "held out, guarded": float(at(outcomes[1], places[1])),
        "epoch, unguarded": epochs[0],
        "epoch, guarded": epochs[1],
        "final reward, unguarded": float(rewards[0][-1]),
        "final reward, guarded": float(rewards[1][-1]),
        "measures": ", ".join(plain.outcomes),
    }
