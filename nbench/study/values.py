"""Every value of a study's runs in one table, for analyses of one's own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from nbench.runs.cube import Cube, make_cube
from nbench.runs.tables import RunTables
from nbench.stats.bootstrap import Floats
from nbench.study.claims.scores import norm_ratios
from nbench.study.evidence import Evidence
from nbench.study.plan import BASE, PlannedRun

if TYPE_CHECKING:
    import pyarrow as pa

#: columns that say which picture a row is
PLACE = ("run", "base", "method", "reward", "arm", "training_seed", "epoch", "steps", "prompt_id", "seed")


def values_table(evidence: Evidence) -> pa.Table:
    """A row per picture of every finished run: `PLACE`, a float32 column per measure, and "norm_ratio".

    `arm` is "base" for the base, whose training seed and epoch are null; epoch is null for a finished training.
    Measures are in their own direction; failures, and what a run did not measure, are null. A set-level measure stands
    at seed 0.
    """
    import pyarrow as pa

    tables = []
    for planned in evidence.plan.runs():
        run = evidence.run(planned.group, planned.kind)
        if run is None:
            continue
        cube = make_cube(run)
        tables.append(_of_run(planned, cube, _ratios(run, cube)))
    return pa.concat_tables(tables, promote_options="default") if tables else pa.table({})


def parquet(table: pa.Table) -> bytes:
    """The table as the bytes of a Parquet file."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=15)
    return buffer.getvalue()


def _of_run(planned: PlannedRun, cube: Cube, ratios: Floats) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, list[Any]] = {name: [] for name in PLACE}
    for place in _places(planned, cube):
        for name, value in zip(PLACE, place, strict=True):
            columns[name].append(value)
    shape = cube.keys.shape
    made = {name: pa.array(values) for name, values in columns.items()}
    for measure, values in cube.values.items():
        whole = np.full(shape, np.nan)
        whole[..., : values.shape[3]] = values
        made[measure.name] = _floats(whole)
    made["norm_ratio"] = _floats(ratios)
    for name in ("training_seed", "epoch", "steps", "seed"):
        made[name] = pa.array(columns[name], type=pa.int32())
    return pa.table(made)


def _floats(values: Floats) -> pa.Array:
    import pyarrow as pa

    flat = values.reshape(-1).astype(np.float32)
    return pa.array(flat, mask=~np.isfinite(flat))


def _places(planned: PlannedRun, cube: Cube) -> Iterator[tuple[Any, ...]]:
    """In the order of the cube's axes."""
    group = planned.group
    for checkpoint in cube.checkpoints:
        if checkpoint == BASE:
            arm, seed, epoch = BASE, None, None
        else:
            training, epoch = planned.checkpoints[checkpoint]
            arm, seed = training.arm, training.seed
        for steps in cube.steps:
            for prompt in cube.prompts:
                for picture in cube.seeds:
                    yield (
                        planned.kind, group.base, group.method, group.reward, arm, seed, epoch, steps, prompt, picture,
                    )  # fmt: skip


def _ratios(run: RunTables, cube: Cube) -> Floats:
    """Mean norm ratio over a picture's steps, shaped as the cube's keys; NaN where it was not measured."""
    whole = np.full(cube.keys.shape, np.nan)
    for i, checkpoint in enumerate(cube.checkpoints):
        found = norm_ratios(run, checkpoint)
        if found is not None:
            order = [found.prompts.index(prompt) for prompt in cube.prompts]
            whole[i] = found.mean[:, order]
    return whole
