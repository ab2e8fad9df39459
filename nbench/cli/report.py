"""`nbench report`: a run as a page."""

from __future__ import annotations

from pathlib import Path

import click

from nbench.cli.run import STORE_OPTION


@click.command("report")
@click.argument("run_name", metavar="RUN")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for the page and its thumbnails. Default: report/page in the run's folder.")  # fmt: skip
@STORE_OPTION
def report(run_name: str, out: Path | None, store: Path) -> None:
    """Write RUN as a page: summary in words, curves, norm profile, pair viewer, failures, card.

    It opens from the disk, without a server and without the network.
    """
    from rich.console import Console
    from rich.progress import Progress

    from nbench.report.page_run import write_report
    from nbench.runs.store import Store
    from nbench.runs.tables import load_run

    folder = Store(store).find_run(run_name)
    run = load_run(folder)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("thumbnails", total=len(run.samples))
        page = write_report(run, out or folder.report / "page", lambda done: bars.update(bar, completed=done))
    click.echo(f"Report: {page}")
    if folder.state() != "complete":
        click.echo(f"The tables are of an earlier state; finish the run with `nbench run {folder.suite}`.")
