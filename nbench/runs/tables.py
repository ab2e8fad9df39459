"""The tables of a run: samples, scores, sets and norms as parquet, the same bytes however often it was interrupted.

Rows are in the order of the cells; nothing in them depends on time, machine or attempt.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbench.errors import StoreError
from nbench.runs.files import store_errors, write_atomic
from nbench.runs.generate import speeds
from nbench.runs.images import StoredPicture
from nbench.runs.journal import Ledger
from nbench.runs.plan import Cell
from nbench.runs.resolve import Resolved
from nbench.runs.score import TRUNCATED
from nbench.runs.sets import PictureSet
from nbench.runs.store import RunFolder

if TYPE_CHECKING:
    import pyarrow as pa

TABLES = ("samples", "scores", "sets", "norms")


@dataclass(frozen=True)
class Outcome:
    """What a run ended with, ready to be tabulated.

    Attributes:
        resolved: the run.
        cells: all of them, in order.
        sets: all of them, in order.
        stored: pictures by key.
        ratios: norm ratios by key.
        scores: values by scorer name.
        picture_failures: key -> reason.
        score_failures: scorer name -> key -> reason.
    """

    resolved: Resolved
    cells: Sequence[Cell]
    sets: Sequence[PictureSet]
    stored: Mapping[str, StoredPicture]
    ratios: Ledger
    scores: Mapping[str, Ledger]
    picture_failures: Mapping[str, str]
    score_failures: Mapping[str, Mapping[str, str]]


def write_tables(run: RunFolder, outcome: Outcome) -> dict[str, str]:
    """Write the tables; returns file name -> sha256.

    Raises:
        StoreError: the disk refuses.
    """
    import pyarrow.parquet as pq

    made = {
        "samples": _samples(outcome),
        "scores": _scores(outcome),
        "sets": _sets(outcome),
        "norms": _norms(outcome),
    }
    hashes = {}
    for name, table in made.items():
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        write_atomic(run.path / f"{name}.parquet", buffer.getvalue())
        hashes[f"{name}.parquet"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    return hashes


def _cell_columns(cell: Cell) -> dict[str, Any]:
    return {
        "checkpoint": cell.checkpoint,
        "steps": cell.steps,
        "prompt_id": cell.row.prompt.id,
        "seed": cell.row.seed,
        "key": cell.key,
    }


def _cell_schema() -> list[tuple[str, pa.DataType]]:
    import pyarrow as pa

    return [
        ("checkpoint", pa.string()),
        ("steps", pa.int32()),
        ("prompt_id", pa.string()),
        ("seed", pa.int32()),
        ("key", pa.string()),
    ]


def _samples(outcome: Outcome) -> pa.Table:
    """A row per cell: what was asked, and the picture's path in the store or why there is none."""
    import pyarrow as pa

    resolved = outcome.resolved
    rows = []
    for cell in outcome.cells:
        made = cell.key in outcome.stored
        rows.append(
            {
                **_cell_columns(cell),
                "noise_seed": cell.row.noise_seed,
                "prompt": cell.row.prompt.text,
                "tags": list(cell.row.prompt.tags),
                "height": resolved.height,
                "width": resolved.width,
                "path": f"images/{cell.key[:2]}/{cell.key}.png" if made else None,
                "reason": None if made else outcome.picture_failures.get(cell.key, "not made"),
            }
        )
    schema = [
        *_cell_schema(),
        ("noise_seed", pa.int64()),
        ("prompt", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("path", pa.string()),
        ("reason", pa.string()),
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(schema))


def _scores(outcome: Outcome) -> pa.Table:
    """A row per cell, scorer of pictures and metric: a value or the reason why not; whether the prompt was cut."""
    import pyarrow as pa

    rows = []
    for name, scorer in outcome.resolved.picture_scorers.items():
        for cell in outcome.cells:
            values = outcome.scores[name].get(cell.key) if cell.key in outcome.stored else None
            reason, cut = None, None if values is None else values.get(TRUNCATED)
            if values is None:
                reason = outcome.score_failures[name].get(cell.key, "not scored")
                if cell.key not in outcome.stored:
                    reason = "no picture"
            for metric in scorer.card.metrics:
                value = None if values is None else values[metric.name]
                rows.append(
                    {
                        **_cell_columns(cell),
                        "scorer": name,
                        "metric": metric.name or name,
                        "value": value,
                        "reason": reason,
                        "truncated": None if cut is None else bool(cut),
                    }
                )
    schema = [*_cell_schema(), *_score_schema(), ("truncated", pa.bool_())]
    return pa.Table.from_pylist(rows, schema=pa.schema(schema))


def _score_schema() -> list[tuple[str, pa.DataType]]:
    import pyarrow as pa

    return [("scorer", pa.string()), ("metric", pa.string()), ("value", pa.float64()), ("reason", pa.string())]


def _sets(outcome: Outcome) -> pa.Table:
    """A row per checkpoint, step count, prompt, set-level scorer and metric: a value, or the reason why not."""
    import pyarrow as pa

    rows = []
    for name, scorer in outcome.resolved.set_scorers.items():
        for one in outcome.sets:
            values, reason = outcome.scores[name].get(one.key), None
            missing = one.missing(outcome.stored)
            if missing:
                values, reason = None, f"{missing} of {len(one.cells)} pictures are missing"
            elif values is None:
                reason = outcome.score_failures[name].get(one.key, "not scored")
            for metric in scorer.card.metrics:
                rows.append(
                    {
                        "checkpoint": one.checkpoint,
                        "steps": one.steps,
                        "prompt_id": one.prompt.id,
                        "seeds": len(one.cells),
                        "key": one.key,
                        "scorer": name,
                        "metric": metric.name or name,
                        "value": None if values is None else values[metric.name],
                        "reason": reason,
                    }
                )
    schema = [
        ("checkpoint", pa.string()),
        ("steps", pa.int32()),
        ("prompt_id", pa.string()),
        ("seeds", pa.int32()),
        ("key", pa.string()),
        *_score_schema(),
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(schema))


def _norms(outcome: Outcome) -> pa.Table:
    """A row per picture and step: sigma, RMS of the guided velocity, and its ratio to the reference's."""
    import pyarrow as pa

    resolved = outcome.resolved
    schema = pa.schema(
        [
            *_cell_schema(),
            ("step", pa.int32()),
            ("sigma", pa.float32()),
            ("norm", pa.float32()),
            ("ratio", pa.float32()),
        ]
    )
    # By columns: a large run has millions of these rows, and a dictionary for each would take gigabytes.
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for cell in outcome.cells:
        picture = outcome.stored.get(cell.key)
        if picture is None:
            continue
        count = len(picture.norms)
        ratios: Sequence[float | None] = [None] * count
        if resolved.suite.norm_ratio:
            own = cell.checkpoint == resolved.suite.reference_name
            ratios = [1.0] * count if own else outcome.ratios.get(cell.key) or ratios
        # A pipeline that can only generate keeps its sigmas to itself.
        sigmas = resolved.checkpoint(cell.checkpoint).sigmas[cell.steps] or [None] * count
        for name, value in _cell_columns(cell).items():
            columns[name] += [value] * count
        columns["step"] += range(count)
        columns["sigma"] += sigmas[:count]
        columns["norm"] += picture.norms
        columns["ratio"] += ratios
    return pa.Table.from_pydict(columns, schema=schema)


@dataclass(frozen=True)
class RunTables:
    """A finished run, read back.

    Attributes:
        folder: of the run.
        card: its comparability card.
        done: what done.json says; {} when the run is not complete.
        samples, scores, sets, norms: its tables.
        speed: (checkpoint, steps) -> pictures per second, for what this run made itself.
    """

    folder: RunFolder
    card: Mapping[str, Any]
    done: Mapping[str, Any]
    samples: pa.Table
    scores: pa.Table
    sets: pa.Table
    norms: pa.Table
    speed: Mapping[tuple[str, int], float]


def load_run(folder: RunFolder) -> RunTables:
    """Read a run's tables.

    Raises:
        StoreError: it has none yet, or they cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    card = folder.read_json(folder.card) or {}
    tables = {}
    for name in TABLES:
        path = folder.path / f"{name}.parquet"
        if not path.is_file():
            raise StoreError(
                f"run {folder.name!r} has no tables yet (it is {folder.state()}): finish it with "
                f"`nbench run {folder.suite}`."
            )
        with store_errors(path, "read"):
            try:
                # One file, opened as such: hive folder names in a path must not become columns.
                tables[name] = pq.ParquetFile(path).read()
            except pa.ArrowException as error:
                raise StoreError(f"{path} is damaged; delete done.json beside it, and run again.") from error
    return RunTables(
        folder=folder,
        card=card,
        done=folder.read_json(folder.done) or {},
        samples=tables["samples"],
        scores=tables["scores"],
        sets=tables["sets"],
        norms=tables["norms"],
        speed=speeds(folder.records()),
    )
