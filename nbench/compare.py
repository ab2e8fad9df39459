"""Two checkpoints, pair by pair: what moved, by how much, how sure, and whether the gain is more than the proxy's.

Values are oriented so that positive differences are better, except for measures without an orientation (statistics of
the pictures), whose differences are plain.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nbench.comparable import check_comparable, contract
from nbench.errors import UsageError, did_you_mean
from nbench.judge_trust import judge_trust, widened
from nbench.runs.card import Difference
from nbench.runs.cube import Cube, Measure, make_cube
from nbench.runs.tables import RunTables
from nbench.stats.bootstrap import Floats
from nbench.stats.curves import (
    Band,
    Estimate,
    area_difference,
    band,
    difference_in_differences,
    estimate,
    steps_to_match,
)
from nbench.stats.multiplicity import max_t
from nbench.stats.noninferiority import non_inferiority
from nbench.stats.paired import Columns, PairedDifference, paired_difference
from nbench.stats.power import detectable_drop

#: share of the base's standard deviation that a held-out measure may lose before a gain is called unsupported
DEFAULT_MARGIN = 0.1

Support = Literal["supported", "unsupported", "cannot tell", "no gain"]


@dataclass(frozen=True)
class Side:
    """One checkpoint of a comparison: a finished run and a name in it."""

    run: RunTables
    checkpoint: str


@dataclass(frozen=True)
class Pairs:
    """One measure's values of both sides, on the prompts, seeds and step counts that both have.

    Attributes:
        measure: which.
        steps: step counts of both, ascending.
        prompts: ids.
        base, candidate: oriented, [steps, prompts, seeds]; NaN for failures.
        noise: standard deviation of one answer of a judge over repeats; 0 where there is none.
        doubt: why a judge's numbers may be shown but not gated on; "" where they may.
    """

    measure: Measure
    steps: tuple[int, ...]
    prompts: tuple[str, ...]
    base: Floats
    candidate: Floats
    noise: float = 0.0
    doubt: str = ""

    @property
    def differences(self) -> Floats:
        """Candidate minus base, [steps, prompts, seeds]; NaN where either failed."""
        return self.candidate - self.base

    def by_prompt(self) -> tuple[Floats, Floats, int]:
        """Mean over seeds of both sides, [prompts, steps], and how many prompts were left out for lacking a pair."""
        known = np.isfinite(self.differences).all(axis=(0, 2))
        base, candidate = (side[:, known].mean(axis=2).T for side in (self.base, self.candidate))
        return base, candidate, int((~known).sum())


@dataclass(frozen=True)
class Row:
    """One measure at one step count.

    Attributes:
        measure, steps: where.
        base, candidate: means over the pairs, in the measure's own direction; NaN without pairs.
        difference: paired, oriented; None without pairs.
        coverage: share of the pairs of which both sides have a value, 0 to 1.
        spread: standard deviation of the base's values.
        detectable: smallest true drop that these prompts would find four times in five.
        doubt: why the measure may be shown but not gated on; "" where it may.
    """

    measure: Measure
    steps: int
    base: float
    candidate: float
    difference: PairedDifference | None
    coverage: float
    spread: float
    detectable: float
    doubt: str = ""


@dataclass(frozen=True)
class Curve:
    """One measure over step counts, on the prompts that have every pair.

    Attributes:
        measure: which.
        steps: step counts.
        base, candidate, difference: simultaneous 95 % bands, oriented.
        area: paired difference of the areas over log2(steps).
        few_minus_full: the difference at the fewest steps minus that at the most, a difference in differences. With an
            unguarded checkpoint as base and its guarded twin as candidate this is the guard's effect on few steps.
        match: steps that the candidate needs for the base's score at the most steps; None for unoriented measures.
        dropped: prompts left out for lacking a pair somewhere.
    """

    measure: Measure
    steps: tuple[int, ...]
    base: Band
    candidate: Band
    difference: Band
    area: PairedDifference
    few_minus_full: PairedDifference
    match: Estimate | None
    dropped: int


@dataclass(frozen=True)
class Moved:
    """A prompt, or a single pair, with its difference.

    Attributes:
        measure, steps: where.
        prompt: id.
        text: of the prompt.
        difference: oriented; of a prompt, the mean over its seeds.
        seed: index of a pair; None for a prompt.
        base_key, candidate_key: pictures of a pair; "" for a prompt.
    """

    measure: Measure
    steps: int
    prompt: str
    text: str
    difference: float
    seed: int | None = None
    base_key: str = ""
    candidate_key: str = ""


@dataclass(frozen=True)
class HeldOut:
    """What a held-out measure says of a proxy's gain at one step count.

    Attributes:
        measure, steps: where.
        margin: what it may lose, in its unit.
        mean: paired difference.
        lower: one-sided bound for itself.
        upper: one-sided bound that holds for all held-out measures and step counts together (max-T).
        verdict: PASS where no loss beyond the margin is shown to be absent, and so on; see `non_inferiority`.
    """

    measure: Measure
    steps: int
    margin: float
    mean: float
    lower: float
    upper: float
    verdict: str


@dataclass(frozen=True)
class Hacking:
    """Is the trained proxy's gain supported by what was not trained on?

    Attributes:
        trained_on: the proxies.
        gains: their rows.
        held_out: every other oriented measure at every step count.
        verdict: "supported" (a proxy is up, and no held-out measure lost more than its margin), "unsupported" (a proxy
            is up, and one did), "no gain" (no proxy is shown to be up), "cannot tell".
    """

    trained_on: tuple[str, ...]
    gains: tuple[Row, ...]
    held_out: tuple[HeldOut, ...]
    verdict: Support


@dataclass(frozen=True)
class Comparison:
    """Everything that `nbench compare` shows.

    Attributes:
        base, candidate: names of the checkpoints.
        runs: names of their runs.
        allowed: differences of the cards that were allowed by name.
        rows: by measure and step count.
        curves: by measure, where there are two step counts or more.
        improved, worsened: prompts that moved most, per oriented measure at each step count.
        regressions: single pairs that lost most, per oriented measure with pictures of its own.
        hacking: None where no trained proxy was named.
        prompts, seeds: how many pairs there could be per step count.
    """

    base: str
    candidate: str
    runs: tuple[str, str]
    allowed: tuple[Difference, ...]
    rows: tuple[Row, ...]
    curves: tuple[Curve, ...]
    improved: tuple[Moved, ...]
    worsened: tuple[Moved, ...]
    regressions: tuple[Moved, ...]
    hacking: Hacking | None
    prompts: int
    seeds: int


def compare(
    base: Side,
    candidate: Side,
    *,
    trained_on: Sequence[str] = (),
    allow: Collection[str] = (),
    margin: float = DEFAULT_MARGIN,
    most: int = 3,
) -> Comparison:
    """Compare a candidate with a base on everything that both runs scored.

    Args:
        base: what is compared with.
        candidate: what is judged.
        trained_on: measures or scorers that the candidate was trained on.
        allow: names of `nbench.comparable.ALLOWANCES` in which the cards may differ.
        margin: of held-out measures, in standard deviations of the base's values.
        most: how many moved prompts and pairs are listed per measure and step count.

    Raises:
        UsageError: a checkpoint or measure is unknown, or nothing was scored by both.
        CardMismatchError: the cards differ elsewhere.
    """
    paired, allowed = pair_up(base, candidate, allow=allow)
    rows = [paired_row(one, i) for one in paired.pairs for i in range(len(one.steps))]
    curves = tuple(_curve(one) for one in paired.pairs if len(one.steps) > 1 and _has_curve(one))
    oriented = [one for one in paired.pairs if one.measure.sign]
    improved, worsened = _moved(oriented, paired.texts, most)
    return Comparison(
        base=base.checkpoint,
        candidate=candidate.checkpoint,
        runs=(base.run.folder.name, candidate.run.folder.name),
        allowed=tuple(allowed),
        rows=tuple(rows),
        curves=curves,
        improved=improved,
        worsened=worsened,
        regressions=_regressions(oriented, paired, most),
        hacking=_hacking(paired.pairs, rows, trained_on, margin) if trained_on else None,
        prompts=len(paired.prompts),
        seeds=paired.seeds,
    )


@dataclass(frozen=True)
class Paired:
    """Both sides on common ground.

    Attributes:
        pairs: of each measure that both have.
        steps: step counts of both.
        prompts: ids.
        seeds: pictures per prompt.
        texts: prompt id -> text.
        base_keys, candidate_keys: picture keys, [steps, prompts, seeds]; None where there is no picture.
    """

    pairs: tuple[Pairs, ...]
    steps: tuple[int, ...]
    prompts: tuple[str, ...]
    seeds: int
    texts: dict[str, str]
    base_keys: np.ndarray
    candidate_keys: np.ndarray


def pair_up(base: Side, candidate: Side, *, allow: Collection[str] = ()) -> tuple[Paired, list[Difference]]:
    """Pair by (prompt, seed, steps, measure), and see that the cards agree.

    Raises:
        UsageError: a checkpoint is unknown, or there is no common step count.
        CardMismatchError: the cards differ where that is not allowed.
    """
    for side in (base, candidate):
        known = side.run.card["checkpoints"]
        if side.checkpoint not in known:
            raise UsageError(
                f"run {side.run.folder.name!r} has no checkpoint {side.checkpoint!r}."
                f"{did_you_mean(side.checkpoint, known)}"
            )
    allowed = check_comparable(
        contract(base.run.card, base.checkpoint), contract(candidate.run.card, candidate.checkpoint), allow=allow
    )
    one = make_cube(base.run)
    other = one if candidate.run is base.run else make_cube(candidate.run)
    for side, cube in ((base, one), (candidate, other)):
        if side.checkpoint not in cube.checkpoints:
            raise UsageError(
                f"run {side.run.folder.name!r} has no pictures of {side.checkpoint!r} in its tables yet: finish it "
                f"with `nbench run {side.run.folder.suite}`."
            )
    steps = tuple(count for count in one.steps if count in other.steps)
    if not steps:
        raise UsageError(
            f"the two runs share no step count: {_listed(one.steps)} and {_listed(other.steps)}; run one of them again "
            "with the other's --steps."
        )
    (a, a_steps), (b, b_steps) = _place(one, base.checkpoint, steps), _place(other, candidate.checkpoint, steps)
    number = {prompt: i for i, prompt in enumerate(other.prompts)}
    order = [number[prompt] for prompt in one.prompts]  # the same texts, so the same ids: the cards agree
    found = []
    for measure, values in one.values.items():
        theirs = other.values.get(measure)
        if theirs is None:
            continue
        sign = measure.sign or 1
        mine = sign * values[a][a_steps]
        trust = judge_trust(base.run.card, measure)
        found.append(Pairs(measure, steps, one.prompts, mine, sign * theirs[b][b_steps][:, order], *trust))
    return (
        Paired(
            tuple(found), steps, one.prompts, len(one.seeds), dict(one.texts),
            one.keys[a][a_steps], other.keys[b][b_steps][:, order],
        ),
        allowed,
    )  # fmt: skip


def _place(cube: Cube, checkpoint: str, steps: Sequence[int]) -> tuple[int, list[int]]:
    return cube.checkpoints.index(checkpoint), [cube.steps.index(count) for count in steps]


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps))


def paired_row(pairs: Pairs, i: int, *, level: float = 0.95) -> Row:
    """The paired difference of one measure at its i-th step count; `level` is that of its bounds."""
    sign = pairs.measure.sign or 1
    differences = pairs.differences[i]
    known = np.isfinite(differences)
    if not known.any():
        return Row(pairs.measure, pairs.steps[i], math.nan, math.nan, None, 0.0, math.nan, math.nan, pairs.doubt)
    base = pairs.base[i][known]
    prompts = np.broadcast_to(np.arange(len(pairs.prompts))[:, None], known.shape)[known].tolist()
    values = differences[known]
    found = widened(paired_difference(values, prompts, level=level), pairs.noise)
    detectable = math.nan
    if found.prompts > 1:
        detectable = detectable_drop(_error(values, prompts), prompts=found.prompts, level=level)
    return Row(
        measure=pairs.measure,
        steps=pairs.steps[i],
        base=float(sign * base.mean()),
        candidate=float(sign * pairs.candidate[i][known].mean()),
        difference=found,
        coverage=float(known.mean()),
        spread=float(base.std(ddof=1)) if len(base) > 1 else math.nan,
        detectable=detectable,
        doubt=pairs.doubt,
    )


def _error(values: Floats, prompts: Sequence[int]) -> float:
    """Standard error of the mean over clustered values."""
    columns = Columns.of(values[:, None], prompts)
    k = len(columns.sums)
    squares = float((columns.residuals**2).sum())
    return math.sqrt(squares * k / (k - 1)) / len(values)


def _has_curve(pairs: Pairs) -> bool:
    return bool(np.isfinite(pairs.differences).all(axis=(0, 2)).sum() >= 2)


def _curve(pairs: Pairs) -> Curve:
    base, candidate, dropped = pairs.by_prompt()

    def matched(means: Floats) -> Floats:
        return steps_to_match(means[..., 1, :], means[..., 0, -1], pairs.steps)

    return Curve(
        measure=pairs.measure,
        steps=pairs.steps,
        base=band(base),
        candidate=band(candidate),
        difference=band(candidate - base),
        area=area_difference(base, candidate, pairs.steps),
        few_minus_full=difference_in_differences(
            base, candidate, pairs.steps, few=pairs.steps[0], full=pairs.steps[-1]
        ),
        match=estimate(np.stack([base, candidate]), matched) if pairs.measure.sign else None,
        dropped=dropped,
    )


def _moved(oriented: Sequence[Pairs], texts: dict[str, str], most: int) -> tuple[tuple[Moved, ...], tuple[Moved, ...]]:
    """Prompts that gained most and that lost most; nothing that did not move."""
    improved: list[Moved] = []
    worsened: list[Moved] = []
    for pairs in oriented:
        for i, steps in enumerate(pairs.steps):
            differences = pairs.differences[i]
            known = np.isfinite(differences).any(axis=1)
            means = np.full(len(differences), math.nan)
            means[known] = np.nanmean(differences[known], axis=1)
            order = [int(p) for p in np.argsort(means, kind="stable") if math.isfinite(means[p])]
            for chosen, into, sign in ((order[:most], worsened, -1), (order[::-1][:most], improved, 1)):
                into += [
                    Moved(pairs.measure, steps, pairs.prompts[p], texts[pairs.prompts[p]], float(means[p]))
                    for p in chosen
                    if sign * means[p] > 0
                ]
    return tuple(improved), tuple(worsened)


def _regressions(oriented: Sequence[Pairs], paired: Paired, most: int) -> tuple[Moved, ...]:
    """Single pairs of pictures that lost most."""
    found: list[Moved] = []
    for pairs in oriented:
        if pairs.base.shape[2] != paired.seeds or pairs.measure.kind == "diversity":
            continue  # of sets
        for i, steps in enumerate(pairs.steps):
            differences = pairs.differences[i]
            order = np.argsort(differences, axis=None, kind="stable")[:most]  # NaN sorts last
            for place in order:
                prompt, seed = np.unravel_index(place, differences.shape)
                value = float(differences[prompt, seed])
                if not value < 0:
                    break
                name = pairs.prompts[prompt]
                keys = (str(paired.base_keys[i, prompt, seed]), str(paired.candidate_keys[i, prompt, seed]))
                found.append(Moved(pairs.measure, steps, name, paired.texts[name], value, int(seed), *keys))
    return tuple(found)


def _hacking(pairs: Sequence[Pairs], rows: Sequence[Row], trained_on: Sequence[str], margin: float) -> Hacking:
    known = {one.measure.name: one.measure for one in pairs} | {one.measure.scorer: one.measure for one in pairs}
    for name in trained_on:
        if name not in known:
            raise UsageError(f"--trained-on {name}: neither run has such a score.{did_you_mean(name, known)}")

    def trained(measure: Measure) -> bool:
        return measure.name in trained_on or measure.scorer in trained_on

    gains = tuple(row for row in rows if trained(row.measure) and row.measure.sign)
    others = [one for one in pairs if one.measure.sign and not trained(one.measure)]
    held = _held_out(others, [row for row in rows if not trained(row.measure) and row.measure.sign], margin)
    up = any(row.difference is not None and row.difference.low > 0 for row in gains)
    verdicts = {one.verdict for one in held}
    if not up:
        verdict: Support = "no gain"
    elif "BREACH" in verdicts:
        verdict = "unsupported"
    else:
        verdict = "supported" if verdicts == {"PASS"} else "cannot tell"
    return Hacking(tuple(trained_on), gains, tuple(held), verdict)


def _held_out(others: Sequence[Pairs], rows: Sequence[Row], margin: float) -> list[HeldOut]:
    measured = [row for row in rows if row.difference is not None]
    if not measured:
        return []
    by_measure = {one.measure: one for one in others}
    together = max_t(joint_columns([(by_measure[row.measure], row.steps) for row in measured]))
    found = []
    for i, row in enumerate(measured):
        assert row.difference is not None
        allowed = margin * row.spread if math.isfinite(row.spread) else 0.0
        upper = float(together.upper[i])
        lower = row.difference.lower
        verdict = non_inferiority(lower, upper, allowed)
        found.append(HeldOut(row.measure, row.steps, allowed, row.difference.mean, lower, upper, verdict))
    return found


def joint_columns(places: Sequence[tuple[Pairs, int]]) -> Columns:
    """Differences of several measures at step counts over the same prompts, to be resampled together."""
    sums, counts = [], []
    for pairs, steps in places:
        differences = pairs.differences[pairs.steps.index(steps)]
        known = np.isfinite(differences)
        sums.append(np.where(known, differences, 0.0).sum(axis=1))
        counts.append(known.sum(axis=1).astype(np.float64))
    return Columns(np.stack(sums, axis=1), np.stack(counts, axis=1))
