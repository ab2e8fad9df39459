"""Leaving the store: a run's tables as parquet or CSV, or one Hugging Face data set with the pictures in it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nbench.errors import StoreError, UsageError
from nbench.runs.files import store_errors, write_atomic
from nbench.runs.images import ImageStore
from nbench.runs.tables import TABLES, RunTables

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "csv", "hf"]

_PICTURES_HELD = 64  # at a time, when pictures are exported


def export_run(run: RunTables, images: ImageStore, to: Format, out: Path) -> list[Path]:
    """Write a run's tables into the folder `out`; returns the files.

    parquet and csv: samples, scores, sets and norms, and the card. hf: a folder that `datasets.load_dataset` reads (and
    that can be uploaded as it is), one row per picture with a column per metric.

    Raises:
        UsageError: `out` is a file, or holds something already.
        StoreError: the disk refuses, or a picture is missing.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already: give a new or empty folder to export into.")
    if to == "hf":
        return _export_hf(run, images, out)
    files = []
    for name in TABLES:
        table: pa.Table = getattr(run, name)
        path = out / f"{name}.{to}"
        write_atomic(path, _parquet(table) if to == "parquet" else _csv(table))
        files.append(path)
    return [*files, _write_card(run, out)]


def _write_card(run: RunTables, out: Path) -> Path:
    path = out / "card.json"
    write_atomic(path, (json.dumps(run.card, indent=1, sort_keys=True) + "\n").encode("utf-8"))
    return path


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _csv(table: pa.Table) -> bytes:
    import pyarrow as pa
    from pyarrow import csv

    for index, field in enumerate(table.schema):
        if pa.types.is_list(field.type):  # CSV has no lists: tags joined by spaces
            joined = [" ".join(item) for item in table.column(index).to_pylist()]
            table = table.set_column(index, field.name, pa.array(joined, pa.string()))
    buffer = io.BytesIO()
    csv.write_csv(table, buffer)
    return buffer.getvalue()


def wide_rows(run: RunTables) -> list[dict[str, Any]]:
    """One row per cell: the samples table with a column per metric and the mean velocity norm."""
    rows: list[dict[str, Any]] = run.samples.to_pylist()
    places: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        places[_place(row)] = row
    metrics = list(dict.fromkeys(zip(run.scores["scorer"].to_pylist(), run.scores["metric"].to_pylist(), strict=True)))
    names = {pair: _metric_column(pair, metrics) for pair in metrics}
    for row in rows:
        row.update(dict.fromkeys([*names.values(), "velocity_norm"]))
    for score in run.scores.to_pylist():
        places[_place(score)][names[score["scorer"], score["metric"]]] = score["value"]
    norms: dict[tuple[Any, ...], list[float]] = {}
    for norm in run.norms.to_pylist():
        norms.setdefault(_place(norm), []).append(norm["norm"])
    for place, values in norms.items():
        places[place]["velocity_norm"] = sum(values) / len(values)
    return rows


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["checkpoint"], row["steps"], row["prompt_id"], row["seed"]


def _metric_column(pair: tuple[str, str], metrics: Sequence[tuple[str, str]]) -> str:
    """The metric's name, with its scorer's where two scorers share it."""
    shared = sum(metric == pair[1] for _, metric in metrics) > 1
    return f"{pair[0]}.{pair[1]}" if shared else pair[1]


def _export_hf(run: RunTables, images: ImageStore, out: Path) -> list[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features, Image, List, Value

    rows = wide_rows(run)
    for row in rows:
        row["image"] = row.pop("path")
    kinds = {"steps": "int32", "seed": "int32", "height": "int32", "width": "int32", "noise_seed": "int64"}
    texts = {"checkpoint", "prompt_id", "key", "prompt", "reason"}
    features: dict[str, Any] = {}
    for name in rows[0]:
        if name == "image":
            features[name] = Image()
        elif name == "tags":
            features[name] = List(Value("string"))
        else:
            features[name] = Value("string" if name in texts else kinds.get(name, "float64"))
    data = out / "data" / "train-00000-of-00001.parquet"
    schema = Features(features).arrow_schema
    with store_errors(data):
        data.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(data, schema, compression="zstd") as writer:
            # A few at a time: the pictures of a large run do not fit into memory.
            for start in range(0, len(rows), _PICTURES_HELD):
                some = [{**row, "image": _picture(row, images)} for row in rows[start : start + _PICTURES_HELD]]
                writer.write_table(pa.Table.from_pylist(some, schema=schema))
    readme = out / "README.md"
    write_atomic(readme, _readme(run, rows).encode("utf-8"))
    return [data, readme, _write_card(run, out)]


def _picture(row: dict[str, Any], images: ImageStore) -> dict[str, Any] | None:
    """A picture as `datasets` stores it; None where the run has none."""
    if row["image"] is None:
        return None
    if images.read(row["key"]) is None:
        raise StoreError(f"picture {row['key'][:12]}... is missing or damaged; run the suite again first.")
    return {"bytes": images.path(row["key"]).read_bytes(), "path": f"{row['key']}.png"}


def _readme(run: RunTables, rows: Sequence[dict[str, Any]]) -> str:
    checkpoints = ", ".join(run.card["checkpoints"])
    return (
        "---\npretty_name: nbench run\ntags: [text-to-image, nbench]\n---\n\n"
        f"# nbench run {run.folder.name}\n\n{len(rows)} pictures of the checkpoints {checkpoints} "
        f"at {', '.join(map(str, run.card['steps']))} steps, on the prompts of {run.card['prompts']['name']}. "
        "`card.json` says what made them. A score that is null is a failure, not a zero; `reason` says why a "
        "picture is missing.\n"
    )
