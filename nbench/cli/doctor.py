"""`nbench doctor`: say what this machine can run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "fail": ("FAIL", "bold red")}


@click.command()
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    envvar="NBENCH_STORE",
    default=Path("nbench-store"),
    show_default="./nbench-store",
    help="The store whose disk is looked at.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@click.pass_context
def doctor(ctx: click.Context, store: Path, as_json: bool) -> None:
    """Say what this machine can run: versions, devices, memory, disk, weights.

    Ends with exit code 4 when something that the bundled pocket suite needs is missing or broken.
    """
    from nbench.errors import InfrastructureError
    from nbench.runs.doctor import run_checks

    checks = run_checks(store)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(check) for check in checks], indent=2))
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column()
        for check in checks:
            mark, style = _MARKS[check.status]
            found = Text(check.found)
            if check.advice:
                found.append(f"\n{check.advice}", style="dim")
            table.add_row(Text(check.name), Text(mark, style=style), found)
        Console().print(table)
    if any(check.status == "fail" for check in checks):
        ctx.exit(InfrastructureError.exit_code)
