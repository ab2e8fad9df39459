"""The views of a board: each measure's curves over all checkpoints, and what they make up together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nbench.errors import UsageError
from nbench.leaderboard.definition import Definition
from nbench.leaderboard.figures import Level, Part, View, combined, spread
from nbench.leaderboard.sources import Source
from nbench.runs.cube import Measure
from nbench.stats.bootstrap import Floats


def make_views(
    definition: Definition, measures: Sequence[Measure], everyone: Sequence[Source]
) -> tuple[tuple[View, ...], dict[str, float]]:
    """The overall view, the kinds where there are several, the measures; and sigma of each measure.

    Args:
        definition: of the board.
        measures: that count.
        everyone: the base first; all of them checked.

    Raises:
        UsageError: a measure has too few values, or no spread to measure by.
    """
    prompts = everyone[0].cube.prompts
    full = definition.steps.index(definition.full_steps)
    singles: list[View] = []
    parts: dict[str, list[Part]] = {}
    sigmas: dict[str, float] = {}
    for measure in measures:
        values = np.stack([_oriented(source, measure, definition, prompts) for source in everyone])
        known = np.flatnonzero(np.isfinite(values).all(axis=(0, 1, 3)))
        if len(known) < 2:
            raise UsageError(
                f"board {definition.name!r}: {measure.name} has values of all checkpoints on {len(known)} prompts, "
                "which is too few; leave it out, or score more prompts."
            )
        curves = values[:, :, known].mean(axis=3).transpose(0, 2, 1)
        sigma = spread(values[0, full, known])
        if not sigma > 0:
            raise UsageError(
                f"board {definition.name!r}: {measure.name} is the same for every picture of the base, so that it has "
                "no standard deviation to measure by; leave it out."
            )
        sigmas[measure.name] = sigma
        parts.setdefault(measure.kind, []).append(Part(curves, known, sigma))
        zero = measure.sign > 0 and bool({measure.name, measure.scorer} & set(definition.true_zero))
        dropped = int(np.isfinite(values).any(axis=(0, 1, 3)).sum()) - len(known)
        singles.append(
            View(
                name=measure.name,
                level="measure",
                kind=measure.kind,
                unit=measure.unit,
                sign=measure.sign,
                measures=(measure.name,),
                curves=curves,
                true_zero=zero,
                dropped=dropped,
            )
        )
    kinds = [_combined(kind, "kind", own, [one for one in singles if one.kind == kind], len(prompts))
             for kind, own in parts.items()]  # fmt: skip
    whole = [Part(view.curves, np.arange(len(prompts)), 1.0) for view in kinds]
    overall = _combined("overall", "overall", whole, singles, len(prompts))
    # One kind alone is the overall view.
    return (overall, *(kinds if len(kinds) > 1 else ()), *singles), sigmas


def _combined(name: str, level: Level, parts: Sequence[Part], rests_on: Sequence[View], prompts: int) -> View:
    return View(
        name=name,
        level=level,
        kind=name if level == "kind" else "",
        unit="standard deviations of the base",
        sign=1,
        measures=tuple(one.name for one in rests_on),
        curves=combined(parts, prompts),
        true_zero=False,
        dropped=max(one.dropped for one in rests_on),
    )


def _oriented(source: Source, measure: Measure, definition: Definition, prompts: Sequence[str]) -> Floats:
    """[steps, prompts, seeds], in the order of `prompts`."""
    cube = source.cube
    number = {prompt: i for i, prompt in enumerate(cube.prompts)}
    values = cube.values[measure][cube.checkpoints.index(source.side.checkpoint)]
    places = [cube.steps.index(count) for count in definition.steps]
    return np.asarray(measure.sign * values[places][:, [number[prompt] for prompt in prompts]])
