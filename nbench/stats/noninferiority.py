"""Gates as non-inferiority: is a candidate worse than its base by more than a margin?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

Verdict = Literal["PASS", "BREACH", "INCONCLUSIVE"]


def non_inferiority(lower: float, upper: float, margin: float) -> Verdict:
    """The verdict on a paired difference d (positive is better) for a margin m >= 0.

    Args:
        lower: one-sided lower bound of d.
        upper: one-sided upper bound of d.
        margin: the largest drop that is allowed.

    Returns:
        PASS where d > -m is shown, BREACH where d < -m is shown, INCONCLUSIVE otherwise, and where a bound is NaN.

    Raises:
        ValueError: the margin is negative or not finite.
    """
    if not math.isfinite(margin) or margin < 0:
        raise ValueError(f"a margin is a number from 0 up, not {margin}")
    if lower > -margin:
        return "PASS"
    if upper < -margin:
        return "BREACH"
    return "INCONCLUSIVE"


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """BREACH if any, else INCONCLUSIVE if any or if there is none, else PASS (an intersection-union test)."""
    found = set(verdicts)
    if "BREACH" in found:
        return "BREACH"
    return "PASS" if found == {"PASS"} else "INCONCLUSIVE"
