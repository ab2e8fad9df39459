"""Claim 3: scaling the velocity's magnitude carries no coherent first-order reward signal at batch level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nbench.stats.bootstrap import Floats
from nbench.study.claims.claim import Claim, Part
from nbench.study.claims.pooling import Contrast, one_effect, pooled_effect, pooling_caveats
from nbench.study.claims.reader import NORM_METHODS, Reader, named
from nbench.study.claims.rules import negligible
from nbench.study.claims.scores import Scores
from nbench.study.claims.wording import ALL, INFORMATION, NORMGUARD, ONE, counted, part, shown, untold
from nbench.study.evidence import Analysis
from nbench.study.plan import BASE, Group

if TYPE_CHECKING:
    import pyarrow as pa

_STATEMENT = (
    "Scaling the magnitude of the velocity has no coherent first-order effect on the reward at batch level, so the "
    "inflation explains none of the reward's gain."
)
_RULE = (
    "The change of the reward that the measured inflation explains to first order (sensitivity to scaling all steps, "
    "times the mean log of the norm ratio), pooled: it holds where the 95 % interval lies within -{smallest:g} and "
    "{smallest:g} sd of the base, does not hold where it excludes 0 and its mean is beyond them, and cannot be told "
    "otherwise."
)


def claim_adjoint(reader: Reader) -> Claim:
    """First-order change of the reward that the inflation explains."""
    smallest = reader.settings.smallest
    rule = _RULE.format(smallest=smallest)
    trained: list[Contrast] = []
    bases: list[Contrast] = []
    parts: list[Part] = []
    for group in reader.groups(NORM_METHODS):
        analysis = reader.evidence.adjoint.get(group.name)
        if analysis is None:
            reader.lacks(f"the adjoint analysis of {group.name}: go on with the study, if its reward is differentiable")
            continue
        for found in _explained(reader, group, analysis):
            into = bases if found.of_base else trained
            into.append(found.contrast)
            effect = one_effect(found.contrast)
            scope = INFORMATION if found.of_base else ONE
            parts.append(part(found.contrast.name, effect, negligible(effect, smallest), found.facts, scope=scope))
    pooled = trained or bases
    effect = pooled_effect(pooled)
    if effect is None:
        return untold(3, "adjoint", NORMGUARD, _STATEMENT, rule, reader.missing, tuple(parts))
    verdict = negligible(effect, smallest)
    ratios = [float(one.facts["coherence"] or 0) for one in parts if one.facts.get("coherence") is not None]
    controls = [
        float(one.facts["coherence of controls"] or 0) for one in parts if one.facts.get("coherence") is not None
    ]
    return Claim(
        number=3,
        key="adjoint",
        source=NORMGUARD,
        statement=_STATEMENT,
        rule=rule,
        verdict=verdict,
        effect=effect,
        parts=(part("all", effect, verdict, scope=ALL), *parts),
        summary=(
            f"The inflation explains, to first order, a change of {shown(effect)} in the reward, over "
            f"{counted(effect, 'checkpoint')}. Coherence (|mean| over its standard error) is "
            f"{np.mean(ratios) if ratios else float('nan'):.1f} on average, that of random directions of the same norm "
            f"{np.mean(controls) if controls else float('nan'):.1f}."
        ),
        caveats=(
            *pooling_caveats(effect),
            "First order: what a finite inflation does beyond that is not in it, nor what training changed besides the "
            "norm. The norm ratio is taken as known.",
        ),
        missing=reader.missing,
    )


@dataclass(frozen=True)
class _Explained:
    contrast: Contrast
    of_base: bool
    facts: Mapping[str, float | str | None]


def _explained(reader: Reader, group: Group, analysis: Analysis) -> list[_Explained]:
    trainings = {one.checkpoint: one for one in group.of(reader.settings.unguarded)}
    steps = _steps(reader, analysis)
    inflation: dict[str, float] = {}
    for name in trainings:
        ratios = reader.norm_ratio(group, "final", name)
        if ratios is not None and steps in ratios.steps:
            inflation[name] = float(np.nanmean(ratios.log[ratios.steps.index(steps)]))
    found = []
    for name in dict.fromkeys(analysis.samples["checkpoint"].to_pylist()):
        training = trainings.get(name)
        if name == BASE and inflation:
            log = float(np.mean(list(inflation.values())))
        elif training is not None and name in inflation:
            log = inflation[name]
        else:
            continue
        scores = _reward(reader, group, str(analysis.settings.get("reward", "")), next(iter(inflation)))
        spread = None if scores is None else _spread(scores, steps)
        if spread is None:
            continue
        samples = _samples(analysis.samples, name)
        title = f"{group.name} {BASE}" if training is None else named(group, training)
        values = _by_prompt(samples) * log / spread
        contrast = Contrast(title, (steps,), samples.names, values[None])
        found.append(_Explained(contrast, training is None, _facts(samples, log, spread)))
    return found


def _steps(reader: Reader, analysis: Analysis) -> int:
    """The analysis's own step count where the runs have it, else the full one."""
    own = analysis.settings.get("steps")
    known = reader.evidence.plan.study.evaluation.steps
    return int(own) if own in known else reader.settings.full


