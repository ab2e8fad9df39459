"""What an analysis found, and its folder: NAME.json (settings, figures), NAME.parquet (per sample), NAME.svg (plot)."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbench.errors import UsageError
from nbench.runs.files import write_atomic

if TYPE_CHECKING:
    from nbench.normguard.analysis.rows import Floats


class Result:
    """Figures and per-sample values, gathered checkpoint by checkpoint.

    Attributes:
        figures: mappings or dataclasses, one per line of the table.
        columns: of the per-sample table.
    """

    def __init__(self) -> None:
        self.figures: list[object] = []
        self.columns: dict[str, list[object]] = {}

    def add_figures(self, lines: Sequence[Any], **constant: object) -> None:
        """Add lines, dataclasses, with constant entries before their own."""
        self.figures += [{**constant, **asdict(line)} for line in lines]

    def add_rows(self, rows: Mapping[str, Sequence[object]], **constant: object) -> None:
        """Add rows, given as columns of one length, with constant columns before their own."""
        count = len(next(iter(rows.values())))
        for title, value in constant.items():
            self.columns.setdefault(title, []).extend([value] * count)
        for title, column in rows.items():
            self.columns.setdefault(title, []).extend(column)

    def add_arrays(
        self,
        prompt_ids: Sequence[str],
        seeds: Sequence[int],
        sigmas: Floats,
        arrays: Mapping[str, Floats],
        **constant: object,
    ) -> None:
        """Add a row per sample and step from arrays [samples, steps]."""
        steps = len(sigmas)
        rows: dict[str, Sequence[object]] = {
            "prompt_id": [prompt for prompt in prompt_ids for _ in range(steps)],
            "seed": [seed for seed in seeds for _ in range(steps)],
            "step": [*range(steps)] * len(seeds),
            "sigma": [float(sigma) for sigma in sigmas] * len(seeds),
            **{name: array.reshape(-1).tolist() for name, array in arrays.items()},
        }
        self.add_rows(rows, **constant)

    def write(self, folder: Path, name: str, *, settings: Mapping[str, Any], plot: str) -> None:
        """Write the three files, each wholly or not at all; the JSON last. NaN becomes null.

        Args:
            folder: made when it does not exist.
            name: of the analysis.
            settings: what the figures depend on.
            plot: SVG.

        Raises:
            StoreError: the disk refuses.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(pa.table(self.columns), buffer, compression="zstd")
        write_atomic(folder / f"{name}.parquet", buffer.getvalue())
        write_atomic(folder / f"{name}.svg", plot.encode("utf-8"))
        content = {"analysis": name, "settings": settings, "figures": self.figures}
        write_atomic(folder / f"{name}.json", (_dumps(content) + "\n").encode("utf-8"))


def check_folder(folder: Path, name: str, settings: Mapping[str, Any]) -> None:
    """See that writing NAME.* into `folder` overwrites at most an earlier result of the same settings.

    Raises:
        UsageError: another analysis of this name is there.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found != json.loads(_dumps(settings)):
        raise UsageError(f"{path} holds the result of other settings: give another --out, or move it away.")


def _dumps(value: object) -> str:
    return json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> Any:
    """Dataclasses as mappings, numbers that are not finite as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
