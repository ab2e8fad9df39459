"""Public prompt sets: a YAML entry names a data set, and `datasets` fetches it when somebody asks for it.

An entry:

    name: parti-prompts
    source: https://github.com/google-research/parti
    licence: Apache-2.0
    count: 1632                     # a warning when it differs
    dataset:
      id: nateraw/parti-prompts     # hub id, local folder, or a builder of `datasets` ("json", "csv") with data_files
      split: train                  # left out: all splits, with the split's name as a tag
      config: ...  revision: ...    # optional
      data_files: {split: file}     # optional; an https address is downloaded once
    columns:
      text: Prompt
      id: ...                       # optional; ids are made from the texts without it
      tags: [Category, Challenge]   # optional; "column.key" reads a key of a column that holds JSON
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbench.errors import PromptSetError
from nbench.prompt_readers import RawRow, RawSet, check_keys, make_row, set_fields
from nbench.resources import cache_folder

_KEYS = ("name", "description", "source", "licence", "count", "hash", "dataset", "columns")


def read_entry(content: Mapping[str, Any], path: Path) -> RawSet:
    """Load the data set that the entry `content` of the file `path` names.

    Raises:
        PromptSetError: the entry is malformed, the data set cannot be had, or it lacks a column.
    """
    top = check_keys(content, _KEYS, str(path))
    for key in ("source", "licence"):
        if not isinstance(top.get(key), str):
            raise PromptSetError(f"{path} names no {key}; add a line `{key}: ...` that says it.")
    dataset = check_keys(top["dataset"], ("id", "config", "split", "revision", "data_files"), f"`dataset` in {path}")
    columns = check_keys(top.get("columns"), ("text", "id", "tags"), f"`columns` in {path}")
    for mapping, key in ((dataset, "id"), (columns, "text")):
        if not isinstance(mapping.get(key), str):
            raise PromptSetError(f"{path} must name the data set's `id` and the `text` column; {key!r} is missing.")
    fields = set_fields(top, path)
    splits = _load(dataset, fields["name"])
    rows: list[RawRow] = []
    for split, table in splits.items():
        tag = () if dataset.get("split") else (str(split),)
        rows += _rows(table, columns, tag, where=f"{fields['name']}, split {split}")
    return RawSet(rows=rows, **fields)


def _load(dataset: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Split name -> `datasets.Dataset`."""
    import datasets

    identity, split = str(dataset["id"]), dataset.get("split")
    try:
        loaded = datasets.load_dataset(
            identity,
            dataset.get("config"),
            split=split,
            revision=dataset.get("revision"),
            data_files=_local_files(dataset.get("data_files"), name),
        )
    except (OSError, ValueError, ImportError, datasets.exceptions.DatasetsError) as error:
        raise PromptSetError(
            f"the prompt set {name!r} could not be loaded from {identity!r} ({' '.join(str(error).split())}); load it "
            "once with network access (HF_HUB_OFFLINE unset), after which it is cached, or save its prompts as .txt, "
            ".csv, .jsonl or .parquet and give that path instead."
        ) from error
    return {str(split): loaded} if split else dict(loaded)


def _rows(table: Any, columns: Mapping[str, Any], tag: tuple[str, ...], where: str) -> list[RawRow]:
    text, identity, tags = columns["text"], columns.get("id"), list(columns.get("tags") or ())
    needed = [name for name in [text, identity, *(path.partition(".")[0] for path in tags)] if name is not None]
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise PromptSetError(f"{where} has no column {missing[0]!r}; it has {', '.join(table.column_names)}.")
    rows = []
    for n, entry in enumerate(table.select_columns(list(dict.fromkeys(needed))), start=1):
        row_where = f"row {n} of {where}"
        values = [value for path in tags for value in _tag_values(entry, path, row_where)]
        rows.append(make_row(entry[identity] if identity else None, entry[text], [*tag, *values], row_where))
    return rows


def _tag_values(entry: Mapping[str, Any], path: str, where: str) -> list[str]:
    """The tags that `path` ("column", or "column.key" of a JSON column) gives; empty cells give none."""
    column, _, key = path.partition(".")
    value = entry[column]
    if key:
        try:
            value = (json.loads(value) if isinstance(value, str) else value or {}).get(key)
        except (json.JSONDecodeError, AttributeError) as error:
            raise PromptSetError(f"{where} holds no JSON object in {column!r}.") from error
    if value is None:
        return []
    return [str(item) for item in (value if isinstance(value, list) else [value]) if str(item).strip()]


def _local_files(data_files: Any, name: str) -> Any:
    """`data_files` with every https address replaced by the path of its download."""
    if isinstance(data_files, Mapping):
        return {split: _local_files(file, name) for split, file in data_files.items()}
    if isinstance(data_files, str) and data_files.startswith("https://"):
        return str(_download(data_files, name))
    return data_files


def _download(url: str, name: str) -> Path:
    """The file at `url`, from the cache (NBENCH_CACHE, default ~/.cache/nbench) when it is there.

    `datasets` could read an https address itself, but only with aiohttp installed, and not offline.
    """
    cache = cache_folder("prompts")
    target = cache / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{url.rsplit('/', 1)[-1]}"
    if target.is_file():
        return target
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise OSError(f"{url} is not cached, and HF_HUB_OFFLINE is set")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        partial = Path(folder) / "partial"
        try:
            with urllib.request.urlopen(url, timeout=60) as response, partial.open("wb") as file:
                shutil.copyfileobj(response, file)
        except (OSError, http.client.HTTPException) as error:
            raise OSError(f"cannot download {url}: {error}") from error
        return partial.replace(target)
