"""Arrays that claims are made from: scores of a checkpoint beside its base, and its norm ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nbench.compare import Pairs, Side, pair_up
from nbench.errors import CardMismatchError
from nbench.runs.tables import RunTables
from nbench.stats.bootstrap import Floats
from nbench.study.plan import BASE


@dataclass(frozen=True)
class Scores:
    """One measure of one checkpoint beside its base, on the same prompts, seeds and steps.

    Attributes:
        name: of the measure.
        kind: of its scorer.
        scorers: that it is made from.
        sign: 1 where higher values are better, -1 where lower ones are, 0 where neither.
        steps: step counts.
        prompts: ids.
        base, own: oriented, [steps, prompts, seeds]; NaN for failures.
        noise: standard deviation of one answer of a judge over repeats; 0 where there is none.
        doubt: why a judge's numbers may be shown but not gated on; "" where they may.
    """

    name: str
    kind: str
    scorers: frozenset[str]
    sign: int
    steps: tuple[int, ...]
    prompts: tuple[str, ...]
    base: Floats
    own: Floats
    noise: float = 0.0
    doubt: str = ""

    @property
    def spread(self) -> Floats:
        """Standard deviation of the base's values over pictures, [steps]; NaN where there is none."""
        found = np.full(len(self.steps), math.nan)
        for i, values in enumerate(self.base):
            known = values[np.isfinite(values)]
            if len(known) > 1 and known.std() > 0:
                found[i] = known.std(ddof=1)
        return found

    @property
    def gain(self) -> Floats:
        """Own minus base in standard deviations of the base, [steps, prompts, seeds]."""
        return np.asarray((self.own - self.base) / self.spread[:, None, None])


def paired_scores(reference: RunTables, run: RunTables, checkpoint: str, *, rescaled: bool) -> dict[str, Scores]:
    """All measures of a checkpoint and the base. A rescaled run's card may differ from the other in that alone."""
    if rescaled:
        sides = Side(_only(reference, BASE), BASE), Side(_only(run, checkpoint), checkpoint)
    else:
        both = _only(run, BASE, checkpoint)
        sides = Side(both, BASE), Side(both, checkpoint)
    paired, allowed = pair_up(*sides, allow=("sigmas",) if rescaled else ())
    other = [one for one in allowed if one.path[:2] != ("sampler", "rescale")]
    if other:
        listed = "".join(f"\n  {one}" for one in other)
        raise CardMismatchError(
            f"runs {reference.folder.name!r} and {run.folder.name!r} differ in more than the rescale:{listed}"
        )
    return {one.measure.name: _scores(one) for one in paired.pairs}


def _only(run: RunTables, *checkpoints: str) -> RunTables:
    """A run's scores of some checkpoints: a trajectory has many, and is read one by one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(checkpoints)

    def mine(table: pa.Table) -> pa.Table:
        return table.filter(pc.is_in(table["checkpoint"], value_set=wanted))

    return replace(run, samples=mine(run.samples), scores=mine(run.scores), sets=mine(run.sets), norms=mine(run.norms))


def _scores(pairs: Pairs) -> Scores:
    measure = pairs.measure
    return Scores(
        measure.name, measure.kind, frozenset({measure.scorer}), measure.sign, pairs.steps, pairs.prompts,
        pairs.base, pairs.candidate, pairs.noise, pairs.doubt,
    )  # fmt: skip


@dataclass(frozen=True)
class NormRatios:
    """rms(v) / rms(v_ref) on a checkpoint's own trajectories, per picture over the steps of the sampler.

    Attributes:
        steps: step counts.
        prompts: ids.
        mean: mean ratio, [steps, prompts, seeds]; NaN where a step lacks one.
        log: mean of its logarithm, likewise.
    """

    steps: tuple[int, ...]
    prompts: tuple[str, ...]
    mean: Floats
    log: Floats


def norm_ratios(run: RunTables, checkpoint: str) -> NormRatios | None:
    """Norm ratios of a checkpoint's pictures; None where the run did not measure them."""
    import pyarrow.compute as pc

    table = run.norms.filter(pc.equal(run.norms["checkpoint"], checkpoint))
    if not len(table) or table["ratio"].null_count == len(table):
        return None
    # A ratio that is no positive number makes its picture a failure.
    ratio = table["ratio"].to_numpy(zero_copy_only=False).astype(np.float64)
    ratio = np.where(np.isfinite(ratio) & (ratio > 0), ratio, math.nan)
    axes: list[list[object]] = []
    index = []
    for name in ("steps", "prompt_id", "seed"):
        values = table[name].to_pylist()
        axis = list(dict.fromkeys(values)) if name == "prompt_id" else sorted(set(values))
        place = {value: i for i, value in enumerate(axis)}
        axes.append(axis)
        index.append(np.array([place[value] for value in values]))
    shape = tuple(len(axis) for axis in axes)
    flat = np.ravel_multi_index(tuple(index), shape)
    size = int(np.prod(shape))
    counts = np.bincount(flat, minlength=size)
    with np.errstate(invalid="ignore"):
        mean, log = (
            (np.bincount(flat, weights=values, minlength=size) / counts).reshape(shape)
            for values in (ratio, np.log(ratio))
        )
    steps = tuple(int(str(count)) for count in axes[0])
    return NormRatios(steps, tuple(str(prompt) for prompt in axes[1]), np.asarray(mean), np.asarray(log))


def at_steps(scores: Scores, steps: Sequence[int]) -> Scores:
    """The same at some of the step counts."""
    place = [scores.steps.index(count) for count in steps]
    return replace(scores, steps=tuple(steps), base=scores.base[place], own=scores.own[place])


def by_prompt(values: Floats) -> Floats:
    """Mean over seeds and then over step counts of [steps, prompts, seeds]; [prompts].

    A failed picture is left out of its prompt's mean; a prompt without a picture at some step count is NaN.
    """
    return np.asarray(mean_over_seeds(values).mean(axis=0))


def mean_over_seeds(values: Floats) -> Floats:
    """Mean over the seeds that there are, [steps, prompts]; NaN where there is none."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis=2) / known.sum(axis=2))


Aligned = tuple[tuple[str, ...], list[Floats]]


def align(tables: Sequence[tuple[tuple[str, ...], Floats]]) -> Aligned:
    """Arrays [prompts, ...] on the prompts that all of them have, in the first one's order."""
    shared = [prompt for prompt in tables[0][0] if all(prompt in other for other, _ in tables)]
    found = []
    for prompts, values in tables:
        place = {prompt: i for i, prompt in enumerate(prompts)}
        found.append(values[[place[prompt] for prompt in shared]])
    return tuple(shared), found
