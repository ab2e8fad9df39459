"""Claims 9 and 10: GRPO's plain importance ratios drift and differ between steps; normalised ones do neither."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nbench.stats.bootstrap import Floats
from nbench.study.claims.claim import Claim, Part
from nbench.study.claims.log_ratios import KINDS, LogRatios, Moments, log_ratios
from nbench.study.claims.pooling import (
    Contrast,
    figure_effects,
    one_effect,
    pooled_effect,
    pooling_caveats,
    transformed,
)
from nbench.study.claims.reader import Reader, named
from nbench.study.claims.rules import all_hold, beyond
from nbench.study.claims.wording import ALL, GRPO_GUARD, counted, number, part, shown, untold

#: largest over smallest standard deviation of the log-ratio over steps that counts as "differs"
UNEVEN = 1.5

_DRIFT = "The plain importance ratio has a mean below 1, and its variance differs between timesteps."
_DRIFT_RULE = (
    f"It holds where the 95 % interval of the mean of ratio - 1 lies below 0 and that of the largest over the smallest "
    f"standard deviation of the log-ratio over steps lies above {UNEVEN:g}; it does not hold where either lies wholly "
    "on the other side; it cannot be told otherwise."
)
_RESTORED = "Ratio normalisation restores both: a mean at 1, and a variance that is equal over timesteps."
_RESTORED_RULE = (
    "Normalised minus raw, of the standardised mean of the log-ratio (|mean over standard deviation, averaged over "
    "steps|) and of log(largest over smallest standard deviation over steps): it holds where both 95 % intervals lie "
    "below 0, does not hold where either lies above 0, and cannot be told otherwise."
)
_MEAN, _SPREAD, _STANDARDISED = "ratio - 1", "largest / smallest standard deviation", "standard deviations"
_LOG = "log(largest / smallest standard deviation)"


def claim_plain_ratio(reader: Reader) -> Claim:
    """The plain ratio's mean falls below 1, and its variance differs across timesteps."""
    found = _measured(reader)
    if not found:
        return untold(9, "plain-ratio", GRPO_GUARD, _DRIFT, _DRIFT_RULE, reader.missing)
    means = [Contrast(one.name, (0,), one.prompts, one.excess[None], unit=_MEAN) for one in found]
    logs, each = figure_effects([one.figured(lambda moments: _unevenness(moments, "raw")) for one in found], _LOG)
    mean, spread = pooled_effect(means), transformed(logs, math.exp, _SPREAD)
    pooled = (
        part("all: mean", mean, beyond(mean, 0.0, side=-1), {"measure": "mean"}, scope=ALL),
        part("all: spread", spread, beyond(spread, UNEVEN), {"measure": "spread"}, scope=ALL),
    )
    parts: list[Part] = []
    for one, contrast, log in zip(found, means, each, strict=True):
        effect, own = one_effect(contrast), transformed(log, math.exp, _SPREAD)
        steps = {f"std at step {i}": float(std) for i, std in enumerate(one.by_step("raw")[1])}
        parts.append(
            part(f"{one.name} mean", effect, beyond(effect, 0.0, side=-1), {"measure": "mean", **_trained(reader, one)})
        )
        parts.append(part(f"{one.name} spread", own, beyond(own, UNEVEN), {"measure": "spread", **steps}))
    return Claim(
        number=9,
        key="plain-ratio",
        source=GRPO_GUARD,
        statement=_DRIFT,
        rule=_DRIFT_RULE,
        verdict=all_hold([one.verdict for one in pooled]),
        effect=mean,
        parts=(*pooled, *parts),
        summary=(f"Over {counted(mean, 'checkpoint')}: mean {shown(mean)}; {_SPREAD} over steps {shown(spread)}."),
        caveats=(*pooling_caveats(mean), *_REACH),
        missing=reader.missing,
        series=_series(found),
    )


