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

from nbench.compare import Paired, Row, Side, joint_columns, pair_up, paired_row
from nbench.errors import UsageError
from nbench.gates.hold import Held, hold
from nbench.gates.policy import Policy, Rule, Tier
from nbench.judge_trust import widen
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
        least: share of pairs that its rule asks for.
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
    least: float

    @property
    def place(self) -> str:
        """The measure and its step count, as people say it."""
        return f"{self.name} at {self.steps} step{'' if self.steps == 1 else 's'}" if self.steps else self.name

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
        same_weights: whether the two are one and the same model, so that nothing can differ.
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
    same_weights: bool
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
        UsageError: a checkpoint is unknown, the two are one, a rule names a measure without an orientation, or step
            counts have nothing in common.
        CardMismatchError: the cards differ where the policy does not allow it.
    """
    if (base.run.folder.path, base.checkpoint) == (candidate.run.folder.path, candidate.checkpoint):
        raise UsageError(
            f"base and candidate are both {base.checkpoint!r} of run {base.run.folder.name!r}: name another candidate."
        )
    paired, allowed = pair_up(base, candidate, allow=policy.allow)
    rows = _rows(policy, hold(policy, paired, base, candidate))
    return conclude(policy, (base, candidate), rows, paired, allowed)


def conclude(
    policy: Policy,
    sides: tuple[Side, Side],
    rows: Sequence[GateRow],
    paired: Paired,
    allowed: Sequence[Difference],
) -> GateResult:
    """The overall verdict of judged rows: every critical one must pass, and no supporting one may breach."""
    from nbench.runs.card import card_hash

    base, candidate = sides
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
        same_weights=_identity(base) == _identity(candidate),
        rows=tuple(rows),
        verdict=verdict,
        reason=reason,
        allowed=tuple(allowed),
        prompts=len(paired.prompts),
        seeds=paired.seeds,
    )


def _identity(side: Side) -> tuple[str, float | None]:
    """What makes the pictures of a checkpoint, beside what a run shares."""
    own = side.run.card["checkpoints"][side.checkpoint]
    return own["weights"], own["lora_scale"]


def _rows(policy: Policy, held: Sequence[Held]) -> list[GateRow]:
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
        for i, upper in zip(gated, map(float, together.upper), strict=True):
            pairs, found = held[i].pairs, known[i].difference
            uppers[i] = upper if pairs is None or found is None else widen(found, upper, pairs.noise, 1)
    return [
        _row(policy, one, known[i], uppers[i]) if i in known else missing_row(policy, one) for i, one in enumerate(held)
    ]


def missing_row(policy: Policy, one: Held) -> GateRow:
    """The row of what the runs do not both have."""
    return GateRow(
        one.rule.tier, None, one.name, one.steps, math.nan, "INCONCLUSIVE", one.lacking, None, math.nan, None,
        least_coverage(policy, one.rule),
    )  # fmt: skip


def least_coverage(policy: Policy, rule: Rule) -> float:
    """Share of pairs that a row under the rule needs."""
    return rule.coverage if rule.coverage is not None else policy.coverage


def allowed_drop(rule: Rule, row: Row) -> float:
    """The rule's margin in the measure's unit; NaN where it cannot be had."""
    return rule.margin.absolute if rule.margin.absolute is not None else (rule.margin.sd or 0.0) * row.spread


def unfit(policy: Policy, rule: Rule, row: Row, margin: float) -> str:
    """Why a row cannot be judged at all, whatever its bounds; "" where it can."""
    least = least_coverage(policy, rule)
    if row.doubt:
        return row.doubt
    if row.difference is None:
        return "no pair has both scores"
    if row.coverage < least:
        return f"{share(row.coverage)} of the pairs have both scores, {share(least)} are needed"
    if row.difference.prompts < policy.least_prompts:
        found = row.difference.prompts
        return f"{found} prompt{'s have' if found > 1 else ' has'} a pair, {policy.least_prompts} are needed"
    if math.isnan(margin):
        return "one value has no standard deviation for a margin"
    return ""


def needed_prompts(policy: Policy, one: Held, margin: float) -> int | None:
    """Prompts, at the seeds that there are, for a candidate as good as the base to pass four times in five."""
    assert one.pairs is not None
    differences = one.pairs.differences[one.pairs.steps.index(one.steps)]
    known = np.isfinite(differences)
    prompts = np.broadcast_to(np.arange(len(differences))[:, None], known.shape)[known].tolist()
    if not margin > 0 or len(set(prompts)) < 2:
        return None
    spread = variances(differences[known], prompts)
    found = prompts_needed(spread, margin, seeds=differences.shape[1], level=policy.confidence)
    return None if found is None else max(found, policy.least_prompts)


def _row(policy: Policy, one: Held, row: Row, upper: float) -> GateRow:
    margin = allowed_drop(one.rule, row)
    verdict: Verdict = "INCONCLUSIVE"
    reason = unfit(policy, one.rule, row, margin)
    needed = needed_prompts(policy, one, margin)
    if row.difference is not None and not reason:
        bound = upper if one.rule.tier != "advisory" else row.difference.upper
        verdict = non_inferiority(row.difference.lower, bound, margin)
        if verdict == "INCONCLUSIVE":
            reason = _undecided(row, margin, needed)
    return GateRow(
        one.rule.tier, row.measure, row.measure.name, row.steps, margin, verdict, reason, row, upper, needed,
        least_coverage(policy, one.rule),
    )  # fmt: skip


def _undecided(row: Row, margin: float, needed: int | None) -> str:
    assert row.difference is not None
    prompts = row.difference.prompts
    if margin == 0:
        return "a margin of 0 passes only what is shown to be better"
    if needed is not None and needed > prompts:
        return f"{prompts} prompts are too few to show a drop of less than {margin:.3g}; about {needed} would be enough"
    return f"a drop of {margin:.3g} is neither shown nor excluded: the candidate is near the margin"


def share(value: float) -> str:
    """A share as it stands in reasons, never rounded up to 100 %."""
    return f"{math.floor(value * 1000 + 1e-9) / 10:.1f}%"
