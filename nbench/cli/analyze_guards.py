"""`nbench analyze guards`: the same training with different guards, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nbench.errors import UsageError


@click.command("guards")
@click.argument("configs", nargs=-1, required=True, metavar="CONFIG...")
@click.option("--weights", default="", metavar="W,...", help="Weights (lambda) of the hinge to try.")
@click.option("--ratios", default="", metavar="R,...", help="Calibrations to try: target gradient ratios.")
@click.option("--powers", default="1", show_default=True, metavar="P,...", help="Powers of the hinge: 1, 2 or both.")
@click.option("--margins", default="0", show_default=True, metavar="D,...", help="Margins of the hinge.")
@click.option(
    "--guard",
    type=click.Choice(["norm_hinge", "symmetric_norm", "old_policy_hinge"]),
    default="norm_hinge",
    show_default=True,
    help="Which penalty.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a value of every config.")
@click.option("--steps", type=click.IntRange(1), help="Of the trajectories that norms are measured on.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("nbench-guards"),
    show_default=True,
    help="Folder of all trainings, guards.json and guards.svg.",
)
def guards(
    configs: tuple[str, ...],
    weights: str,
    ratios: str,
    powers: str,
    margins: str,
    guard: str,
    settings: tuple[str, ...],
    steps: int | None,
    out: Path,
) -> None:
    """Train CONFIGs without a guard and with each variant, and compare reward kept with velocity norm.

    A training that is finished in OUT is not repeated, so a stopped study goes on with the same command. Norms are
    measured on the states of the base's trajectories, the same for all, and on each checkpoint's own.
    """
    import json

    from rich.console import Console

    from nbench.cli.run import wide_console
    from nbench.cli.train import overrides
    from nbench.normguard.analysis.guards import make_variants, study_guards
    from nbench.normguard.config_file import read_config
    from nbench.report.guards import guards_plot, guards_table
    from nbench.runs.files import write_atomic

    chosen = [read_config(config, overrides(settings, None)) for config in configs]
    variants = make_variants(
        weights=_numbers(weights, "--weights"),
        ratios=_numbers(ratios, "--ratios"),
        powers=[int(power) for power in _numbers(powers, "--powers")],
        margins=_numbers(margins, "--margins"),
        name=guard,
    )
    console = Console(stderr=True)
    total, begun = len(chosen) * len(variants), 0

    def observe(name: str) -> Any:
        from nbench.normguard.observer import Quiet

        nonlocal begun
        begun += 1
        console.print(f"[{begun}/{total}] {name}", markup=False, highlight=False)
        return Quiet()

    rows = study_guards(chosen, variants, out, steps=steps, observer=observe)
    content = json.dumps([row.to_json() for row in rows], indent=1) + "\n"
    write_atomic(out / "guards.json", content.encode())
    write_atomic(out / "guards.svg", guards_plot(rows).encode())
    wide_console().print(guards_table(rows))
    click.echo(f"Figures: {out / 'guards.json'}")
    click.echo(f"Plot: {out / 'guards.svg'}")


def _numbers(text: str, option: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"{option} {text!r} is no list of numbers: write, for example, 0.03,0.1.") from None
    if any(number < 0 for number in found):
        raise UsageError(f"{option} {text!r} holds a negative number: use numbers of at least 0.")
    return found
