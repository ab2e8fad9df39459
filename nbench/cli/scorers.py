"""`nbench scorers list`, `show` and `check`: what can score, what the numbers are, whether to trust them."""

from __future__ import annotations

import click


@click.group()
def scorers() -> None:
    """List, describe and check scorers."""


@scorers.command("list")
def list_all() -> None:
    """List every scorer, built in or from a plug-in package."""
    from rich.console import Console
    from rich.table import Table

    from nbench.errors import ScorerError
    from nbench.scoring.registry import get_scorer, scorer_entries

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "kind", "prompt", "package", "what it measures"):
        table.add_column(heading, no_wrap=heading == "name")
    for entry in scorer_entries():
        try:
            card = get_scorer(entry.name).card
        except ScorerError as error:
            table.add_row(entry.name, "-", "-", entry.package, f"not usable: {error}", style="red")
            continue
        table.add_row(entry.name, card.kind, "yes" if card.uses_prompt else "no", entry.package, card.summary)
    Console().print(table)


@scorers.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="The card as JSON.")
def show(name: str, as_json: bool) -> None:
    """Show the card of NAME: its metrics, weights, preprocessing, and the identity that its scores are stored under."""
    import dataclasses
    import json

    from nbench.scoring.registry import card_identity, get_scorer

    card = get_scorer(name).card
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(card), "identity": card_identity(card)}, indent=2))
        return

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    metrics = [
        f"{metric.name or card.name}: {metric.unit}"
        + ("" if metric.orientation == "none" else f"; {metric.orientation} is better")
        for metric in card.metrics
    ]
    weights = [f"{file}  sha256 {digest}" for file, digest in card.weights.items()]
    for label, text in (
        ("name", card.name),
        ("kind", card.kind),
        ("version", card.version),
        ("summary", card.summary),
        ("metrics", "\n".join(metrics)),
        ("reads the prompt", "yes" if card.uses_prompt else "no"),
        ("preprocessing", card.preprocessing),
        ("weights", "\n".join(weights) or "none"),
        ("licence", card.licence),
        ("source", card.source),
        ("identity", card_identity(card)),
    ):
        table.add_row(label, Text(text))
    Console().print(table)


@scorers.command("check")
@click.argument("name")
@click.option("--device", default="cpu", show_default=True, help="Torch device that the scorer runs on.")
@click.pass_context
def check(context: click.Context, name: str, device: str) -> None:
    """Check NAME on the bundled pocket scenes: repeatable, blind to the batch, not fooled by canaries.

    Exits with 1 when a check fails.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from nbench.scoring.conformance import check_scorer
    from nbench.scoring.registry import get_scorer

    report = check_scorer(get_scorer(name, device))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("check", "", "figures"):
        table.add_column(heading, no_wrap=heading != "figures")
    words = {True: Text("passed", "green"), False: Text("FAILED", "bold red"), None: Text("-", "dim")}
    for item in report.checks:
        table.add_row(item.name, words[item.passed], Text(item.detail))
    Console().print(table)
    if not report.passed:
        failed = ", ".join(item.name for item in report.checks if item.passed is False)
        click.echo(f"{name} failed: {failed}.", err=True)
        context.exit(1)
