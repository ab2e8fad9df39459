"""`nbench run`: generate and score a suite, then print its table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nbench.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from nbench.runs.store import Store
    from nbench.runs.suite import Suite

STORE_OPTION = click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="NBENCH_STORE",
    default=Path("nbench-store"),
    show_default="./nbench-store",
    help="Folder of pictures, scores and runs (also NBENCH_STORE).",
)


@click.command("run")
@click.argument("suite", required=False)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="NAME=BASE[+LORA][@REVISION]",
    help="A checkpoint; repeat for more. The first is the reference. BASE is a diffusers folder, a hub id, or a "
    "bundled checkpoint (pocket-sd3, pocket-flux).",
)
@click.option("--steps", metavar="N,N,...", help="Step counts, such as 2,4,8,28.")
@click.option("--prompts", metavar="SET", help="A prompt set by name, or a file.")
@click.option("--limit", type=int, metavar="N", help="Use N prompts, spread over their tags.")
@click.option("--seeds", type=int, metavar="N", help="Pictures per prompt.")
@click.option("--seed", type=int, metavar="N", help="Run seed, from which all noise follows.")
@click.option("--scorers", metavar="NAME,...", help='Scorers; see `nbench scorers list`. "" for none.')
@click.option("--judge-url", metavar="URL", help="Server that judges ask (also NBENCH_JUDGE_URL).")
@click.option("--name", metavar="NAME", help="Of the run. Default: the suite's, or made from the settings.")
@click.option("--grid", type=click.Choice(["diffusers", "linspace"]), help="Sigma grid.")
@click.option("--guidance", type=float, metavar="G", help="Guidance scale. Default: each family's own.")
@click.option("--size", metavar="HEIGHTxWIDTH", help="In pixels. Default: the checkpoints' own.")
@click.option("--batch-size", type=int, metavar="N", help="Pictures per forward.")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ...")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), help="Of every component.")
@click.option(
    "--norm-ratio/--no-norm-ratio",
    default=None,
    help="Record velocity-norm ratios to the reference; costs one more forward per step.",
)
@click.option(
    "--rescale",
    metavar="PHI[:one-sided]",
    help="Rescale each velocity to the reference's norm while sampling, PHI from 0 to 1.",
)
@click.option("--retry-failed", is_flag=True, help="Try again what failed in this run before.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what would be done and what it would cost; load no model and write no picture. A hub id that is not in "
    "the hub's cache is fetched.",
)
@STORE_OPTION
def run(
    suite: str | None,
    checkpoints: tuple[str, ...],
    store: Path,
    retry_failed: bool,
    dry_run: bool,
    judge_url: str | None,
    **flags: Any,
) -> None:
    """Generate pictures from checkpoints at several step counts, score them, and print a table.

    SUITE is a YAML file or the name of a bundled suite; flags override it. Without SUITE and --checkpoint, the bundled
    pocket suite runs. What the store holds already is not made again, so the same command resumes a stopped run.
    """
    from nbench.runs.store import Store
    from nbench.runs.suite import make_suite, read_suite

    if judge_url is not None:
        os.environ["NBENCH_JUDGE_URL"] = judge_url  # where judges look; it is no setting of the run but of the machine
    overrides = _overrides(flags, checkpoints)
    if suite is None and not checkpoints:
        suite = "pocket"
    chosen = make_suite(overrides) if suite is None else read_suite(suite, overrides)
    if dry_run:
        _print_estimate(chosen, Store(store), retry_failed=retry_failed)
    else:
        _run(chosen, Store(store), retry_failed=retry_failed)


def _overrides(flags: dict[str, Any], checkpoints: tuple[str, ...]) -> dict[str, Any]:
    """The suite's fields that were given as flags."""
    given = {name: value for name, value in flags.items() if value is not None}
    if checkpoints:
        given["checkpoints"] = list(checkpoints)
    if "size" in given:
        given["height"], given["width"] = size_of(given.pop("size"))
    if "rescale" in given:
        given["rescale"] = _rescale(given["rescale"])
    return given


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of HEIGHTxWIDTH, or of one number for a square.

    Raises:
        UsageError: it is neither.
    """
    height, cross, width = text.lower().partition("x")
    try:
        return int(height), int(width if cross else height)
    except ValueError:
        raise UsageError(f"--size {text!r} is no size: write HEIGHTxWIDTH in pixels, such as 512x512.") from None


def _rescale(text: str) -> dict[str, Any]:
    phi, _, mode = text.partition(":")
    try:
        number = float(phi)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1 or mode not in ("", "one-sided"):
        raise UsageError(f"--rescale {text!r} is not PHI or PHI:one-sided with PHI from 0 to 1, such as 1.0.")
    return {"phi": number, "one_sided": mode == "one-sided"}


def _run(suite: Suite, store: Store, *, retry_failed: bool) -> None:
    from rich.console import Console

    from nbench.cli.progress import Bars
    from nbench.report.summary import summarise
    from nbench.report.table import summary_tables
    from nbench.runs.execute import execute
    from nbench.runs.tables import load_run

    console = wide_console()
    with Bars(Console(stderr=True)) as bars:
        result = execute(suite, store, observer=bars, retry_failed=retry_failed)
    tables = load_run(result.folder)
    sheet = result.folder.report / "contact-sheet.png"
    done = result.folder.done
    if result.changed or not sheet.is_file() or sheet.stat().st_mtime_ns < done.stat().st_mtime_ns:
        from nbench.report.sheet import write_sheet

        write_sheet(tables, store.images, sheet)
    console.print(summary_tables(summarise(tables)))
    made = f"{result.generated} generated, {result.cells - result.failed - result.generated} taken from the store"
    lost = f", {result.failed} failed" if result.failed else ""
    click.echo(f"Pictures: {made}{lost}. Scores given: {result.scored}. {result.seconds:.1f} s.")
    if result.failed or result.score_failures:
        click.echo("Failures are left out of every mean, not counted as zero; --retry-failed tries them again.")
    click.echo(f"Run: {_from_here(result.folder.path)}")
    click.echo(f"Contact sheet: {_from_here(sheet)}")


def _from_here(path: Path) -> Path:
    """The path as the user would type it: relative where it lies below the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def wide_console() -> Console:
    """A console on stdout. In a file or a pipe no line is cut: tables take the width that they need."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def _print_estimate(suite: Suite, store: Store, *, retry_failed: bool) -> None:
    from rich.table import Table

    from nbench.runs.estimate import estimate

    found = estimate(suite, store, retry_failed=retry_failed)
    table = Table(title=f"run {found.run} ({found.state})", title_justify="left")
    for title in ("checkpoint", "pictures", "in the store", "to make", "time", "disk"):
        table.add_column(title, justify="left" if title == "checkpoint" else "right", no_wrap=True)
    for part in found.checkpoints:
        time = "unknown" if part.seconds is None else _duration(part.seconds)
        row = (part.name, str(part.cells), str(part.cached), str(part.missing), time, _bytes(part.size))
        table.add_row(*row)
    wide_console().print(table)
    ratios = sum(part.ratios for part in found.checkpoints)
    if ratios:
        click.echo(f"Pictures to sample again for their norm ratios alone: {ratios}.")
    click.echo(f"Scores to give: {found.scores}. No model was loaded, nothing was made or written.")
    if any(part.seconds is None for part in found.checkpoints):
        click.echo("Time is unknown until a checkpoint has run here once; try --limit 2 first.")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
