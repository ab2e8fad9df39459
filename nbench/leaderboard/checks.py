"""May a checkpoint stand on a board? Its tables must hold every cell that the board needs, and its card must fit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbench.comparable import check_comparable, contract
from nbench.compare import Side
from nbench.errors import CardMismatchError, UsageError
from nbench.runs.card import Difference
from nbench.runs.cube import Cube, Measure, make_cube

_SHOWN = 12  # faults in one message


@dataclass(frozen=True)
class Demand:
    """What every entry of a board must have, which its base says.

    Attributes:
        base: its cube.
        contract: the base's card, cut to the board's steps and scorers.
        steps: step counts.
        measures: that count.
        coverage: least share of the base's values, by measure.
        allow: parts of the cards that may differ.
        checkpoint: the base's, in its cube.
    """

    base: Cube
    contract: Mapping[str, Any]
    steps: tuple[int, ...]
    measures: tuple[Measure, ...]
    coverage: float
    allow: tuple[str, ...]
    checkpoint: str


def cut(card: Mapping[str, Any], checkpoint: str, steps: Collection[int], scorers: Collection[str]) -> dict[str, Any]:
    """What another checkpoint of the board must share with this one."""
    found = contract(card, checkpoint)
    found["sigmas"] = {count: grid for count, grid in found["sigmas"].items() if int(count) in steps}
    found["scorers"] = {name: identity for name, identity in found["scorers"].items() if name in scorers}
    return found


def check_entry(name: str, side: Side, demand: Demand) -> list[Difference]:
    """See that a checkpoint has all that the board needs.

    Args:
        name: of the entry.
        side: its tables and its checkpoint.
        demand: of the board.

    Returns:
        The differences of the cards that are allowed by name.

    Raises:
        UsageError: with every fault: missing cells, other prompts, missing or doubled scores, too little coverage.
        CardMismatchError: the cards differ where the board does not allow it.
    """
    scorers = {measure.scorer for measure in demand.measures}
    try:
        allowed = check_comparable(
            demand.contract, cut(side.run.card, side.checkpoint, demand.steps, scorers), allow=demand.allow
        )
    except CardMismatchError as error:
        raise CardMismatchError(f"{name} cannot stand on this board: {error}") from None
    faults = _cells(side, demand) or _values(side, make_cube(side.run), demand)
    if faults:
        raise UsageError(refusal(f"{name} cannot stand on this board", faults))
    return allowed


def refusal(what: str, faults: Sequence[str]) -> str:
    """One message for all faults."""
    more = [f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
    return f"{what}:" + "".join(f"\n  {fault}" for fault in [*faults[:_SHOWN], *more])


def _cells(side: Side, demand: Demand) -> list[str]:
    """Every step count x prompt x seed of the board once, with a picture and the base's text."""
    base = demand.base
    columns = side.run.samples.select(["checkpoint", "steps", "prompt_id", "seed", "prompt", "path"]).to_pydict()
    seen: Counter[tuple[int, str, int]] = Counter()
    faults: list[str] = []
    other: set[str] = set()
    for checkpoint, steps, prompt, seed, text, path in zip(*columns.values(), strict=True):
        if checkpoint != side.checkpoint or steps not in demand.steps:
            continue
        seen[steps, prompt, seed] += 1
        if prompt in base.texts and text != base.texts[prompt]:
            other.add(prompt)
        if path is None:
            faults.append(f"no picture of prompt {prompt!r}, seed {seed}, at {steps} steps")
    wanted = [(steps, prompt, seed) for steps in demand.steps for prompt in base.prompts for seed in base.seeds]
    for steps in demand.steps:
        missing = sum(not seen[cell] for cell in wanted if cell[0] == steps)
        if missing:
            faults.append(f"{missing} of {len(base.prompts) * len(base.seeds)} cells are missing at {steps} steps")
    strangers = len(seen.keys() - set(wanted))
    if strangers:
        faults.append(f"{strangers} cells are of prompts or seeds that the board has not")
    doubled = sum(count > 1 for count in seen.values())
    if doubled:
        faults.append(f"{doubled} cells are there more than once")
    return faults + [f"prompt {prompt!r} has another text than the base's" for prompt in sorted(other)]


def _values(side: Side, cube: Cube, demand: Demand) -> list[str]:
    """A row for every cell and measure, once; a value where the base has one, up to the coverage."""
    base = demand.base
    own = cube.checkpoints.index(side.checkpoint)
    places = [cube.steps.index(count) for count in demand.steps]
    order = [cube.prompts.index(prompt) for prompt in base.prompts]
    theirs = base.checkpoints.index(demand.checkpoint)
    their_places = [base.steps.index(count) for count in demand.steps]
    rows = _rows(side)
    faults = []
    for measure in demand.measures:
        values = cube.values.get(measure)
        if values is None:
            faults.append(f"no {measure.name} scores")
            continue
        wanted = np.isfinite(base.values[measure][theirs][their_places])
        mine = values[own][places][:, order]
        if mine.shape != wanted.shape:
            faults.append(f"{measure.name} has {mine.shape[2]} seeds, the base {wanted.shape[2]}")
            continue
        expected = wanted.size
        found = sum(rows[measure.scorer, measure.metric, count] for count in demand.steps)
        if found != expected:
            faults.append(f"{measure.name} has {found} rows for {expected} cells")
        if not wanted.any():
            continue
        share = float(np.isfinite(mine)[wanted].mean())
        if share < demand.coverage:
            faults.append(
                f"{measure.name} has {_percent(share)} of the values that the base has, {demand.coverage:.4g} of 1 "
                "are needed: score the rest (nbench run ... --retry-failed)"
            )
    return faults


def _rows(side: Side) -> Counter[tuple[str, str, int]]:
    found: Counter[tuple[str, str, int]] = Counter()
    for table in (side.run.scores, side.run.sets):
        columns = table.select(["checkpoint", "scorer", "metric", "steps"]).to_pydict()
        for checkpoint, scorer, metric, steps in zip(*columns.values(), strict=True):
            if checkpoint == side.checkpoint:
                found[scorer, metric, steps] += 1
    return found


def _percent(share: float) -> str:
    """Never rounded up to 100 %."""
    return f"{math.floor(share * 1000) / 10:g} %"
