"""A finished run as arrays: values by checkpoint, step count, prompt and seed, for everything that compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nbench.runs.tables import RunTables
from nbench.stats.bootstrap import Floats

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Measure:
    """One metric of one scorer.

    Attributes:
        scorer: its name.
        metric: its column in the tables; the scorer's own name where it has one metric.
        kind: of the scorer: "reward", "judge", "realism", "diversity" or "statistics".
        orientation: "higher", "lower" or "none".
        unit: of its values, with the range.
    """

    scorer: str
    metric: str
    kind: str
    orientation: str
    unit: str

    @property
    def name(self) -> str:
        """The scorer, or "scorer.metric" where it has several."""
        return self.scorer if self.metric == self.scorer else f"{self.scorer}.{self.metric}"

    @property
    def sign(self) -> int:
        """1 where higher is better, -1 where lower is, 0 where neither."""
        return {"higher": 1, "lower": -1}.get(self.orientation, 0)


@dataclass(frozen=True)
class Cube:
    """Values of a run.

    Attributes:
        checkpoints: names, in the run's order.
        steps: step counts, ascending.
        prompts: ids, in the run's order.
        seeds: seed indices, ascending.
        texts: prompt id -> text.
        tags: prompt id -> tags.
        values: by measure, float64 [checkpoints, steps, prompts, seeds], NaN for a failure; set-level measures have one
            seed.
        keys: picture keys, [checkpoints, steps, prompts, seeds]; None where there is no picture.
        norms: mean velocity norm of each picture, [checkpoints, steps, prompts, seeds]; NaN where there is none.
    """

    checkpoints: tuple[str, ...]
    steps: tuple[int, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    texts: Mapping[str, str]
    tags: Mapping[str, tuple[str, ...]]
    values: Mapping[Measure, Floats]
    keys: npt.NDArray[np.object_]
    norms: Floats

    def measure(self, name: str) -> Measure | None:
        """A measure by its name; None when the run has none of it."""
        return next((one for one in self.values if one.name == name), None)


def make_cube(run: RunTables) -> Cube:
    """Arrange a run's tables.

    A cell that the tables lack, as after a run that was not finished, is a failure like any other.
    """
    samples = run.samples
    axes = {
        "checkpoint": _ordered(samples, "checkpoint"),
        "steps": sorted(_ordered(samples, "steps")),
        "prompt_id": _ordered(samples, "prompt_id"),
        "seed": sorted(_ordered(samples, "seed")),
    }
    texts = dict(zip(samples["prompt_id"].to_pylist(), samples["prompt"].to_pylist(), strict=True))
    tags = dict(zip(samples["prompt_id"].to_pylist(), map(tuple, samples["tags"].to_pylist()), strict=True))
    shape = tuple(len(axis) for axis in axes.values())
    keys = np.full(shape, None, dtype=object)
    made = np.array([path is not None for path in samples["path"].to_pylist()], dtype=bool)
    place = _place(samples, axes)
    keys[tuple(index[made] for index in place)] = np.array(samples["key"].to_pylist(), dtype=object)[made]
    return Cube(
        checkpoints=tuple(axes["checkpoint"]),
        steps=tuple(axes["steps"]),
        prompts=tuple(axes["prompt_id"]),
        seeds=tuple(axes["seed"]),
        texts=texts,
        tags=tags,
        values={**_values(run.card, run.scores, axes), **_values(run.card, run.sets, {**axes, "seed": [0]})},
        keys=keys,
        norms=_norms(run.norms, axes),
    )


def _ordered(table: pa.Table, name: str) -> list[Any]:
    found: list[Any] = table[name].unique().to_pylist()
    return found


def _place(table: pa.Table, axes: Mapping[str, Sequence[Any]]) -> tuple[npt.NDArray[np.int64], ...]:
    """Index of each row along each axis; a table without a column stands at 0 of that axis."""
    found = []
    for name, axis in axes.items():
        if name not in table.column_names:
            found.append(np.zeros(len(table), dtype=np.int64))
            continue
        column = table[name].combine_chunks().dictionary_encode()
        number = {value: i for i, value in enumerate(axis)}
        translate = np.array([number[value] for value in column.dictionary.to_pylist()], dtype=np.int64)
        found.append(translate[column.indices.to_numpy(zero_copy_only=False)])
    return tuple(found)


def _values(card: Mapping[str, Any], table: pa.Table, axes: Mapping[str, Sequence[Any]]) -> dict[Measure, Floats]:
    import pyarrow.compute as pc

    shape = tuple(len(axis) for axis in axes.values())
    found: dict[Measure, Floats] = {}
    for scorer, part in card.get("scorers", {}).items():
        mine = table.filter(pc.equal(table["scorer"], scorer))
        for metric in part["metrics"]:
            name = metric["name"] or scorer
            rows = mine.filter(pc.equal(mine["metric"], name))
            if not len(rows):
                continue
            array = np.full(shape, np.nan)
            array[_place(rows, axes)] = rows["value"].to_numpy(zero_copy_only=False)
            found[Measure(scorer, name, part["kind"], metric["orientation"], metric["unit"])] = array
    return found


def _norms(table: pa.Table, axes: Mapping[str, Sequence[Any]]) -> Floats:
    shape = tuple(len(axis) for axis in axes.values())
    place = np.ravel_multi_index(_place(table, axes), shape)
    size = int(np.prod(shape))
    counts = np.bincount(place, minlength=size)
    sums = np.bincount(place, weights=table["norm"].to_numpy(zero_copy_only=False), minlength=size)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(counts > 0, sums / counts, np.nan).reshape(shape))
