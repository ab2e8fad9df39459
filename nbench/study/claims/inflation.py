"""Claim 1: NFT, AWM and DPO inflate the per-step velocity norm."""

from __future__ import annotations

import math

import numpy as np

from nbench.study.claims.claim import Claim, Part
from nbench.study.claims.pooling import Contrast, one_effect, pooled_effect, pooling_caveats, series
from nbench.study.claims.reader import NORM_METHODS, Reader, named
from nbench.study.claims.rules import all_hold, beyond
from nbench.study.claims.scores import mean_over_seeds
from nbench.study.claims.wording import ALL, INFORMATION, NORMGUARD, ONE, counted, part, shown, untold
from nbench.study.plan import Group

_STATEMENT = "NFT, AWM and DPO each raise the per-step velocity norm over the base's, by 5 to 15 % in the paper."
_RULE = (
    "It holds where for every method the pooled 95 % interval of the mean inflation, at {full} steps, lies above 0; it "
    "does not hold where that of any method lies below 0; it cannot be told otherwise."
)
_PAPER = (5.0, 15.0)


def claim_inflation(reader: Reader) -> Claim:
    """How much longer velocities are than the base's at the same states, per method."""
    full = reader.settings.full
    rule = _RULE.format(full=full)
    by_method: dict[str, list[Contrast]] = {}
    parts: list[Part] = []
    for group in reader.groups(NORM_METHODS):
        found = inflations(reader, group)
        by_method.setdefault(group.method, []).extend(found)
        parts += [_part(one, full, ONE) for one in found]
    for method in NORM_METHODS:
        if method not in by_method:
            reader.lacks(f"trainings by {method}: add them to the study's grid")
    missing = reader.missing
    for group in reader.evidence.plan.groups:
        if group.method not in NORM_METHODS:
            parts += [_part(one, full, INFORMATION) for one in inflations(reader, group)]
    pooled, verdicts = [], {}
    for method, found in by_method.items():
        effect = pooled_effect([one.at(full) for one in found])
        verdicts[method] = beyond(effect, 0.0)
        paper = None if effect is None else _beside_paper(effect.mean)
        pooled.append(part(f"all: {method}", effect, verdicts[method], {"paper": paper}, scope=ALL))
    everything = [one for found in by_method.values() for one in found]
    effect = pooled_effect([one.at(full) for one in everything])
    if effect is None:
        return untold(1, "inflation", NORMGUARD, _STATEMENT, rule, missing, tuple(parts))
    verdict = all_hold([verdicts.get(method, "cannot tell") for method in NORM_METHODS])
    shrunk = [method for method, one in verdicts.items() if one == "does not hold"]
    return Claim(
        number=1,
        key="inflation",
        source=NORMGUARD,
        statement=_STATEMENT,
        rule=rule,
        verdict=verdict,
        effect=effect,
        parts=(*pooled, *parts),
        summary=(
            f"At {full} steps the velocity norm of unguarded checkpoints differs from the base's by {shown(effect)}, "
            f"over {counted(effect, 'training')}: "
            f"{'; '.join(f'{one.name[5:]} {shown(one.effect)}' for one in pooled)}. "
            f"Overall that is {_beside_paper(effect.mean)}." + (f" Below 0: {', '.join(shrunk)}." if shrunk else "")
        ),
        caveats=pooling_caveats(effect),
        missing=missing,
        series={method: series(found) for method, found in by_method.items() if found},
    )


def inflations(reader: Reader, group: Group) -> list[Contrast]:
    """Inflation in % of each unguarded training of a group, on its own trajectories."""
    found = []
    for training in group.of(reader.settings.unguarded):
        ratios = reader.norm_ratio(group, "final", training.checkpoint)
        if ratios is not None:
            values = 100 * (mean_over_seeds(ratios.mean) - 1)
            found.append(Contrast(named(group, training), ratios.steps, ratios.prompts, values, unit="%"))
    return found


def _part(found: Contrast, full: int, scope: str) -> Part:
    effect = one_effect(found.at(full))
    means = {
        f"{count} steps": float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
        for count, values in zip(found.steps, found.values, strict=True)
    }
    return part(found.name, effect, beyond(effect, 0.0), means, scope=scope)


def _beside_paper(mean: float) -> str:
    low, high = _PAPER
    if mean < low:
        return "less than the paper's 5 to 15 %"
    return "within the paper's 5 to 15 %" if mean <= high else "more than the paper's 5 to 15 %"