def claim_restored(reader: Reader) -> Claim:
    """Ratio normalisation restores both."""
    found = _measured(reader)
    if not found:
        return untold(10, "normalised-ratio", GRPO_GUARD, _RESTORED, _RESTORED_RULE, reader.missing)
    pooled: list[Part] = []
    parts: list[Part] = []
    for key, unit, figure in (("mean", _STANDARDISED, _standardised), ("spread", _LOG, _unevenness)):
        figured = [one.figured(_difference(figure)) for one in found]
        effect, each = figure_effects(figured, unit)
        pooled.append(part(f"all: {key}", effect, beyond(effect, 0.0, side=-1), {"measure": key}, scope=ALL))
        for one, own in zip(found, each, strict=True):
            facts = {kind: _value(one, figure, kind) for kind in KINDS}
            parts.append(part(f"{one.name} {key}", own, beyond(own, 0.0, side=-1), {"measure": key, **facts}))
    return Claim(
        number=10,
        key="normalised-ratio",
        source=GRPO_GUARD,
        statement=_RESTORED,
        rule=_RESTORED_RULE,
        verdict=all_hold([one.verdict for one in pooled]),
        effect=pooled[0].effect,
        parts=(*pooled, *parts),
        summary=(
            f"Normalised minus raw, over {counted(pooled[0].effect, 'checkpoint')}: standardised mean "
            f"{shown(pooled[0].effect)}; spread over steps {shown(pooled[1].effect)}."
        ),
        caveats=(*pooling_caveats(pooled[0].effect), *_REACH),
        missing=reader.missing,
        series=_series(found),
    )


_REACH = (
    "The log-ratio is a mean over latent elements, as in the public code.",
    "The steps with the largest and the smallest standard deviation are picked on one half of the prompts and measured "
    "on the other, both ways: picked and measured on the same prompts they would differ by chance alone.",
    "The ratio is that of an early checkpoint to its base, on the base's rollouts: further apart than two successive "
    "policies of one training, whose log-ratios are in the facts.",
)


def _unevenness(moments: Mapping[str, Moments], kind: str) -> Floats:
    """log(largest / smallest standard deviation over steps), without the bias of picking the extremes.

    The largest of several estimates is too large, and the smallest too small, also where all steps are alike. So the
    two steps are picked on one half of the prompts and measured on the other, and both ways are averaged.
    """
    return np.asarray(np.mean([_picked(*moments[kind].halves), _picked(*moments[kind].halves[::-1])], axis=0))


def _picked(picking: Floats, measured: Floats) -> Floats:
    log = np.log(measured)
    largest, smallest = (place(picking, axis=-1)[..., None] for place in (np.argmax, np.argmin))
    return np.asarray((np.take_along_axis(log, largest, -1) - np.take_along_axis(log, smallest, -1))[..., 0])


def _standardised(moments: Mapping[str, Moments], kind: str) -> Floats:
    return np.asarray(np.abs((moments[kind].mean / moments[kind].std).mean(axis=-1)))


#: a figure of one kind
_Figure = Callable[[Mapping[str, Moments], str], Floats]


def _difference(figure: _Figure) -> Callable[[Mapping[str, Moments]], Floats]:
    return lambda moments: np.asarray(figure(moments, "normalised") - figure(moments, "raw"))


def _value(found: LogRatios, figure: _Figure, kind: str) -> float:
    figured = found.figured(lambda moments: figure(moments, kind))
    return float(figured.figure(figured.columns.mean(axis=0)))


def _measured(reader: Reader) -> list[LogRatios]:
    found = []
    for group in reader.groups(("grpo",)):
        analysis = reader.evidence.ratios.get(group.name)
        if analysis is None:
            reader.lacks(f"the ratio analysis of {group.name}: go on with the study")
            continue
        present = set(analysis.samples["checkpoint"].to_pylist())
        for training in group.of(reader.settings.unguarded):
            if training.checkpoint not in present:
                reader.lacks(f"ratios of {training.name}: go on with the study")
                continue
            one = log_ratios(analysis.samples, training.checkpoint, named(group, training), training.name)
            if one is not None:
                found.append(one)
    return found


def _trained(reader: Reader, found: LogRatios) -> dict[str, float]:
    """Mean log-ratio between successive policies of the training, by step, over its epochs."""
    sums: dict[str, list[float]] = {}
    for record in reader.evidence.logs.get(found.training, ()):
        stats: Mapping[str, Any] = record.get("stats", {}).get("log_ratio", {})
        for step, figures in stats.get("by", {}).items():
            sums.setdefault(step, []).append(float(figures["mean"]))
    return {
        f"log-ratio of successive policies at step {step}": float(np.mean(values))
        for step, values in sorted(sums.items(), key=lambda one: int(one[0]))
    }


def _series(found: list[LogRatios]) -> dict[str, dict[str, list[float | None]]]:
    lines: dict[str, dict[str, list[float | None]]] = {}
    for one in found:
        for kind in KINDS:
            mean, std = one.by_step(kind)
            lines[f"{one.name} {kind}"] = {
                "step": [float(step) for step in range(len(one.sigmas))],
                "sigma": [number(sigma) for sigma in one.sigmas],
                "mean": [number(float(value)) for value in mean],
                "std": [number(float(value)) for value in std],
            }
    return lines
