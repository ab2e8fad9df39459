"""Claim 8: stopping the unguarded training early does not explain what the hinge gains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from nbench.stats.bootstrap import Floats
from nbench.study.claims.claim import Claim, Part
from nbench.study.claims.pooling import Figured, figure_effects, pooling_caveats
from nbench.study.claims.reader import NORM_METHODS, Reader
from nbench.study.claims.rules import SUPERIORITY, all_hold, superiority
from nbench.study.claims.scores import Scores
from nbench.study.claims.trajectories import Trajectory, at, lines_of, match, trajectory, twin_trajectories
from nbench.study.claims.wording import ALL, NORMGUARD, SD, counted, part, shown, small, untold
from nbench.study.plan import Group, Training

_STATEMENT = (
    "Early stopping does not explain the gains: an unguarded checkpoint of equal reward, or of equal velocity norm, is "
    "worse than the guarded one."
)
_RULE = (
    "Quality and realism (averaged) of the guarded checkpoint minus those of the unguarded training where it first "
    "reaches the same reward, and where it first reaches the same norm ratio: each {superiority}. The claim holds if "
    "both hold, does not hold if either does not, and cannot be told otherwise."
)
_KINDS = ("reward-matched", "norm-matched")


def claim_early_stopping(reader: Reader) -> Claim:
    """The guarded checkpoint against matched earlier checkpoints of its unguarded twin."""
    smallest = reader.settings.smallest
    rule = _RULE.format(superiority=SUPERIORITY.format(smallest=smallest))
    arm = reader.settings.guarded
    pairs = twin_trajectories(reader, NORM_METHODS, arm, partial(_trajectory, reader))
    pooled: list[Part] = []
    parts: list[Part] = []
    for kind in _KINDS:
        figured = [_figured(name, plain, guarded, kind) for name, plain, guarded in pairs]
        effect, each = figure_effects(figured, SD)
        pooled.append(part(f"all: {kind}", effect, superiority(effect, smallest), {"match": kind}, scope=ALL))
        for (name, plain, guarded), one in zip(pairs, each, strict=True):
            facts = {"match": kind, **_facts(plain, guarded, kind)}
            parts.append(part(f"{name} {kind}", one, superiority(one, smallest), facts))
    headline = pooled[0].effect
    if headline is None:
        return untold(8, "early-stopping", NORMGUARD, _STATEMENT, rule, reader.missing)
    never = sum(1 for one in parts if one.facts.get("reached") == "no")
    return Claim(
        number=8,
        key="early-stopping",
        source=NORMGUARD,
        statement=_STATEMENT,
        rule=rule,
        verdict=all_hold([one.verdict for one in pooled]),
        effect=headline,
        parts=(*pooled, *parts),
        summary=(
            f"Guarded minus matched unguarded, over {counted(headline)}: "
            f"{'; '.join(f'{one.name[5:]} {shown(one.effect)}' for one in pooled)}."
            + "".join(dict.fromkeys(small(one.effect, smallest) for one in pooled))
        ),
        caveats=(
            *pooling_caveats(headline),
            *dict.fromkeys(doubt for _, *both in pairs for one in both for doubt in one.doubts),
            *((f"In {never} of {len(parts)} matches the unguarded training never has the guarded one's value, and its "
               "nearest end is taken.",) if never else ()),
            "Between checkpoints reward, norm and outcome are interpolated linearly.",
        ),
        missing=reader.missing,
        series=lines_of(pairs, reader.settings.unguarded, arm),
    )  # fmt: skip


def _trajectory(reader: Reader, group: Group, training: Training) -> Trajectory | None:
    def judged(checkpoint: str) -> Sequence[Scores]:
        names = (reader.settings.quality, reader.settings.realism)
        found = [reader.unseen(group, "trajectory", checkpoint, name) for name in names]
        return [one for one in found if one is not None]

    return trajectory(reader, group, training, judged, norms=True)


def _figured(name: str, plain: Trajectory, guarded: Trajectory, kind: str) -> Figured:
    """Columns: the unguarded training's matched quantity and outcome by epoch, and the guarded end's two."""
    curve, end = _matched(plain, guarded, kind)
    columns = np.concatenate([curve, plain.outcome, end[:, None], guarded.outcome[:, -1:]], axis=1)
    return Figured(name, plain.prompts, columns, _gain(len(plain.epochs)))


def _gain(count: int) -> Callable[[Floats], Floats]:
    def gain(means: Floats) -> Floats:
        position, _ = match(means[..., :count], means[..., -2])
        return np.asarray(means[..., -1] - at(means[..., count : 2 * count], position))

    return gain


def _matched(plain: Trajectory, guarded: Trajectory, kind: str) -> tuple[Floats, Floats]:
    """(of the unguarded training by epoch, of the guarded end)."""
    if kind == "reward-matched":
        return plain.reward, guarded.reward[:, -1]
    assert plain.norm is not None and guarded.norm is not None
    return plain.norm, guarded.norm[:, -1]


def _facts(plain: Trajectory, guarded: Trajectory, kind: str) -> dict[str, float | str | None]:
    curve, end = _matched(plain, guarded, kind)
    known = np.isfinite(np.concatenate([curve, end[:, None], plain.reward, guarded.reward], axis=1)).all(axis=1)
    if not known.any():
        return {}
    means, target = curve[known].mean(axis=0), end[known].mean()
    position, reached = match(means, target)
    return {
        "target": float(target),
        "matched epoch": float(np.interp(float(position), range(len(plain.epochs)), plain.epochs)),
        "reward, unguarded": float(at(plain.reward[known].mean(axis=0), position)),
        "reward, guarded": float(guarded.reward[known, -1].mean()),
        "reached": "yes" if bool(reached) else "no",
        "measures": ", ".join(plain.outcomes),
    }
