"""How intervals become verdicts: the same three-way rules for every claim, fixed before a study is run."""

from __future__ import annotations

from collections.abc import Sequence

from nbench.study.claims.claim import Effect, Verdict

SUPERIORITY = (
    "holds where the 95 % interval lies above 0, does not hold where it lies below the smallest effect worth having "
    "({smallest:g} sd of the base), and cannot be told otherwise"
)
NON_INFERIORITY = (
    "holds where the 95 % interval lies above -{margin:g} sd of the base, does not hold where it lies below that, and "
    "cannot be told otherwise"
)


def superiority(effect: Effect | None, smallest: float) -> Verdict:
    """Is there a gain? An interval above 0 that is also below `smallest` holds: the gain is small, but there."""
    low, high = _bounds(effect)
    if low is None or high is None:
        return "cannot tell"
    if low > 0:
        return "holds"
    return "does not hold" if high < smallest else "cannot tell"


def non_inferior(effect: Effect | None, margin: float) -> Verdict:
    """Is there no loss beyond the margin?"""
    low, high = _bounds(effect)
    if low is None or high is None:
        return "cannot tell"
    if low > -margin:
        return "holds"
    return "does not hold" if high < -margin else "cannot tell"


def no_gain(effect: Effect | None, smallest: float) -> Verdict:
    """Is a gain of `smallest` ruled out? A smaller one that is shown to be there does not speak against it."""
    low, high = _bounds(effect)
    if low is None or high is None:
        return "cannot tell"
    if high < smallest:
        return "holds"
    return "does not hold" if low > 0 else "cannot tell"


def negligible(effect: Effect | None, smallest: float) -> Verdict:
    """Does the interval lie within -smallest and smallest? Refuted only by an effect shown whose mean is beyond."""
    low, high = _bounds(effect)
    if effect is None or low is None or high is None:
        return "cannot tell"
    if -smallest < low and high < smallest:
        return "holds"
    return "does not hold" if (low > 0 or high < 0) and abs(effect.mean) > smallest else "cannot tell"


def beyond(effect: Effect | None, limit: float, *, side: int = 1) -> Verdict:
    """Does the interval lie above `limit` (side 1) or below it (side -1)? Refuted where it lies on the other side."""
    low, high = _bounds(effect)
    if low is None or high is None:
        return "cannot tell"
    if (low > limit) if side > 0 else (high < limit):
        return "holds"
    return "does not hold" if ((high < limit) if side > 0 else (low > limit)) else "cannot tell"


def all_hold(verdicts: Sequence[Verdict]) -> Verdict:
    """Holds if all do; does not hold if any does not; none at all tell nothing."""
    if not verdicts:
        return "cannot tell"
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if set(verdicts) == {"holds"} else "cannot tell"


def agreed(verdicts: Sequence[Verdict]) -> Verdict:
    """Holds if all do; does not hold only if all do not."""
    return verdicts[0] if verdicts and len(set(verdicts)) == 1 else "cannot tell"


def _bounds(effect: Effect | None) -> tuple[float | None, float | None]:
    return (None, None) if effect is None else (effect.low, effect.high)
