"""A built board on disk: page, Markdown, JSON, Parquet, cards, and the hash of every file. No times, no paths."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path

from nbench.compare import Side
from nbench.errors import UsageError
from nbench.leaderboard.board import Board
from nbench.leaderboard.checks import check_entry
from nbench.leaderboard.definition import Definition
from nbench.leaderboard.rows import board_json, board_table, card_file
from nbench.leaderboard.sources import Sources, entry_origins, make_demand
from nbench.leaderboard.submission import MANIFEST, SubmissionInfo, load_submission
from nbench.runs.files import store_errors, write_atomic
from nbench.runs.store import Store

_BUILT = "board.json"


def board_files(board: Board) -> dict[str, bytes]:
    """Every file of a built board by its path, the manifest last; the same board gives the same bytes."""
    import pyarrow.parquet as pq

    from nbench.report.page_board import board_page
    from nbench.report.page_board_markdown import board_markdown

    buffer = io.BytesIO()
    pq.write_table(board_table(board), buffer, compression="zstd")
    contents = {
        "index.html": board_page(board).encode(),
        "README.md": board_markdown(board).encode(),
        _BUILT: _json(board_json(board)),
        "board.parquet": buffer.getvalue(),
        "protocol.json": _json(board.protocol),
        **{card_file(one.name): _json(one.card) for one in board.standings},
    }
    contents[MANIFEST] = _json({name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())})
    return contents


def write_board(board: Board, out: Path) -> list[Path]:
    """Write a board; what an earlier build of it left there and this one has not is deleted.

    Raises:
        UsageError: `out` holds something else than a board.
        StoreError: the disk refuses.
    """
    old = _earlier(out, board.definition)
    contents = board_files(board)
    for name, data in contents.items():
        write_atomic(out / name, data)
    for name in sorted(old - contents.keys()):
        with store_errors(out / name):
            (out / name).unlink(missing_ok=True)
    return [out / name for name in contents]


def _earlier(out: Path, definition: Definition) -> set[str]:
    """Files of the earlier build in `out`."""
    if not out.exists() or not any(path.name != Path(definition.submissions).name for path in out.iterdir()):
        return set()
    built, manifest = out / _BUILT, out / MANIFEST
    try:
        same = json.loads(built.read_text(encoding="utf-8"))["name"] == definition.name
        listed = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        same, listed = False, {}
    if not same:
        raise UsageError(f"{out} holds something else than board {definition.name!r}: give a new or empty folder.")
    cards = {name for name in listed if name.startswith("cards/") and ".." not in name}
    return cards & {path.relative_to(out).as_posix() for path in out.glob("cards/*.json")}


def check_submission(definition: Definition, folder: Path, submission: Path, store: Store) -> SubmissionInfo:
    """See that a submission is sound and has all that a board needs.

    Args:
        definition: of the board.
        folder: that the definition lies in.
        submission: its folder.
        store: of the base's run, where the base is one.

    Raises:
        UsageError: files, hashes, cells, scores or name are not as they must be.
        CardMismatchError: its card differs from the base's where the board does not allow it.
    """
    info, run = load_submission(submission)
    base = Sources(folder, store).get(definition.base)
    check_entry(info.name, Side(run, info.checkpoint), make_demand(definition, base.side, base.cube))
    taken = {base.name, *_names(definition, folder)}
    if info.name in taken:
        raise UsageError(
            f"board {definition.name!r} has a checkpoint called {info.name!r} already: give the submission another "
            "name (nbench leaderboard submit --name)."
        )
    return info


def add_submission(definition: Definition, folder: Path, submission: Path, store: Store) -> Path:
    """Check a submission and copy it into the board's submissions, wholly or not at all; returns where it lies.

    Raises:
        UsageError: as `check_submission`; the definition has no folder for submissions.
        CardMismatchError: as `check_submission`.
        StoreError: the disk refuses.
    """
    if not definition.submissions:
        raise UsageError(
            f"board {definition.name!r} takes no submissions: add a line such as `submissions: "
            f"{definition.name}/submissions` to its definition."
        )
    info = check_submission(definition, folder, submission, store)
    place = folder / definition.submissions / info.name
    if place.exists():
        raise UsageError(f"{place} exists already: give the submission another name.")
    temporary = place.with_name(f".{info.name}.part")
    with store_errors(place):
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(submission, temporary)
        temporary.rename(place)
    return place


def _names(definition: Definition, folder: Path) -> set[str]:
    """Names of the board's entries."""
    found = set()
    for origin in entry_origins(definition, folder):
        if origin.submission and not origin.name:
            found.add(load_submission(folder / origin.submission)[0].name)
        else:
            found.add(origin.name or origin.checkpoint)
    return found


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
