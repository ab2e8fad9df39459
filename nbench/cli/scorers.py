"""`nbench scorers list`, `show` and `check`: what can score, what the numbers are, whether to trust them."""

from __future__ import annotations

import contextlib

import click


@click.group()
def scorers() -> None:
    """List, describe and check scorers."""


@scorers.command("list")
def list_all() -> None:
    """List every scorer, built in or from a plug-in package, and whether it can run here."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from nbench.errors import ScorerError
    from nbench.scoring.judge.scorer import bundled_judges
    from nbench.scoring.registry import JUDGE, describe_scorer, scorer_entries

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "kind", "prompt", "runs here", "package", "what it measures"):
        table.add_column(heading, no_wrap=heading in ("name", "kind", "prompt"))
    judges = [(f"{JUDGE}{name}", "nbench") for name in bundled_judges()]
    for name, package in [*((entry.name, entry.package) for entry in scorer_entries()), *judges]:
        try:
            card, reason = describe_scorer(name)
        except ScorerError as error:
            table.add_row(name, "-", "-", "no", package, Text(f"not usable: {error}"), style="red")
            continue
        here = "yes" if reason is None else "no, see show"
        prompt = "yes" if card.uses_prompt else "no"
        table.add_row(name, card.kind, prompt, here, package, Text(card.summary))
    Console().print(table)


@scorers.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="The card as JSON.")
def show(name: str, as_json: bool) -> None:
    """Show the card of NAME: its metrics, weights, preprocessing, and the identity that its scores are stored under."""
    import dataclasses
    import json

    from nbench.scoring.registry import card_identity, describe_scorer

    card, reason = describe_scorer(name)
    identity = card_identity(card) if reason is None else None
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(card), "identity": identity, "not_usable": reason}, indent=2))
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
    variants = [f"{card.name}:{one.name}: {one.unit} ({one.source})" for one in card.variants]
    for label, text in (
        ("name", card.name),
        ("kind", card.kind),
        ("version", card.version),
        ("summary", card.summary),
        ("metrics", "\n".join(metrics)),
        ("variants", "\n".join(variants)),
        ("reads the prompt", "yes" if card.uses_prompt else "no"),
        ("preprocessing", card.preprocessing),
        ("fooled by", ", ".join(card.fooled_by) + "; unfit for absolute floors" if card.fooled_by else ""),
        ("weights", "\n".join(weights) or ("none" if reason is None else "")),
        ("licence", card.licence),
        ("source", card.source),
        ("identity", identity or ""),
        ("cannot run here", reason or ""),
    ):
        if text:
            table.add_row(label, Text(text))
    Console().print(table)


@scorers.command("check")
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "everything", is_flag=True, help="Every scorer; those that cannot run here are named.")
@click.option("--markdown", is_flag=True, help="One Markdown table, a line per scorer.")
@click.option("--device", default="cpu", show_default=True, help="Torch device that the scorers run on.")
@click.pass_context
def check(context: click.Context, names: tuple[str, ...], everything: bool, markdown: bool, device: str) -> None:
    """Check scorers on the bundled pocket scenes: repeatable, blind to the batch, not fooled by canaries.

    Exits with 1 when a check fails.
    """
    from rich.console import Console

    from nbench.errors import ScorerError, UsageError
    from nbench.report.conformance import check_table, conformance_markdown
    from nbench.scoring.conformance import ConformanceReport, check_scorer
    from nbench.scoring.registry import get_any_scorer, list_scorers
    from nbench.scoring.weights import only_local

    if bool(names) == everything:
        raise UsageError("name the scorers to check, or give --all.")
    reports: dict[str, ConformanceReport | ScorerError] = {}
    for name in list_scorers() if everything else names:
        try:
            # Asked for everything, nobody wants all that there is to be downloaded.
            with only_local() if everything else contextlib.nullcontext():
                scorer = get_any_scorer(name, device)
            reports[name] = check_scorer(scorer)
        except ScorerError as error:
            if not everything:
                raise
            reports[name] = error
    if markdown:
        click.echo(conformance_markdown(reports))
    else:
        for name, report in reports.items():
            if len(reports) > 1:
                click.echo(f"\n{name}")
            if isinstance(report, ScorerError):
                click.echo(f"not checked: {report}")
            else:
                Console().print(check_table(report))
    failed = False
    for name, report in reports.items():
        if not isinstance(report, ScorerError) and not report.passed:
            found = ", ".join(item.name for item in report.checks if item.passed is False)
            click.echo(f"{name} failed: {found}.", err=True)
            failed = True
    if failed:
        context.exit(1)
