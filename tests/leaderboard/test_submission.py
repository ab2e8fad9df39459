"""Submissions: what goes in, and everything that keeps one from entering a board."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from page_fakes import board_values, written_run

from nbench.errors import CardMismatchError, UsageError
from nbench.leaderboard.build import add_submission, check_submission
from nbench.leaderboard.definition import Definition, make_definition
from nbench.leaderboard.submission import load_submission, make_submission
from nbench.runs.store import Store


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("submissions") / "store"


@pytest.fixture(scope="module")
def sound(root: Path) -> Path:
    """A submission that may enter."""
    run = written_run(root, board_values())
    about = {"method": "NFT", "trained_on": ("a",)}
    make_submission(run, "better", root.parent / "sound", name="new", about=about, gallery=2)
    return root.parent / "sound"


@pytest.fixture
def submission(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "sub")
    return tmp_path / "sub"


def definition(**fields: Any) -> Definition:
    return make_definition(
        {"name": "demo", "title": "Demo", "base": {"run": "made", "checkpoint": "base"}, "steps": [2, 4, 8],
         "entries": [{"run": "made", "checkpoint": "broken"}], "submissions": "subs", **fields}
    )  # fmt: skip


def rehash(folder: Path) -> None:
    """What a careless or a malicious author would do: change a file and list its new hash."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    hashes = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "manifest.json").write_text(json.dumps(hashes))


def test_a_submission_holds_one_checkpoint_and_what_made_it(sound: Path) -> None:
    info, run = load_submission(sound)
    assert (info.name, info.checkpoint, info.run, info.method, info.trained_on) == (
        "new",
        "better",
        "made",
        "NFT",
        ("a",),
    )
    assert list(run.card["checkpoints"]) == ["better"]
    assert set(run.samples["checkpoint"].to_pylist()) == {"better"} and len(run.samples) == 3 * 20 * 2
    assert len(list((sound / "gallery").iterdir())) == 2 * 3  # prompts x steps
    assert info.tables == {"scores.parquet": "0" * 64}


def test_equal_runs_give_equal_submissions(root: Path, sound: Path, tmp_path: Path) -> None:
    run = written_run(tmp_path / "store", board_values())
    about = {"method": "NFT", "trained_on": ("a",)}
    make_submission(run, "better", tmp_path / "again", name="new", about=about, gallery=2)
    assert (sound / "manifest.json").read_bytes() == (tmp_path / "again" / "manifest.json").read_bytes()


def test_a_sound_one_enters_and_the_original_is_left(root: Path, submission: Path, tmp_path: Path) -> None:
    place = add_submission(definition(), tmp_path, submission, Store(root))
    assert place == tmp_path / "subs" / "new"
    assert (place / "manifest.json").read_bytes() == (submission / "manifest.json").read_bytes()
    with pytest.raises(UsageError, match="has a checkpoint called 'new' already"):
        add_submission(definition(), tmp_path, submission, Store(root))


def test_a_board_without_a_folder_for_submissions_takes_none(root: Path, submission: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes no submissions: add a line such as"):
        add_submission(definition(submissions=""), tmp_path, submission, Store(root))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "manifest.json").unlink(), "there is no manifest.json"),
        (lambda f: (f / "manifest.json").write_text("["), "manifest.json is not JSON"),
        (lambda f: _flip(f / "scores.parquet"), "scores.parquet is not what manifest.json says"),
        (lambda f: _flip(next((f / "gallery").iterdir())), "webp is not what manifest.json says"),
        (lambda f: (f / "norms.parquet").unlink(), "norms.parquet is missing"),
        (lambda f: (f / "more.txt").write_text("x"), "more.txt is not in manifest.json"),
        (lambda f: ((f / "evil.html").write_text("x"), rehash(f)), "'evil.html' is no file of a submission"),
        (lambda f: ((f / "sets.parquet").unlink(), rehash(f)), "sets.parquet is missing from manifest.json"),
        (lambda f: ((f / "sets.parquet").write_bytes(b"no"), rehash(f)), "cannot be read as parquet"),
        (lambda f: (_texts(f, "scores", "value"), rehash(f)), "has no column value of numbers"),
        (lambda f: ((f / "card.json").write_text("{}"), rehash(f)), "is not the card of a run with checkpoint"),
        (lambda f: (_info(f, name="../../up"), rehash(f)), "cannot be used as a name"),
        (lambda f: (_info(f, url="javascript:x"), rehash(f)), "no web address"),
        (lambda f: (_info(f, extra=1), rehash(f)), "unknown key 'extra'"),
    ],
)  # fmt: skip
def test_files_that_are_not_sound_are_refused(
    root: Path, submission: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(submission)
    with pytest.raises(UsageError, match=message):
        check_submission(definition(), tmp_path, submission, Store(root))


def _texts(folder: Path, name: str, column: str) -> None:
    """Make a column one of texts."""
    table = pq.read_table(folder / f"{name}.parquet")
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(["x"] * len(table))), folder / f"{name}.parquet")


