"""`nbench show`: the table of a run again, with coverage, failures and card."""

from __future__ import annotations

from pathlib import Path

import click

from nbench.cli.run import STORE_OPTION, wide_console


@click.command("show")
@click.argument("run_name", metavar="RUN")
@click.option("--card", "with_card", is_flag=True, help="Also print the whole comparability card as JSON.")
@STORE_OPTION
def show(run_name: str, with_card: bool, store: Path) -> None:
    """Print every metric, coverage, failures and the card of RUN (a name in the store, or a run's folder)."""
    import json

    from nbench.report.summary import summarise
    from nbench.report.table import card_table, summary_tables
    from nbench.runs.card import card_hash
    from nbench.runs.store import Store
    from nbench.runs.tables import load_run

    folder = Store(store).find_run(run_name)
    tables = load_run(folder)
    summary = summarise(tables)
    console = wide_console()
    console.print(summary_tables(summary, everything=True))
    console.print(card_table(tables.card))
    state = folder.state()
    made = sum(line.pictures for line in summary.lines)
    wanted = sum(line.cells for line in summary.lines)
    click.echo(f"Run {folder.name}: {state}; {made} of {wanted} pictures; card {card_hash(tables.card)[:12]}.")
    if state != "complete":
        click.echo(f"The tables are of an earlier state; finish the run with `nbench run {folder.suite}`.")
    sheet = folder.report / "contact-sheet.png"
    if sheet.is_file():
        click.echo(f"Contact sheet: {sheet}")
    if with_card:
        click.echo(json.dumps(tables.card, indent=1, sort_keys=True))
