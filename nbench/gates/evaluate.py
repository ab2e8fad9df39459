"""A policy held against two checkpoints: a verdict per measure and step count, and one overall.

PASS needs every critical row to be non-inferior, each at the stated confidence: an intersection-union test, which needs
no correction. BREACH needs one gated row whose drop beyond its margin is shown by a bound that holds for all gated rows
together (max-T), since any of them would block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nbench.compare import Pairs, Row, Side, joint_columns, pair_up, paired_row
from nbench.errors import UsageError, did_you_mean
from nbench.gates.policy import Policy, Rule, Tier
from nbench.runs.card import Difference
from nbench.runs.cube import Measure
from nbench.stats.multiplicity import max_t
from nbench.stats.noninferiority import Verdict, non_inferiority, overall
from nbench.stats.power import prompts_needed, variances


@dataclass(frozen=True)
class GateRow:
    """One measure at one step count, held to a rule.

    Attributes:
        tier: of the rule.
        measure: None where a rule names something that the run has not.
        name: of the measure, or what the rule named.
        steps: step count; 0 where there is no measure.
        margin: largest drop that is allowed, in the measure's unit; NaN where it cannot be had.
        verdict: of this row.
        reason: why it is inconclusive; "" otherwise.
        row: the paired difference and what belongs to it; None where there is no measure.
        upper: one-sided bound of the difference that holds for all gated rows together.
        needed: prompts that would decide for a candidate as good as the base, four times in five; None where that
            cannot be told.
    """

    tier: Tier
    measure: Measure | None
    name: str
    steps: int
    margin: float
    verdict: Verdict
    reason: str
    row: Row | None
    upper: float
    needed: int | None

    @property
    def blocks(self) -> bool:
        """Whether this row keeps the release back."""
        return {"critical": self.verdict != "PASS", "supporting": self.verdict == "BREACH"}.get(self.tier, False)


@dataclass(frozen=True)
class GateResult:
    """What a gate found.

    Attributes:
        policy: that was held against them.
        base, candidate: names.
        runs: names of their runs.
        cards: hashes of their runs' cards.
        rows: in the order of the policy's rules.
        verdict: overall.
        reason: why it is inconclusive without a row that says so; "" otherwise.
        allowed: differences of the cards that were allowed by name.
        prompts, seeds: how many pairs there could be per row.
    """

    policy: Policy
    base: str
    candidate: str
    runs: tuple[str, str]
    cards: tuple[str, str]
    rows: tuple[GateRow, ...]
    verdict: Verdict
    reason: str
    allowed: tuple[Difference, ...]
    prompts: int
    seeds: int

    @property
    def exit_code(self) -> int:
        """0 passed, 1 breached, 2 inconclusive."""
        return {"PASS": 0, "BREACH": 1, "INCONCLUSIVE": 2}[self.verdict]


def evaluate_gate(policy: Policy, base: Side, candidate: Side) -> GateResult:
    """Hold a policy against two checkpoints.

    Raises:
        UsageError: a checkpoint is unknown, a rule names a measure without an orientation, or step counts have nothing
            in common.
        CardMismatchError: the cards differ where the policy does not allow it.
    """
    from nbench.runs.card import card_hash

    paired, allowed = pair_up(base, candidate, allow=policy.allow)
    rows = _rows(policy, paired.pairs, paired.steps)
    gated = [row.verdict for row in rows if row.tier == "critical"]
    blocking: list[Verdict] = ["BREACH" for row in rows if row.tier == "supporting" and row.verdict == "BREACH"]
    verdict = overall([*gated, *blocking])
    reason = ""
    if not gated and verdict == "INCONCLUSIVE":
        reason = "no critical measure was evaluated: the policy names none, so that nothing can be passed"
    return GateResult(
        policy=policy,
        base=base.checkpoint,
        candidate=candidate.checkpoint,
        runs=(base.run.folder.name, candidate.run.folder.name),
        cards=(card_hash(base.run.card), card_hash(candidate.run.card)),
        rows=tuple(rows),
        verdict=verdict,
        reason=reason,
        allowed=tuple(allowed),
        prompts=len(paired.prompts),
        seeds=paired.seeds,
    )


@dataclass(frozen=True)
class _Held:
    """A measure at a step count, under its rule; without pairs where the runs have no such measure or step count."""

    rule: Rule
    name: str
    steps: int
    pairs: Pairs | None


def _rows(policy: Policy, pairs: Sequence[Pairs], steps: Sequence[int]) -> list[GateRow]:
    held = _held(policy, pairs, steps)
    known = {
        i: paired_row(one.pairs, one.pairs.steps.index(one.steps), level=policy.confidence)
        for i, one in enumerate(held)
        if one.pairs is not None
    }
    gated = [i for i, row in known.items() if row.difference is not None and held[i].rule.tier != "advisory"]
    uppers = dict.fromkeys(known, math.nan)
    if gated:
        places = [(held[i].pairs, held[i].steps) for i in gated]
        together = max_t(joint_columns([(one, at) for one, at in places if one is not None]), level=policy.confidence)
        uppers.update(zip(gated, map(float, together.upper), strict=True))
    return [_row(policy, one, known[i], uppers[i]) if i in known else _missing(one) for i, one in enumerate(held)]


def _held(policy: Policy, pairs: Sequence[Pairs], steps: Sequence[int]) -> list[_Held]:
    taken: set[tuple[Measure, int]] = set()
    found: list[_Held] = []
    names = {one.measure.name for one in pairs} | {one.measure.scorer for one in pairs}
    for rule in policy.rules:
        counts = steps if rule.steps is None else rule.steps
        for kind in rule.kinds:
            of_kind = [one for one in pairs if one.measure.kind == kind and one.measure.sign]
            if not of_kind:
                found.append(_Held(rule, f"scorer of kind {kind}", 0, None))
            found += _place(rule, of_kind, counts, taken)
        for name in rule.scorers:
            named = [one for one in pairs if name in (one.measure.name, one.measure.scorer)]
            if any(not one.measure.sign for one in named):
                raise UsageError(f"{name} has no better side, so it cannot be gated: leave it out of the policy.")
            if not named:
                found.append(_Held(rule, f"{name}{did_you_mean(name, names)}", 0, None))
            found += _place(rule, named, counts, taken)
    return found


def _place(rule: Rule, pairs: Sequence[Pairs], steps: Sequence[int], taken: set[tuple[Measure, int]]) -> list[_Held]:
    found = []
    for one in pairs:
        for count in steps:
            if (one.measure, count) in taken:
                continue
            taken.add((one.measure, count))
            found.append(_Held(rule, one.measure.name, count, one if count in one.steps else None))
    return found


def _missing(one: _Held) -> GateRow:
    reason = f"the runs share no pictures at {one.steps} steps" if one.steps else f"the runs have no {one.name}"
    return GateRow(
        one.rule.tier, None, one.name, one.steps, math.nan, "INCONCLUSIVE", reason, None, math.nan, None
    )  # fmt: skip


def _row(policy: Policy, one: _Held, row: Row, upper: float) -> GateRow:
    assert one.pairs is not None
    margin = one.rule.margin
    allowed = margin.absolute if margin.absolute is not None else (margin.sd or 0.0) * row.spread
    least = one.rule.coverage if one.rule.coverage is not None else policy.coverage
    verdict: Verdict = "INCONCLUSIVE"
    reason, needed = "", None
    if row.difference is None:
        reason = "no pair has both scores"
    elif row.coverage < least:
        reason = f"{row.coverage:.1%} of the pairs have both scores, {least:.1%} are needed"
    elif math.isnan(allowed):
        reason = "one prompt has no standard deviation for a margin"
    else:
        lower = row.difference.lower
        verdict = non_inferiority(lower, upper if one.rule.tier != "advisory" else row.difference.upper, allowed)
        needed = _needed(one.pairs, one.steps, allowed, policy.confidence)
        if verdict == "INCONCLUSIVE":
            reason = _undecided(row, allowed, needed)
    return GateRow(
        one.rule.tier, row.measure, row.measure.name, row.steps, allowed, verdict, reason, row, upper, needed
    )  # fmt: skip


def _undecided(row: Row, margin: float, needed: int | None) -> str:
    assert row.difference is not None
    prompts = row.difference.prompts
    if math.isnan(row.difference.lower):
        return "one prompt cannot decide anything"
    if margin == 0:
        return "a margin of 0 passes only what is shown to be better"
    if needed is not None and needed > prompts:
        return f"{prompts} prompts are too few to show a drop of less than {margin:.3g}; about {needed} would be enough"
    return f"a drop of {margin:.3g} is neither shown nor excluded: the candidate is near the margin"


def _needed(pairs: Pairs, steps: int, margin: float, level: float) -> int | None:
    """Prompts, at the seeds that there are, for a candidate as good as the base to pass four times in five."""
    differences = pairs.differences[pairs.steps.index(steps)]
    known = np.isfinite(differences)
    prompts = np.broadcast_to(np.arange(len(differences))[:, None], known.shape)[known].tolist()
    if margin <= 0 or len(set(prompts)) < 2:
        return None
    spread = variances(differences[known], prompts)
    return prompts_needed(spread, margin, seeds=differences.shape[1], level=level)
