"""Words and numbers that all claims share: sources, units, and figures as text."""

from __future__ import annotations

import math
from collections.abc import Mapping

from nbench.study.claims.claim import Claim, Effect, Part, Verdict

NORMGUARD = "NormGuard (arXiv 2606.27771)"
GRPO_GUARD = "GRPO-Guard (arXiv 2510.22319)"
#: the unit of differences: standard deviations of the base's values over pictures at the same step count
SD = "sd of the base"
#: value of the fact "scope": what a verdict is about, one pair or training of it, or shown beside it only
ALL, ONE, INFORMATION = "all", "one", "information"


def number(value: float) -> float | None:
    """The value, or None for one that is not finite, as JSON needs it."""
    return float(value) if math.isfinite(value) else None


def shown(effect: Effect | None) -> str:
    """An effect in words, such as "+0.21 sd of the base (95 % interval +0.11 to +0.31)"."""
    if effect is None:
        return "not measured"
    if effect.low is None or effect.high is None:
        return f"{effect.mean:+.3g} {effect.unit} (no interval)"
    return f"{effect.mean:+.3g} {effect.unit} (95 % interval {effect.low:+.3g} to {effect.high:+.3g})"


def counted(effect: Effect | None, what: str = "pair") -> str:
    """Over how much, such as "12 pairs and 48 prompts"."""
    if effect is None:
        return f"no {what}s"
    plural = "" if effect.trainings == 1 else "s"
    return f"{effect.trainings} {what}{plural} and {effect.prompts} prompts"


def small(effect: Effect | None, smallest: float) -> str:
    """A sentence for an effect that is there but not worth having; "" for others."""
    if effect is None or effect.low is None or effect.high is None or not 0 < effect.low <= effect.high < smallest:
        return ""
    return f" The effect is there, but smaller than the smallest worth having ({smallest:g})."


def part(
    name: str,
    effect: Effect | None,
    verdict: Verdict,
    facts: Mapping[str, float | str | None] | None = None,
    *,
    scope: str = ONE,
) -> Part:
    """A part whose facts hold its scope, and no NaN."""
    clean = {key: number(value) if isinstance(value, float) else value for key, value in (facts or {}).items()}
    return Part(name, effect, verdict, {"scope": scope, **clean})


def untold(
    number_: int,
    key: str,
    source: str,
    statement: str,
    rule: str,
    missing: tuple[str, ...],
    parts: tuple[Part, ...] = (),
) -> Claim:
    """A claim without evidence."""
    return Claim(
        number_,
        key,
        source,
        statement,
        rule,
        "cannot tell",
        None,
        parts=parts,
        summary="It was not measured.",
        missing=missing or ("the study has nothing that this claim could be tested on",),
    )
