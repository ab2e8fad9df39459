"""`nbench compare`: two checkpoints, pair by pair."""

from __future__ import annotations

from pathlib import Path

import click

from nbench.cli.run import STORE_OPTION, wide_console


@click.command("compare")
@click.argument("run_name", metavar="RUN")
@click.argument("other_name", metavar="[OTHER_RUN]", required=False)
@click.option("--base", required=True, help="Checkpoint that is compared with, in RUN.")
@click.option("--candidate", required=True, help="Checkpoint that is judged, in OTHER_RUN, or in RUN without one.")
@click.option("--trained-on", multiple=True, help="Scorer that the candidate was trained on; may be repeated.")
@click.option("--margin", type=click.FloatRange(min=0), default=0.1, show_default=True,
              help="What a held-out measure may lose, in standard deviations of the base.")  # fmt: skip
@click.option("--allow", multiple=True, help="Part of the cards that may differ (guidance, dtype, ...); is marked.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for curves, pairs and JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead.")
@STORE_OPTION
def compare(
    run_name: str,
    other_name: str | None,
    base: str,
    candidate: str,
    trained_on: tuple[str, ...],
    margin: float,
    allow: tuple[str, ...],
    out: Path | None,
    as_json: bool,
    store: Path,
) -> None:
    """Compare two checkpoints of RUN, or one of RUN with one of OTHER_RUN, on the same prompts, seeds and steps.

    Cards that differ are refused with the differences.
    """
    import json

    from nbench.compare import Side
    from nbench.compare import compare as compare_sides
    from nbench.report.compare import comparison_json, comparison_plot, comparison_tables, pair_sheet
    from nbench.report.sheet import png_bytes
    from nbench.runs.files import write_atomic
    from nbench.runs.store import Store
    from nbench.runs.tables import load_run

    place = Store(store)
    run = load_run(place.find_run(run_name))
    other = load_run(place.find_run(other_name)) if other_name else run
    found = compare_sides(Side(run, base), Side(other, candidate), trained_on=trained_on, allow=allow, margin=margin)
    text = json.dumps(comparison_json(found), indent=1, ensure_ascii=False)
    if as_json:
        click.echo(text)
    else:
        wide_console().print(comparison_tables(found))
    if out is not None:
        write_atomic(out / "comparison.json", (text + "\n").encode())
        write_atomic(out / "curves.svg", comparison_plot(found).encode())
        images = run.folder.images, other.folder.images
        sheet = pair_sheet(found.regressions, images, (base, candidate))
        write_atomic(out / "worst-pairs.png", png_bytes(sheet))
        if not as_json:
            click.echo(f"Curves, worst pairs and JSON: {out}")