def _info(folder: Path, **fields: Any) -> None:
    path = folder / "submission.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_link_out_of_the_folder_is_refused(root: Path, submission: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes((submission / "scores.parquet").read_bytes())
    (submission / "scores.parquet").unlink()
    (submission / "scores.parquet").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"scores\.parquet is missing, or is no plain file"):
        check_submission(definition(), tmp_path, submission, Store(root))


def _edit(name: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / f"{name}.parquet"
        table = pq.read_table(path)
        pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), path)
        rehash(folder)

    return edit


def _without(gone: Callable[[dict[str, Any]], bool]) -> Callable[[Path], None]:
    """Rows left out of every table."""

    def edit(folder: Path) -> None:
        for name in ("samples", "scores", "sets", "norms"):
            _edit(name, lambda rows: [row for row in rows if not gone(row)])(folder)

    return edit


def _first(rows: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    return [{**rows[0], **fields}, *rows[1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without(lambda row: row["prompt_id"] == "p003"), "2 of 40 cells are missing at 2 steps"),
        (_without(lambda row: row["steps"] == 8), "40 of 40 cells are missing at 8 steps"),
        (
            _edit("samples", lambda rows: rows[1:]),
            "cells that samples.parquet has not",
        ),
        (_edit("samples", lambda rows: [*rows, rows[0]]), "1 cells are there more than once"),
        (_edit("samples", lambda rows: _first(rows, path=None)), "no picture of prompt 'p000', seed 0, at 2 steps"),
        (_edit("samples", lambda rows: _first(rows, prompt="another")), "prompt 'p000' has another text"),
        (
            _edit("samples", lambda rows: [*rows, {**rows[0], "prompt_id": "px"}]),
            "1 cells are of prompts or seeds that",
        ),
        (_edit("samples", lambda rows: _first(rows, checkpoint="other")), "holds rows of other checkpoints"),
        (_edit("scores", lambda rows: _first(rows, steps=99)), "has rows of 1 cells that samples.parquet has not"),
        (_edit("norms", lambda rows: _first(rows, prompt_id="px")), "has rows of 1 cells that samples.parquet has not"),
        (_edit("samples", lambda rows: _first(rows, tags=None)), "has rows without tags"),
        (_edit("scores", lambda rows: rows[1:]), r"a has 119 rows for 120 cells"),
        (_edit("scores", lambda rows: [*rows, rows[0]]), "a has 121 rows for 120 cells"),
        (_edit("scores", lambda rows: _first(rows, value=None)), r"a has 99\.1 % of the values"),
        (_edit("scores", lambda rows: [row for row in rows if row["scorer"] != "b"]), "no b scores"),
    ],
)
def test_cells_and_scores_that_are_missing_or_strange_are_refused(
    root: Path, submission: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    change(submission)
    with pytest.raises(UsageError, match=message):
        check_submission(definition(), tmp_path, submission, Store(root))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (("prompts", "hash"), "prompts: "), (("seeds", "run_seed"), "seeds.run_seed"), (("dtype",), "dtype"),
        (("scorers", "a", "identity"), r"scorers\.a"), (("checkpoints", "better", "guidance"), "guidance"),
    ],
)  # fmt: skip
def test_another_card_is_refused_with_its_difference(
    root: Path, submission: Path, tmp_path: Path, part: tuple[str, ...], message: str
) -> None:
    card = json.loads((submission / "card.json").read_text())
    place = card
    for key in part[:-1]:
        place = place[key]
    place[part[-1]] = 7 if isinstance(place[part[-1]], int | float) else "other"
    (submission / "card.json").write_text(json.dumps(card))
    rehash(submission)
    with pytest.raises(CardMismatchError, match=message):
        check_submission(definition(), tmp_path, submission, Store(root))


def test_a_scorer_or_step_count_that_the_board_does_not_use_may_differ(
    root: Path, submission: Path, tmp_path: Path
) -> None:
    card = json.loads((submission / "card.json").read_text())
    card["scorers"]["b"]["identity"] = "other"
    card["checkpoints"]["better"]["sigmas"]["8"] = "other"
    (submission / "card.json").write_text(json.dumps(card))
    rehash(submission)
    assert (
        check_submission(definition(steps=[2, 4], kinds=[], scorers=["a"]), tmp_path, submission, Store(root)).name
        == "new"
    )


def test_an_unfinished_run_cannot_be_submitted(tmp_path: Path) -> None:
    run = written_run(tmp_path / "store", board_values())
    run.folder.done.unlink()
    with pytest.raises(UsageError, match="is not complete: finish it"):
        make_submission(run, "better", tmp_path / "out", gallery=0)


def test_a_folder_that_holds_something_is_not_written_over(tmp_path: Path) -> None:
    run = written_run(tmp_path / "store", board_values(), pictures=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UsageError, match="exists already"):
        make_submission(run, "better", tmp_path / "out", gallery=0)
