"""Finished runs on disk, with pictures, made of arrays: for boards, submissions and pages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from evidence_fakes import curve_values, made_run

from nbench.runs.images import ImageStore, NewPicture
from nbench.runs.tables import TABLES, RunTables, load_run

#: a prompt that would run, were it not shown as text
EVIL = '<script>window.hacked = true</script><img src=x onerror="window.hacked = true">'


def written_run(
    root: Path,
    values: dict[str, dict[str, np.ndarray]],
    *,
    name: str = "made",
    texts: Sequence[str] = (),
    side: int = 24,
    pictures: bool = True,
    **options: Any,
) -> RunTables:
    """A run as `made_run` makes it, below the store `root`, with a picture for every cell.

    Args:
        root: of the store.
        values: as `made_run`.
        name: of the run.
        texts: of the first prompts, instead of made-up ones.
        side: of the pictures, in pixels.
        pictures: whether there are any files; without them the tables name what is not there.
        options: of `made_run`.
    """
    run = complete(made_run(values, name=name, root=root, **options))
    samples = run.samples.to_pylist()
    keys, stored = {}, []
    for i, row in enumerate(samples):
        number = int(row["prompt_id"][1:])
        row["prompt"] = texts[number] if number < len(texts) else row["prompt"]
        settings = {
            "made": [row["checkpoint"], row["steps"], row["prompt_id"], row["seed"]],
            "width": side,
            "height": side,
        }
        pixels = np.full((side, side, 3), [i * 7 % 256, i * 3 % 256, row["steps"] * 20 % 256], dtype=np.uint8)
        picture = NewPicture(settings, pixels, (1.0,))
        keys[row["key"]], row["key"] = picture.key, picture.key
        row["path"] = f"images/{picture.key[:2]}/{picture.key}.png"
        stored.append(picture)
    if pictures:
        ImageStore(root / "images").put(stored)
    tables = {"samples": pa.Table.from_pylist(samples)}
    for table in ("scores", "norms"):
        own = getattr(run, table)
        new = pa.array([keys[key] for key in own["key"].to_pylist()], pa.string())
        tables[table] = own.set_column(own.column_names.index("key"), "key", new)
    tables["sets"] = run.sets
    run.folder.path.mkdir(parents=True)
    for table in TABLES:
        pq.write_table(tables[table], run.folder.path / f"{table}.parquet")
    run.folder.card.write_text(json.dumps(run.card))
    run.folder.done.write_text(json.dumps({"tables": {"scores.parquet": "0" * 64}}))
    run.folder.suite.write_text("")
    return load_run(run.folder)


def board_values(prompts: int = 20, **options: Any) -> dict[str, dict[str, np.ndarray]]:
    """A base, a better checkpoint, and one that breaks at few steps; two measures each."""
    shared = {"prompts": prompts, "seeds": 2, **options}
    return {
        "base": {"a": curve_values(seed=1, **shared), "b": curve_values(seed=2, **shared)},
        "better": {"a": curve_values(seed=3, shift=0.5, **shared), "b": curve_values(seed=4, shift=0.5, **shared)},
        "broken": {
            "a": curve_values(seed=5, at={2: -2.0}, **shared),
            "b": curve_values(seed=6, at={2: -2.0}, **shared),
        },
    }


def complete(run: RunTables) -> RunTables:
    """The run with the column that `made_run` leaves out: whether a scorer cut a prompt."""
    column = pa.array([None] * len(run.scores), pa.bool_())
    return dataclasses.replace(run, scores=run.scores.append_column("truncated", column))
