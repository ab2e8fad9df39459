"""What a judge's calibration card means for its numbers: how noisy they are, and whether they may be gated on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nbench.scoring.judge.known_checks import known_check

if TYPE_CHECKING:
    from nbench.runs.cube import Measure
    from nbench.stats.paired import PairedDifference

_PREFIX = "judge@"


def judge_trust(card: Mapping[str, Any], measure: Measure) -> tuple[float, str]:
    """(noise, doubt) of a measure of a run.

    Args:
        card: of the run.
        measure: one of it.

    Returns:
        The standard deviation of one answer over repeats, 0 where it is not known or the measure is no judge's; and why
        the measure may be shown but not gated on, "" where it may.
    """
    if measure.kind != "judge" or not measure.scorer.startswith(_PREFIX):
        return 0.0, ""
    found = known_check(card["scorers"][measure.scorer]["identity"])
    if found is None:
        spec = measure.scorer.removeprefix(_PREFIX)
        return 0.0, f"its judge was not checked on this machine: run `nbench judge check {spec}` first"
    doubt = "" if found.trusted else f"its judge failed its check: {'; '.join(found.faults) or 'no reason kept'}"
    return found.deviation or 0.0, doubt


def widened(found: PairedDifference, noise: float) -> PairedDifference:
    """The difference with bounds that also hold the noise of both answers of each pair, added in quadrature."""
    if not noise:
        return found
    return replace(
        found,
        low=widen(found, found.low, noise, -1),
        high=widen(found, found.high, noise, 1),
        lower=widen(found, found.lower, noise, -1),
        upper=widen(found, found.upper, noise, 1),
    )


def widen(found: PairedDifference, bound: float, noise: float, side: int) -> float:
    """One bound of a mean difference, moved outwards by twice the noise's standard error over the pairs, in quadrature.

    Args:
        found: the difference that `bound` is of.
        bound: below its mean for `side` -1, above it for 1.
        noise: standard deviation of one answer over repeats.
        side: -1 or 1.
    """
    return found.mean + side * math.hypot(bound - found.mean, 2 * noise * math.sqrt(2 / found.pairs))
