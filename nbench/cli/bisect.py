"""`nbench bisect`: the first checkpoint of a training run that breaches a policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nbench.cli.run import STORE_OPTION, wide_console

if TYPE_CHECKING:
    from nbench.gates.bisect import Bisection
    from nbench.gates.evaluate import GateResult


@click.command("bisect")
@click.argument("checkpoints", metavar="NAME=BASE[+LORA]...", nargs=-1, required=True)
@click.option("--policy", "policy_path", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Gate policy; see `nbench gate init`.")  # fmt: skip
@click.option("--suite", "suite_name", required=True, help="Prompts, steps, seeds and scorers: a YAML file or a name.")
@click.option("--base", required=True, help="Checkpoint of the suite that is compared with.")
@click.option("--limit", type=int, metavar="N", help="Use N prompts, spread over their tags.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table.")
@STORE_OPTION
@click.pass_context
def bisect(
    context: click.Context,
    checkpoints: tuple[str, ...],
    policy_path: Path,
    suite_name: str,
    base: str,
    limit: int | None,
    as_json: bool,
    store: Path,
) -> None:
    """Find the first of some checkpoints, given in the order of training, that breaches a policy against BASE.

    What the store holds costs nothing and is judged first; then the unknown stretch is halved. Exits with 0 when the
    last one passes, 1 when a breach is found, 2 when it cannot be told.
    """
    import json

    from rich.console import Console

    from nbench.cli.progress import Bars
    from nbench.gates.bisect import bisect_checkpoints
    from nbench.gates.policy import read_policy
    from nbench.report.bisect import bisection_json, bisection_table, sentence
    from nbench.runs.store import Store
    from nbench.runs.suite import make_suite, read_suite

    policy = read_policy(policy_path)
    suite = read_suite(suite_name, {} if limit is None else {"limit": limit})
    given = make_suite({"checkpoints": list(checkpoints)}).checkpoints

    def judged(name: str, result: GateResult) -> None:
        click.echo(f"{name}: {result.verdict}", err=True)

    with Bars(Console(stderr=True)) as bars:
        found: Bisection = bisect_checkpoints(given, policy, suite, base, Store(store), observer=bars, judged=judged)
    if as_json:
        click.echo(json.dumps(bisection_json(found), indent=1, ensure_ascii=False))
    else:
        wide_console().print(bisection_table(found))
        click.echo(sentence(found))
    context.exit(found.found.exit_code)
