"""Where a gate's result goes: the terminal, JSON, JUnit, SARIF, a step summary, a dossier. Shared by its commands."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nbench.cli.run import wide_console

if TYPE_CHECKING:
    from nbench.compare import Side
    from nbench.gates.evaluate import GateResult
    from nbench.gates.looks import SequentialResult

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@dataclass(frozen=True)
class GateOutputs:
    """What was asked for.

    Attributes:
        out: folder for the dossier.
        junit, sarif_path: files.
        summary: file that Markdown is appended to.
        as_json: JSON on stdout instead of tables.
    """

    out: Path | None
    junit: Path | None
    sarif_path: Path | None
    summary: Path | None
    as_json: bool


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `GateOutputs`, as its one argument `outputs`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **flags: Any) -> None:
        taken = {field.name: flags.pop(field.name) for field in fields(GateOutputs)}
        command(*args, outputs=GateOutputs(**taken), **flags)

    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table."),
        click.option("--summary", type=_FILE, help="Append a Markdown summary here."),
        click.option("--sarif", "sarif_path", type=_FILE, help="Write SARIF here."),
        click.option("--junit", type=_FILE, help="Write JUnit XML here."),
        click.option("--out", type=_FOLDER, help="Folder for the dossier."),
    ):
        wrapped = option(wrapped)
    return wrapped


def write_result(
    result: GateResult,
    sides: tuple[Side, Side],
    policy_path: Path,
    outputs: GateOutputs,
    looks: SequentialResult | None = None,
) -> None:
    """Print the result, and write the files that were asked for.

    Args:
        result: of the gate.
        sides: base and candidate as they were judged.
        policy_path: as the user gave it.
        outputs: what was asked for.
        looks: of a sequential gate.

    Raises:
        UsageError: the dossier's folder holds something else.
        StoreError: the disk refuses.
    """
    import json

    from nbench.gates.dossier import write_dossier
    from nbench.report.gate import gate_json, gate_tables, step_summary
    from nbench.report.gate_looks import looks_table, sequential_json
    from nbench.report.junit import junit_xml
    from nbench.report.sarif import sarif
    from nbench.runs.files import write_atomic

    if outputs.as_json:
        found = gate_json(result) if looks is None else sequential_json(looks)
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        console = wide_console()
        if looks is not None:
            console.print(looks_table(looks))
        console.print(gate_tables(result))
    named = policy_path.as_posix() if not policy_path.is_absolute() else policy_path.name
    if outputs.junit is not None:
        write_atomic(outputs.junit, junit_xml(result).encode())
    if outputs.sarif_path is not None:
        write_atomic(outputs.sarif_path, (json.dumps(sarif(result, named), indent=1) + "\n").encode())
    if outputs.summary is not None:
        before = outputs.summary.read_bytes() if outputs.summary.exists() else b""
        write_atomic(outputs.summary, before + step_summary(result).encode())
    if outputs.out is not None:
        write_dossier(result, *sides, named, outputs.out, looks=looks)
        if not outputs.as_json:
            click.echo(f"Dossier: {outputs.out}")
