"""`nbench leaderboard`: build a board, make a submission, let one enter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nbench.cli.run import STORE_OPTION

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group("leaderboard")
def leaderboard() -> None:
    """Rank checkpoints on few-step robustness, with intervals and rank groups."""


@leaderboard.command("build")
@click.argument("definition")
@click.option("--out", type=_FOLDER, required=True, help="Folder for page, Markdown, JSON, Parquet and cards.")
@STORE_OPTION
def build(definition: str, out: Path, store: Path) -> None:
    """Build the board of DEFINITION, a YAML file, from runs in the store and from submissions."""
    from nbench.leaderboard.board import build_board
    from nbench.leaderboard.build import write_board
    from nbench.leaderboard.definition import find_definition, read_definition
    from nbench.runs.store import Store

    path = find_definition(definition)
    board = build_board(read_definition(path), path.parent, Store(store))
    write_board(board, out)
    width = max(len(one.name) for one in board.standings)
    for i in board.ranked("overall"):
        own, one = board.figures["overall"][i], board.standings[i]
        area = "base" if own.area is None else f"{own.area.mean:+.3f} ({own.area.low:+.3f} to {own.area.high:+.3f})"
        click.echo(f"{own.rank.rank:>3}  group {own.rank.group}  {one.name:<{width}}  {area}")
    click.echo(f"Board: {out / 'index.html'}")


@leaderboard.command("submit")
@click.argument("run_name", metavar="RUN")
@click.option("--checkpoint", required=True, help="Checkpoint of RUN.")
@click.option("--out", type=_FOLDER, required=True, help="New folder for the submission.")
@click.option("--name", default="", help="On the board. Default: the checkpoint's.")
@click.option("--method", default="", help='How it was fine-tuned, e.g. "NFT".')
@click.option("--guard", default="", help='What held its velocity norms, e.g. "norm hinge 0.1".')
@click.option("--trained-on", multiple=True, help="Scorer that it was optimised for; may be repeated.")
@click.option("--notes", default="", help="A sentence about it.")
@click.option("--url", default="", help="Its web page.")
@click.option("--gallery", type=click.IntRange(0, 24), default=6, show_default=True, help="Prompts with pictures.")
@STORE_OPTION
def submit(run_name: str, checkpoint: str, out: Path, name: str, gallery: int, store: Path, **about: Any) -> None:
    """Write one checkpoint of a finished RUN as a submission: tables, card, thumbnails, and the hash of each file."""
    from nbench.leaderboard.submission import make_submission
    from nbench.runs.store import Store
    from nbench.runs.tables import load_run

    run = load_run(Store(store).find_run(run_name))
    files = make_submission(run, checkpoint, out, name=name, about=about, gallery=gallery)
    click.echo(f"Submission: {out} ({len(files)} files). Next: nbench leaderboard add BOARD {out}")


@leaderboard.command("add")
@click.argument("definition", metavar="BOARD")
@click.argument("submission", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--check-only", is_flag=True, help="Say whether it may enter, and copy nothing.")
@STORE_OPTION
def add(definition: str, submission: Path, check_only: bool, store: Path) -> None:
    """Check SUBMISSION against BOARD, a definition, and copy it into the board's submissions.

    Hashes, card, prompts, cells and coverage must all be as the board needs them; every fault is listed.
    """
    from nbench.leaderboard.build import add_submission, check_submission
    from nbench.leaderboard.definition import find_definition, read_definition
    from nbench.runs.store import Store

    path = find_definition(definition)
    board = read_definition(path)
    if check_only:
        info = check_submission(board, path.parent, submission, Store(store))
        click.echo(f"{info.name} may enter board {board.name}.")
        return
    place = add_submission(board, path.parent, submission, Store(store))
    click.echo(f"Added {place}. Next: nbench leaderboard build {definition} --out FOLDER")