def _reward(reader: Reader, group: Group, scorer: str, checkpoint: str) -> Scores | None:
    """Values of the scorer that the analysis differentiated."""
    if scorer:
        return reader.scores(group, "final", checkpoint, scorer)
    return reader.reward(group, "final", checkpoint)


def _spread(scores: Scores, steps: int) -> float | None:
    if steps not in scores.steps:
        return None
    found = float(scores.spread[scores.steps.index(steps)])
    return found if np.isfinite(found) else None


@dataclass(frozen=True)
class _Samples:
    """Sums over steps, per sample; those that failed are left out.

    Attributes:
        names: of prompts, each once, [prompts].
        index: prompt of each sample, [samples].
        values: sensitivity, [samples].
        controls: of random directions, [draws, samples].
    """

    names: tuple[str, ...]
    index: npt.NDArray[np.int64]
    values: Floats
    controls: Floats


def _samples(table: pa.Table, checkpoint: str) -> _Samples:
    import pyarrow.compute as pc

    mine = table.filter(pc.equal(table["checkpoint"], checkpoint))
    prompts, seeds = mine["prompt_id"].to_pylist(), mine["seed"].to_pylist()
    number: dict[tuple[str, int], int] = {}
    place = np.array([number.setdefault(key, len(number)) for key in zip(prompts, seeds, strict=True)])
    columns = ["sensitivity", *(name for name in mine.column_names if name.startswith("control_"))]
    sums: Floats = np.stack(
        [np.bincount(place, weights=mine[name].to_numpy(zero_copy_only=False)) for name in columns]
    ).astype(np.float64)
    sound: npt.NDArray[np.bool_] = np.asarray(np.isfinite(sums).all(axis=0))
    names = tuple(dict.fromkeys(prompt for (prompt, _), good in zip(number, sound, strict=True) if good))
    order = {name: i for i, name in enumerate(names)}
    index = np.array([order[prompt] for (prompt, _), good in zip(number, sound, strict=True) if good], dtype=np.int64)
    return _Samples(names, index, sums[0, sound], sums[1:, sound])


def _by_prompt(samples: _Samples) -> Floats:
    return np.asarray(np.bincount(samples.index, weights=samples.values) / np.bincount(samples.index))


def _facts(samples: _Samples, log: float, spread: float) -> dict[str, float | str | None]:
    from nbench.normguard.analysis.coherence import coherence

    own = coherence(samples.values, samples.index)
    draws = [coherence(draw, samples.index) for draw in samples.controls]
    return {
        "log inflation": log,
        "sensitivity": float(samples.values.mean()) / spread,
        "size on single samples": float(np.abs(samples.values).mean()) / spread,
        "coherence": own.ratio,
        "coherence of controls": float(np.mean([one.ratio for one in draws])) if draws else None,
        "agreement of sign": own.agreement,
        "agreement of controls": float(np.mean([one.agreement for one in draws])) if draws else None,
    }
