"""Reads what a study has measured so far."""

from __future__ import annotations

import json
from pathlib import Path

from nbench.errors import StoreError
from nbench.runs.files import store_errors
from nbench.runs.tables import RunTables, load_run
from nbench.study.evidence import Analysis, Evidence
from nbench.study.folder import StudyFolder
from nbench.study.plan import Plan, RunKind


def gather(plan: Plan, folder: StudyFolder) -> Evidence:
    """Finished runs, analyses and training logs of a study; what is not finished is left out.

    Raises:
        StoreError: something is damaged.
    """
    runs: dict[tuple[str, RunKind], RunTables] = {}
    for planned in plan.runs():
        found = folder.store.run(planned.name)
        if found.done.is_file():
            runs[planned.group.name, planned.kind] = load_run(found)
    adjoint: dict[str, Analysis] = {}
    ratios: dict[str, Analysis] = {}
    for group in plan.groups:
        for name, into in (("adjoint", adjoint), ("ratios", ratios)):
            path = folder.analysis(group.name) / f"{name}.json"
            if path.is_file():
                into[group.name] = _analysis(path)
    logs = {
        training.name: tuple(folder.training(training).records())
        for training in plan.trainings
        if folder.training(training).log.is_file()
    }
    return Evidence(plan, runs, adjoint, ratios, logs)


def _analysis(path: Path) -> Analysis:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = path.with_suffix(".parquet")
    with store_errors(path, "read"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return Analysis(content["settings"], tuple(content["figures"]), pq.ParquetFile(table).read())
        except (ValueError, KeyError, pa.ArrowException) as error:
            raise StoreError(f"{path} is damaged: delete {path.parent} and run the study again.") from error
