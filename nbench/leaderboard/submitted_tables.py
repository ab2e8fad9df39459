"""A stranger's tables and card, held to the form that nbench writes, before anything else reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from nbench.comparable import contract
from nbench.errors import UsageError
from nbench.runs.tables import TABLES
from nbench.scoring.scorer import Kind, Orientation

if TYPE_CHECKING:
    import pyarrow as pa

_TEXT, _WHOLE, _NUMBER, _TEXTS = "texts", "whole numbers", "numbers", "lists of texts"
_CELL = {"checkpoint": _TEXT, "steps": _WHOLE, "prompt_id": _TEXT, "seed": _WHOLE, "key": _TEXT}
_SCORE = {"scorer": _TEXT, "metric": _TEXT, "value": _NUMBER, "reason": _TEXT}
_FORMS = {
    "samples": {**_CELL, "prompt": _TEXT, "tags": _TEXTS, "path": _TEXT, "reason": _TEXT},
    "scores": {**_CELL, **_SCORE},
    "sets": {"checkpoint": _TEXT, "steps": _WHOLE, "prompt_id": _TEXT, **_SCORE},
    "norms": {**_CELL, "step": _WHOLE, "sigma": _NUMBER, "norm": _NUMBER},
}
_MAY_BE_NULL = {"path", "reason", "value", "sigma"}


def read_tables(folder: Path, checkpoint: str) -> dict[str, pa.Table]:
    """The tables of a submission.

    Raises:
        UsageError: one is no parquet file, has another form, holds other checkpoints, or cells that samples has not.
    """
    tables = {name: _read(folder / f"{name}.parquet", _FORMS[name], checkpoint) for name in TABLES}
    for name in ("scores", "sets", "norms"):
        columns = [column for column in ("steps", "prompt_id", "seed") if column in _FORMS[name]]
        cells, known = _distinct(tables[name], columns), _distinct(tables["samples"], columns)
        if cells - known:
            raise UsageError(
                f"{folder / name}.parquet has rows of {len(cells - known)} cells that samples.parquet has not: make "
                "the submission again."
            )
    return tables


def _distinct(table: pa.Table, columns: Sequence[str]) -> set[tuple[Any, ...]]:
    found = table.group_by(list(columns)).aggregate([]).select(list(columns)).to_pydict()
    return set(zip(*found.values(), strict=True))


def _read(path: Path, form: Mapping[str, str], checkpoint: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} cannot be read as parquet: make the submission again.") from error
    for column, kind in form.items():
        place = table.schema.get_all_field_indices(column)
        if len(place) != 1 or not _holds(table.schema.field(place[0]).type, kind):
            raise UsageError(f"{path} has no column {column} of {kind}: make the submission with this nbench.")
        if column not in _MAY_BE_NULL and table[column].null_count:
            raise UsageError(f"{path} has rows without {column}: make the submission again.")
    others = set(table["checkpoint"].unique().to_pylist()) - {checkpoint}
    if others:
        raise UsageError(f"{path} holds rows of other checkpoints ({', '.join(map(repr, sorted(others)))}).")
    return table


def _holds(kind: pa.DataType, wanted: str) -> bool:
    """Whether a column's type is what is wanted. A column of nulls alone has no type of its own."""
    from pyarrow import types

    if wanted == _TEXTS:
        return bool(types.is_list(kind)) and _holds(kind.value_type, _TEXT)
    if wanted == _WHOLE:
        return bool(types.is_integer(kind))
    own = types.is_string(kind) if wanted == _TEXT else types.is_floating(kind)
    return bool(own or types.is_null(kind))


def check_card(card: Mapping[str, Any], checkpoint: str, what: str) -> None:
    """See that a card has all that comparisons and pages read of it.

    Raises:
        UsageError: it has not.
    """
    try:
        found = contract(card, checkpoint)
        weights = card["checkpoints"][checkpoint]["weights"]
        sound = isinstance(weights, str) and all(steps.isdigit() for steps in found["sigmas"])
        sound = sound and isinstance(found["prompts"], str) and bool(found["sigmas"])
        for name, part in card["scorers"].items():
            sound = sound and isinstance(name, str) and part["kind"] in get_args(Kind)
            for metric in part["metrics"]:
                sound = sound and metric["orientation"] in get_args(Orientation)
                sound = sound and isinstance(metric["name"], str) and isinstance(metric["unit"], str)
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UsageError(f"{what}: its card.json is not the card of a run with checkpoint {checkpoint!r}.")
