"""`nbench prompts list` and `nbench prompts show`: look at prompt sets before a run."""

from __future__ import annotations

import json

import click


@click.group()
def prompts() -> None:
    """List prompt sets, or show the prompts of one."""


@prompts.command("list")
def list_sets() -> None:
    """List the bundled prompt sets and the public ones that can be fetched."""
    from rich.console import Console
    from rich.table import Table

    from nbench.prompts import describe_prompt_sets

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "prompts", "licence", "origin", "description"):
        table.add_column(heading, no_wrap=heading == "name", justify="right" if heading == "prompts" else "left")
    for row in describe_prompt_sets():
        origin = "bundled" if row.bundled else "fetched"
        table.add_row(row.name, str(row.count), row.licence, origin, row.description)
    Console().print(table)


@prompts.command("show")
@click.argument("name")
@click.option("--limit", type=click.IntRange(min=1), help="Show so many prompts, spread over the tags.")
@click.option("--tag", "tags", multiple=True, help="Only prompts with this tag; repeat it to ask for several at once.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a prompt; a file of them is a prompt set.")
def show(name: str, limit: int | None, tags: tuple[str, ...], as_json: bool) -> None:
    """Show the prompts of NAME: a prompt set, or a file."""
    from nbench.prompts import load_prompt_set

    prompt_set = load_prompt_set(name)
    for tag in tags:
        prompt_set = prompt_set.tagged(tag)
    if limit is not None:
        prompt_set = prompt_set.limited(limit)
    if as_json:
        for prompt in prompt_set:
            row = {"id": prompt.id, "text": prompt.text, "tags": list(prompt.tags)}
            click.echo(json.dumps(row, ensure_ascii=False))
        return

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("id", no_wrap=True, overflow="ellipsis", max_width=40)
    table.add_column("text")
    table.add_column("tags", style="dim", max_width=32)
    for prompt in prompt_set:  # Text: a prompt may hold what rich would take for markup
        table.add_row(Text(prompt.id), Text(prompt.text), Text(", ".join(prompt.tags)))
    console.print(table)
    console.print()
    counted = ", ".join(f"{tag} {count}" for tag, count in list(prompt_set.tags.items())[:24])
    for label, value in (
        ("prompts", f"{len(prompt_set)} of {prompt_set.total}"),
        ("source", prompt_set.source),
        ("licence", prompt_set.licence),
        ("hash", prompt_set.content_hash),
        ("tags", counted or "none"),
    ):
        console.print(Text.assemble((f"{label:<8}", "bold"), value))
