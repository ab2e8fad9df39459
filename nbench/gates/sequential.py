"""A gate that is looked at again and again while pictures are still being made, with valid error rates.

Each row's bounds are those of an anytime-valid confidence sequence over prompts in a fixed order
(`nbench.stats.sequential`), intersected over every number of prompts so far. PASS is an intersection-union test: each
critical row needs its lower bound, at the policy's confidence, above its margin. BREACH needs one gated row whose upper
bound is below it, at a confidence that is shared by all gated rows (Bonferroni), since any of them would block.

What a policy names "advisory" is shown at the policy's confidence and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nbench.compare import Pairs, Row, Side, pair_up, paired_row
from nbench.gates.evaluate import (
    GateResult,
    GateRow,
    allowed_drop,
    conclude,
    least_coverage,
    missing_row,
    needed_prompts,
    unfit,
)
from nbench.gates.hold import Held, hold
from nbench.gates.policy import Policy
from nbench.stats.bootstrap import Floats
from nbench.stats.noninferiority import Verdict
from nbench.stats.sequential import FEWEST, confidence_sequence


@dataclass(frozen=True)
class Bounds:
    """What is known of a mean difference after the prompts so far, whenever one looks.

    Attributes:
        low, high: two-sided interval at the policy's confidence.
        lower: one-sided bound at the policy's confidence.
        upper: one-sided bound that holds for all gated rows together at the policy's confidence.
        upper_alone: for this row alone.
    """

    low: float
    high: float
    lower: float
    upper: float
    upper_alone: float


def running_bounds(by_prompt: Floats, *, level: float, rows: int, tuned_for: int) -> Bounds:
    """Bounds from one difference per prompt, intersected over every number of prompts so far.

    Infinite before `FEWEST` prompts.

    Args:
        by_prompt: mean difference of each prompt over its seeds, in an order that does not depend on the values, [n].
        level: of the policy.
        rows: gated rows that share the upper bound.
        tuned_for: number of prompts at which the bounds are tightest; fixed beforehand.
    """
    if len(by_prompt) < FEWEST:
        return Bounds(-math.inf, math.inf, -math.inf, math.inf, math.inf)

    def at(confidence: float) -> tuple[float, float]:
        lower, upper = confidence_sequence(by_prompt, level=confidence, tuned_for=tuned_for)
        return float(lower.max()), float(upper.min())

    low, high = at((1 + level) / 2)
    lower, alone = at(level)
    _, upper = at(1 - (1 - level) / max(1, rows))
    return Bounds(low, high, lower, upper, alone)


def anytime_verdict(lower: float, upper: float, margin: float) -> Verdict:
    """BREACH where a drop beyond the margin was ever shown, else PASS where it was ever excluded.

    Both can be so only when one of the two bounds has erred; then the release is held back.
    """
    if upper < -margin:
        return "BREACH"
    return "PASS" if lower > -margin else "INCONCLUSIVE"


def evaluate_look(
    policy: Policy, base: Side, candidate: Side, order: Sequence[str], *, tuned_for: int, last: bool = False
) -> GateResult:
    """Hold a policy against two checkpoints on the prompts so far.

    Args:
        policy: what is held.
        base: a finished run's checkpoint.
        candidate: likewise.
        order: prompt ids in the order in which they were added; the same at every look, as far as it goes.
        tuned_for: see `running_bounds`.
        last: whether there are no more prompts to come.

    Raises:
        UsageError: as `evaluate_gate`.
        CardMismatchError: likewise.
    """
    paired, allowed = pair_up(base, candidate, allow=policy.allow)
    held = hold(policy, paired, base, candidate)
    number = {prompt: i for i, prompt in enumerate(paired.prompts)}
    places = [number[prompt] for prompt in order]
    gated = sum(one.pairs is not None and one.rule.tier != "advisory" for one in held)
    look = _Look(policy, places, gated, tuned_for, last)
    rows = [missing_row(policy, one) if one.pairs is None else look.row(one, one.pairs) for one in held]
    return conclude(policy, (base, candidate), rows, paired, allowed)


@dataclass(frozen=True)
class _Look:
    policy: Policy
    places: Sequence[int]
    gated: int
    tuned_for: int
    last: bool

    def row(self, one: Held, pairs: Pairs) -> GateRow:
        i = pairs.steps.index(one.steps)
        row = paired_row(pairs, i, level=self.policy.confidence)
        margin = allowed_drop(one.rule, row)
        values = prompt_means(pairs.differences[i][self.places])
        found = running_bounds(values, level=self.policy.confidence, rows=self.gated, tuned_for=self.tuned_for)
        needed = needed_prompts(self.policy, one, margin)
        verdict: Verdict = "INCONCLUSIVE"
        reason = unfit(self.policy, one.rule, row, margin)
        if not reason:
            upper = found.upper_alone if one.rule.tier == "advisory" else found.upper
            verdict = anytime_verdict(found.lower, upper, margin)
            reason = "" if verdict != "INCONCLUSIVE" else self._undecided(len(values), margin, needed)
        shown = _anytime_row(row, values, found)
        upper = math.nan if one.rule.tier == "advisory" else found.upper
        return GateRow(
            one.rule.tier, row.measure, row.measure.name, row.steps, margin, verdict, reason, shown, upper, needed,
            least_coverage(self.policy, one.rule),
        )  # fmt: skip

    def _undecided(self, prompts: int, margin: float, needed: int | None) -> str:
        if margin == 0:
            return "a margin of 0 passes only what is shown to be better"
        more = "" if not self.last else ", and there are no more"
        if needed is not None and needed > prompts:
            more += f"; about {needed} would be enough if their number were fixed beforehand, and looking takes more"
        return f"{prompts} prompts neither show nor exclude a drop of {margin:.3g}{more}"


def prompt_means(differences: Floats) -> Floats:
    """Mean over the seeds that have a pair, of [prompts, seeds]; prompts without any are left out."""
    known = np.isfinite(differences)
    counts = known.sum(axis=1)
    sums = np.where(known, differences, 0.0).sum(axis=1)
    return np.asarray(sums[counts > 0] / counts[counts > 0])


def _anytime_row(row: Row, values: Floats, found: Bounds) -> Row:
    """The row with bounds that hold whenever one looks, in place of those for a fixed number of prompts."""
    if row.difference is None:
        return row
    difference = replace(
        row.difference,
        mean=float(values.mean()),
        low=found.low,
        high=found.high,
        lower=found.lower,
        upper=found.upper_alone,
    )
    return replace(row, difference=difference, detectable=math.nan)


def hopeless(result: GateResult, prompts: int) -> str:
    """Why this candidate can no longer pass, however the rest of `prompts` turns out; "" while it can."""
    critical = [row for row in result.rows if row.tier == "critical"]
    if not critical:
        return "the policy names no critical measure"
    for row in critical:
        if row.row is None:
            return f"{row.place}: {row.reason}"
        best = (row.row.coverage * result.prompts + (prompts - result.prompts)) / prompts
        if best < row.least - 1e-12:
            return f"{row.place}: too many scores are missing already"
    return ""
