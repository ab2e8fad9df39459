"""`nbench leaderboard`: from a run to a board, with the exit codes on the way."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from page_fakes import board_values, written_run

from nbench.cli import cli

DEFINITION = """\
name: demo
title: Demo
base: {run: made, checkpoint: base}
steps: [2, 4, 8]
entries: [{run: made, checkpoint: broken}]
submissions: demo/submissions
"""


def nbench(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    written_run(tmp_path / "store", board_values())
    (tmp_path / "demo.yaml").write_text(DEFINITION)
    return tmp_path


def test_a_checkpoint_is_submitted_added_and_ranked(place: Path) -> None:
    store = ("--store", place / "store")
    done = nbench("leaderboard", "submit", "made", "--checkpoint", "better", "--out", place / "sub", *store)
    assert done.exit_code == 0, done.output
    checked = nbench("leaderboard", "add", place / "demo.yaml", place / "sub", "--check-only", *store)
    assert (checked.exit_code, checked.output) == (0, "better may enter board demo.\n")
    assert not (place / "demo").exists()
    added = nbench("leaderboard", "add", place / "demo.yaml", place / "sub", *store)
    assert added.exit_code == 0, added.output
    built = nbench("leaderboard", "build", place / "demo.yaml", "--out", place / "demo", *store)
    assert built.exit_code == 0, built.output
    lines = [line.split() for line in built.output.splitlines()]
    assert [line[3] for line in lines[:3]] == ["better", "base", "broken"]
    assert (place / "demo" / "index.html").is_file()
    content = json.loads((place / "demo" / "board.json").read_text())
    assert {one["name"]: one["submitted"] for one in content["checkpoints"]} == {
        "base": False, "better": True, "broken": False,
    }  # fmt: skip


def test_a_board_of_submissions_needs_no_store(place: Path) -> None:
    store = ("--store", place / "store")
    for name in ("base", "better"):
        out = place / "demo" / "submissions" / name
        assert nbench("leaderboard", "submit", "made", "--checkpoint", name, "--out", out, *store).exit_code == 0
    text = DEFINITION.replace("{run: made, checkpoint: base}", "demo/submissions/base")
    (place / "demo.yaml").write_text(text.replace("entries: [{run: made, checkpoint: broken}]\n", ""))
    shutil.rmtree(place / "store")
    built = nbench("leaderboard", "build", place / "demo.yaml", "--out", place / "demo", *store)
    assert built.exit_code == 0 and "better" in built.output and "broken" not in built.output


def test_a_submission_that_was_changed_is_refused_with_every_fault(place: Path) -> None:
    store = ("--store", place / "store")
    nbench("leaderboard", "submit", "made", "--checkpoint", "better", "--out", place / "sub", *store)
    (place / "sub" / "scores.parquet").write_bytes(b"better scores")
    (place / "sub" / "card.json").write_text("{}")
    refused = nbench("leaderboard", "add", place / "demo.yaml", place / "sub", *store)
    assert refused.exit_code == 3
    assert "scores.parquet is not what manifest.json says" in refused.output
    assert "card.json is not what manifest.json says" in refused.output
    assert not (place / "demo").exists()


def test_what_is_not_there_is_said(place: Path) -> None:
    store = ("--store", place / "store")
    missing = nbench("leaderboard", "build", "nowhere.yaml", "--out", place / "x", *store)
    assert missing.exit_code == 3 and "there is no board definition 'nowhere.yaml'" in missing.output
    unknown = nbench("leaderboard", "submit", "made", "--checkpoint", "bettr", "--out", place / "x", *store)
    assert unknown.exit_code == 3 and "Did you mean 'better'" in unknown.output
    (place / "demo.yaml").write_text(DEFINITION.replace("run: made, checkpoint: broken", "run: maid, checkpoint: x"))
    other = nbench("leaderboard", "build", place / "demo.yaml", "--out", place / "x", *store)
    assert other.exit_code == 3 and "there is no run 'maid'" in other.output
    assert not (place / "x").exists()


def test_an_unlike_card_is_refused_with_exit_code_3(tmp_path: Path) -> None:
    written_run(tmp_path / "store", board_values(), checkpoints={"broken": {"guidance": 1.0}}, pictures=False)
    (tmp_path / "demo.yaml").write_text(DEFINITION)
    done = nbench(
        "leaderboard", "build", tmp_path / "demo.yaml", "--out", tmp_path / "x", "--store", tmp_path / "store"
    )
    assert done.exit_code == 3 and "guidance: 5.0 -> 1.0" in done.output
