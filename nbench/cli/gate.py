"""`nbench gate`: hold a policy against a candidate; plan one; write one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nbench.cli.run import STORE_OPTION, wide_console

if TYPE_CHECKING:
    from nbench.compare import Side


class _Gate(click.Group):
    """A group whose first word may also be a policy: `nbench gate POLICY` is `nbench gate check POLICY`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            args = ["check", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_Gate)
def gate() -> None:
    """Hold a policy against a candidate: `nbench gate POLICY --run RUN --base BASE --candidate CANDIDATE`."""


_POLICY = click.argument("policy_path", metavar="POLICY", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_RUN = click.option("--run", "run_name", required=True, help="Finished run that holds the base.")
_BASE = click.option("--base", required=True, help="Checkpoint that is compared with.")
_OTHER = click.option("--candidate-run", "other_name", help="Run that holds the candidate; the same one without it.")


@gate.command("check")
@_POLICY
@_RUN
@_OTHER
@_BASE
@click.option("--candidate", required=True, help="Checkpoint that is judged.")
@click.option("--allow", multiple=True, help="Part of the cards that may differ, beside the policy's own.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the dossier.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write JUnit XML here.")
@click.option("--sarif", "sarif_path", type=click.Path(dir_okay=False, path_type=Path), help="Write SARIF here.")
@click.option("--summary", type=click.Path(dir_okay=False, path_type=Path), help="Append a Markdown summary here.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table.")
@STORE_OPTION
@click.pass_context
def check(
    context: click.Context,
    policy_path: Path,
    run_name: str,
    other_name: str | None,
    base: str,
    candidate: str,
    allow: tuple[str, ...],
    out: Path | None,
    junit: Path | None,
    sarif_path: Path | None,
    summary: Path | None,
    as_json: bool,
    store: Path,
) -> None:
    """Judge a candidate by POLICY.

    Exits with 0 when it passed, 1 when a breach is shown, 2 when it is inconclusive.
    """
    import json

    from nbench.gates.dossier import write_dossier
    from nbench.gates.evaluate import evaluate_gate
    from nbench.gates.policy import read_policy
    from nbench.report.gate import gate_json, gate_tables, step_summary
    from nbench.report.junit import junit_xml
    from nbench.report.sarif import sarif
    from nbench.runs.files import write_atomic

    policy = read_policy(policy_path)
    policy = policy.model_copy(update={"allow": tuple(dict.fromkeys((*policy.allow, *allow)))})
    sides = _sides(store, run_name, other_name, base, candidate)
    result = evaluate_gate(policy, *sides)
    if as_json:
        click.echo(json.dumps(gate_json(result), indent=1, ensure_ascii=False))
    else:
        wide_console().print(gate_tables(result))
    named = policy_path.as_posix() if not policy_path.is_absolute() else policy_path.name
    if junit is not None:
        write_atomic(junit, junit_xml(result).encode())
    if sarif_path is not None:
        write_atomic(sarif_path, (json.dumps(sarif(result, named), indent=1) + "\n").encode())
    if summary is not None:
        before = summary.read_bytes() if summary.exists() else b""
        write_atomic(summary, before + step_summary(result).encode())
    if out is not None:
        write_dossier(result, *sides, named, out)
        if not as_json:
            click.echo(f"Dossier: {out}")
    context.exit(result.exit_code)


def _sides(store: Path, run_name: str, other_name: str | None, base: str, candidate: str) -> tuple[Side, Side]:
    from nbench.compare import Side
    from nbench.runs.store import Store
    from nbench.runs.tables import load_run

    place = Store(store)
    run = load_run(place.find_run(run_name))
    other = load_run(place.find_run(other_name)) if other_name else run
    return Side(run, base), Side(other, candidate)


@gate.command("plan")
@_POLICY
@_RUN
@_OTHER
@_BASE
@click.option("--candidate", help="Checkpoint whose pairs with the base give the variances; without it, guessed.")
@click.option("--seeds", default="1,2,4", show_default=True, help="Pictures per prompt to plan for.")
@click.option("--power", type=click.FloatRange(0.5, 0.999), default=0.8, show_default=True,
              help="Wanted probability that a candidate as good as the base passes a row.")  # fmt: skip
@click.option("--correlation", type=click.FloatRange(-1, 1), default=0.5, show_default=True,
              help="Assumed of base's and candidate's scores, without a candidate.")  # fmt: skip
@STORE_OPTION
def plan(
    policy_path: Path,
    run_name: str,
    other_name: str | None,
    base: str,
    candidate: str | None,
    seeds: str,
    power: float,
    correlation: float,
    store: Path,
) -> None:
    """Say how many prompts and seeds POLICY takes, and what generating them costs, from scores that are there."""
    from nbench.errors import UsageError
    from nbench.gates.plan import plan_gate
    from nbench.gates.policy import read_policy
    from nbench.report.gate_plan import plan_tables

    try:
        counts = sorted({int(part) for part in seeds.split(",")})
    except ValueError:
        counts = [0]
    if counts[0] < 1:
        raise UsageError(f"--seeds {seeds}: give counts from 1, such as 1,2,4.")
    sides = _sides(store, run_name, other_name, base, candidate or base)
    found = plan_gate(
        read_policy(policy_path),
        sides[0],
        sides[1] if candidate else None,
        seeds=counts,
        power=power,
        correlation=correlation,
    )
    wide_console().print(plan_tables(found))


@gate.command("init")
@click.argument("policy_path", metavar="POLICY", type=click.Path(dir_okay=False, path_type=Path))
def init(policy_path: Path) -> None:
    """Write a commented policy to POLICY; never over a file."""
    from nbench.errors import UsageError
    from nbench.gates.policy import TEMPLATE
    from nbench.runs.files import write_atomic

    if policy_path.exists():
        raise UsageError(f"{policy_path} exists already: give another name.")
    write_atomic(policy_path, TEMPLATE.encode())
    click.echo(f"Wrote {policy_path}. Set its margins, then: nbench gate plan {policy_path} --run RUN --base BASE")
