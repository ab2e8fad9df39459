"""`nbench gate`: hold a policy against a candidate, at once or block by block; plan one; write one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nbench.cli.gate_outputs import GateOutputs, output_options, write_result
from nbench.cli.run import STORE_OPTION, wide_console

if TYPE_CHECKING:
    from nbench.compare import Side
    from nbench.gates.policy import Policy


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
_CANDIDATE = click.option("--candidate", required=True, help="Checkpoint that is judged.")
_OTHER = click.option("--candidate-run", "other_name", help="Run that holds the candidate; the same one without it.")
_ALLOW = click.option("--allow", multiple=True, help="Part of the cards that may differ, beside the policy's own.")


@gate.command("check")
@_POLICY
@_RUN
@_OTHER
@_BASE
@_CANDIDATE
@_ALLOW
@output_options
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
    store: Path,
    outputs: GateOutputs,
) -> None:
    """Judge a candidate by POLICY.

    Exits with 0 when it passed, 1 when a breach is shown, 2 when it is inconclusive.
    """
    from nbench.gates.evaluate import evaluate_gate

    sides = _sides(store, run_name, other_name, base, candidate)
    result = evaluate_gate(_policy(policy_path, allow), *sides)
    write_result(result, sides, policy_path, outputs)
    context.exit(result.exit_code)


@gate.command("sequential")
@_POLICY
@click.option("--suite", "suite_name", required=True, help="Suite to run: a YAML file or a bundled name.")
@_BASE
@_CANDIDATE
@click.option("--block", type=click.IntRange(min=1), default=16, show_default=True,
              help="Prompts from look to look; the first is at 50 or more.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Most prompts to take. Default: the suite's, or all.")
@click.option("--name", help="Of the runs; the number of prompts is added. Default: the suite's, and the candidate.")
@_ALLOW
@output_options
@STORE_OPTION
@click.pass_context
def sequential(
    context: click.Context,
    policy_path: Path,
    suite_name: str,
    base: str,
    candidate: str,
    block: int,
    limit: int | None,
    name: str | None,
    allow: tuple[str, ...],
    store: Path,
    outputs: GateOutputs,
) -> None:
    """Generate pictures block by block, judge by POLICY after each, and stop as soon as the verdict is certain.

    The error rates hold however often one looks. The same command goes on with a stopped one. Exits as `check` does;
    inconclusive when the prompts are used up.
    """
    from rich.console import Console

    from nbench.cli.progress import Bars
    from nbench.gates.looks import run_sequential
    from nbench.report.gate_looks import look_line
    from nbench.runs.store import Store
    from nbench.runs.suite import read_suite

    policy = _policy(policy_path, allow)
    suite = read_suite(suite_name, {} if limit is None else {"limit": limit})
    with Bars(Console(stderr=True)) as bars:
        found = run_sequential(
            policy,
            suite,
            Store(store),
            base=base,
            candidate=candidate,
            name=name or "",
            block=block,
            observer=bars,
            seen=lambda look: bars.note(look_line(look)),
        )
    write_result(found.result, found.sides, policy_path, outputs, found)
    context.exit(found.result.exit_code)


def _policy(path: Path, allow: tuple[str, ...]) -> Policy:
    from nbench.gates.policy import read_policy

    policy = read_policy(path)
    return policy.model_copy(update={"allow": tuple(dict.fromkeys((*policy.allow, *allow)))})


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
