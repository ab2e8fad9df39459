"""How many prompts and seeds a policy takes, and what generating them costs, before a candidate is judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nbench.compare import Side, pair_up
from nbench.errors import UsageError, did_you_mean
from nbench.gates.policy import Policy, Rule
from nbench.runs.cube import Measure, make_cube
from nbench.runs.tables import RunTables
from nbench.stats.bootstrap import Floats
from nbench.stats.power import Variances, from_base, prompts_needed, variances


@dataclass(frozen=True)
class PlannedRow:
    """One measure at one step count.

    Attributes:
        measure, steps: where.
        tier: of its rule.
        margin: in the measure's unit.
        prompts: seeds per prompt -> prompts that pass a candidate as good as the base with the wanted probability in
            this row; None where a million are not enough, as for a margin of 0.
    """

    measure: Measure
    steps: int
    tier: str
    margin: float
    prompts: dict[int, int | None]


@dataclass(frozen=True)
class Plan:
    """What a policy takes.

    Attributes:
        rows: of critical and supporting rules.
        needed: seeds per prompt -> prompts that are enough for each critical row; None where some row's are not, or
            where no row is critical.
        pictures: seeds per prompt -> pictures per checkpoint, over all gated step counts.
        seconds: seeds per prompt -> time to generate them here, from the run's own speed; None where it is not known.
        power: that was planned for.
        basis: "the base's scores" or "measured pairs".
    """

    rows: tuple[PlannedRow, ...]
    needed: dict[int, int | None]
    pictures: dict[int, int | None]
    seconds: dict[int, float | None]
    power: float
    basis: str


def plan_gate(
    policy: Policy,
    base: Side,
    candidate: Side | None = None,
    *,
    seeds: Sequence[int] = (1, 2, 4),
    power: float = 0.8,
    correlation: float = 0.5,
) -> Plan:
    """Plan from a finished run of the base; from measured pairs where a candidate is there already.

    Args:
        policy: what is to be held.
        base: a run's checkpoint.
        candidate: a checkpoint of its kind, whose pairs with the base give the variances themselves.
        seeds: pictures per prompt to plan for.
        power: wanted probability that a candidate as good as the base passes a row.
        correlation: assumed of the base's and a candidate's scores, without a candidate.

    Raises:
        UsageError: the base is unknown, or the run has nothing that the policy gates.
    """
    cube = make_cube(base.run)
    if base.checkpoint not in cube.checkpoints:
        hint = did_you_mean(base.checkpoint, cube.checkpoints)
        raise UsageError(f"run {base.run.folder.name!r} has no checkpoint {base.checkpoint!r}.{hint}")
    measured: dict[tuple[Measure, int], Floats] = {}
    if candidate is not None:
        paired, _ = pair_up(base, candidate, allow=policy.allow)
        measured = {(one.measure, at): one.differences[i] for one in paired.pairs for i, at in enumerate(one.steps)}
    place = cube.checkpoints.index(base.checkpoint)
    rows, taken = [], set[tuple[Measure, int]]()
    for rule in policy.rules:
        for measure in cube.values:
            for i, at in enumerate(cube.steps):
                if (measure, at) in taken or not _names(rule, measure, at):
                    continue
                taken.add((measure, at))  # as in a gate, the first rule that names it holds
                if rule.tier == "advisory":
                    continue
                scores = cube.values[measure][place, i]
                spread = _variances(scores, measured.get((measure, at)), correlation)
                if spread is not None:
                    rows.append(_plan(policy, rule, measure, at, scores, spread, seeds, power))
    if not rows:
        raise UsageError("the run has no score that the policy gates: run the base with the policy's scorers first.")
    needed = {count: _most([row.prompts[count] for row in rows if row.tier == "critical"]) for count in seeds}
    counts = sorted({row.steps for row in rows})
    pictures = {count: None if n is None else n * count * len(counts) for count, n in needed.items()}
    speed = _seconds(base.run, base.checkpoint, counts)
    return Plan(
        rows=tuple(rows),
        needed=needed,
        pictures=pictures,
        seconds={count: None if n is None or speed is None else n * count * speed for count, n in needed.items()},
        power=power,
        basis="measured pairs" if candidate is not None else "the base's scores",
    )


def _names(rule: Rule, measure: Measure, steps: int) -> bool:
    if not measure.sign or (rule.steps is not None and steps not in rule.steps):
        return False
    return measure.kind in rule.kinds or measure.name in rule.scorers or measure.scorer in rule.scorers


def _variances(scores: Floats, differences: Floats | None, correlation: float) -> Variances | None:
    values = scores if differences is None else differences
    known = np.isfinite(values)
    prompts = np.broadcast_to(np.arange(len(values))[:, None], known.shape)[known].tolist()
    if len(set(prompts)) < 2:
        return None
    if differences is None:
        return from_base(values[known], prompts, correlation=correlation)
    return variances(values[known], prompts)


def _plan(
    policy: Policy,
    rule: Rule,
    measure: Measure,
    steps: int,
    scores: Floats,
    spread: Variances,
    seeds: Sequence[int],
    power: float,
) -> PlannedRow:
    known = scores[np.isfinite(scores)]
    margin = rule.margin.absolute
    if margin is None:
        margin = (rule.margin.sd or 0.0) * float(known.std(ddof=1)) if len(known) > 1 else math.nan
    found: dict[int, int | None] = dict.fromkeys(seeds)
    if margin > 0:
        for count in seeds:
            enough = prompts_needed(spread, margin, seeds=count, target=power, level=policy.confidence)
            found[count] = None if enough is None else max(enough, policy.least_prompts)
    return PlannedRow(measure, steps, rule.tier, margin, found)


def _most(needed: Sequence[int | None]) -> int | None:
    known = [n for n in needed if n is not None]
    return max(known) if needed and len(known) == len(needed) else None


def _seconds(run: RunTables, checkpoint: str, steps: Sequence[int]) -> float | None:
    """Seconds for one picture at each of the step counts together."""
    speeds = [run.speed.get((checkpoint, count)) for count in steps]
    if any(not speed for speed in speeds):
        return None
    return sum(1 / speed for speed in speeds if speed)
