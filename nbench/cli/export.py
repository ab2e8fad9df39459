"""`nbench export`: a run's tables for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nbench.cli.run import STORE_OPTION


@click.command("export")
@click.argument("run_name", metavar="RUN")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice(["parquet", "hf", "csv"]),
    default="parquet",
    show_default=True,
    help="parquet or csv: three tables; hf: a data set folder with the pictures in it.",
)
@STORE_OPTION
def export(run_name: str, out: Path, to: Any, store: Path) -> None:
    """Write the tables of RUN (a name in the store, or a run's folder) into the new folder OUT."""
    from nbench.runs.export import export_run
    from nbench.runs.store import Store
    from nbench.runs.tables import load_run

    opened = Store(store)
    tables = load_run(opened.find_run(run_name))
    if not tables.done:
        click.echo(
            f"Warning: run {tables.folder.name!r} is not complete, and its tables are of an earlier state: finish it "
            f"with `nbench run {tables.folder.suite}`, then export again.",
            err=True,
        )
    for path in export_run(tables, opened.images, to, out):
        click.echo(str(path))
