"""Whether the sensitivities of many samples point the same way: mean over standard error, and agreement in sign.

A guard pushes all samples at once, so a per-sample effect that averages out over a batch is of no use to it. Random
directions of the same norm, through the same statistics, say what "no coherence" looks like at this sample size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nbench.errors import UsageError
from nbench.normguard.analysis.adjoint import Sensitivity
from nbench.normguard.analysis.rows import Floats
from nbench.stats.bootstrap import Interval, cluster_mean


@dataclass(frozen=True)
class Coherence:
    """How much a set of numbers agrees.

    Attributes:
        ratio: |mean| / standard error, the error clustered by prompt; NaN where there is one prompt or no spread.
        agreement: largest share of one sign, 0.5 to 1 unless some are exactly 0.
    """

    ratio: float
    agreement: float


@dataclass(frozen=True)
class SensitivityLine:
    """What the samples say together, at one step or for all steps scaled at once.

    Attributes:
        step: index from 0; None for the sum over steps.
        sigma: t there; None for the sum.
        mean: of s_k with its interval.
        spread: mean of |s_k|: the size of the effect on single samples.
        coherence: of s_k.
        control: of random directions, averaged over draws.
        failed: samples left out.
    """

    step: int | None
    sigma: float | None
    mean: Interval
    spread: float
    coherence: Coherence
    control: Coherence
    failed: int


def coherence(values: npt.ArrayLike, clusters: npt.ArrayLike) -> Coherence:
    """Coherence of `values` [n] whose clusters (prompts) are `clusters` [n].

    With residual sums r_i of the k clusters, the standard error of the mean is sqrt(k / (k - 1) sum r_i^2) / n.

    Raises:
        ValueError: no values, or lengths differ.
    """
    array, labels = np.asarray(values, dtype=np.float64), np.asarray(clusters)
    if array.ndim != 1 or array.shape != labels.shape or not len(array):
        raise ValueError(f"values {array.shape} and clusters {labels.shape} must be non-empty and of one length")
    _, index = np.unique(labels, return_inverse=True)
    sums = np.bincount(index, weights=array - array.mean())
    k = len(sums)
    error = math.sqrt(k / (k - 1) * float((sums**2).sum())) / len(array) if k > 1 else math.nan
    ratio = abs(float(array.mean())) / error if error > 0 else math.nan
    return Coherence(ratio, float(max((array > 0).mean(), (array < 0).mean())))


def summarise_sensitivity(found: Sensitivity, *, level: float = 0.95) -> tuple[SensitivityLine, ...]:
    """The sum over steps first, then every step.

    Raises:
        UsageError: no sample has a finite reward.
    """
    sound = np.isfinite(found.rewards)
    if not sound.any():
        raise UsageError("no sample has a finite reward: there is nothing to average.")
    prompts = np.asarray(found.prompt_ids)[sound]
    values, controls = found.values[sound], found.controls[:, sound]
    columns: list[tuple[int | None, Floats, Floats]] = [(None, values.sum(1), controls.sum(2))]
    columns += [(step, values[:, step], controls[:, :, step]) for step in range(values.shape[1])]
    lines = []
    for step, s, random in columns:
        draws = [coherence(draw, prompts) for draw in random]
        lines.append(
            SensitivityLine(
                step=step,
                sigma=None if step is None else float(found.sigmas[step]),
                mean=cluster_mean(s, prompts, level=level),
                spread=float(np.abs(s).mean()),
                coherence=coherence(s, prompts),
                control=Coherence(
                    float(np.mean([draw.ratio for draw in draws])), float(np.mean([draw.agreement for draw in draws]))
                ),
                failed=int((~sound).sum()),
            )
        )
    return tuple(lines)
