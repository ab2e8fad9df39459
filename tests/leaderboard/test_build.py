"""Built boards: every rendering says the same, byte for byte again, and texts stay texts."""

import hashlib
import html
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from page_fakes import EVIL, board_values, written_run

from nbench.errors import UsageError
from nbench.leaderboard.board import Board, build_board
from nbench.leaderboard.build import board_files, write_board
from nbench.leaderboard.definition import find_definition, make_definition, read_definition
from nbench.runs.store import Store

_EVIL_MARKDOWN = "x | y\n# <b>z</b> [l](http://e.x)"


def made(root: Path, title: str = "Demo") -> Board:
    written_run(root, board_values(), texts=[EVIL] * 20)
    definition = make_definition(
        {"name": "demo", "title": title, "label": "A label.", "base": {"run": "made", "checkpoint": "base"},
         "steps": [2, 4, 8], "gallery": 3, "true_zero": ["a"], "entries": [
            {"run": "made", "checkpoint": "better", "notes": EVIL, "method": "m|d"},
            {"run": "made", "checkpoint": "broken", "trained_on": ["a"], "url": "https://example.org/x"}]}
    )  # fmt: skip
    return build_board(definition, root, Store(root))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return made(tmp_path_factory.mktemp("board") / "store")


@pytest.fixture(scope="module")
def files(board: Board) -> dict[str, bytes]:
    return board_files(board)


def test_the_same_runs_give_the_same_bytes(files: dict[str, bytes], tmp_path: Path) -> None:
    assert board_files(made(tmp_path / "elsewhere")) == files


def test_the_bundled_board_is_what_its_submissions_give(tmp_path: Path) -> None:
    path = find_definition("pocket")
    write_board(build_board(read_definition(path), path.parent, Store(tmp_path)), tmp_path / "pocket")
    built = {one.relative_to(tmp_path / "pocket").as_posix(): one.read_bytes()
             for one in (tmp_path / "pocket").rglob("*") if one.is_file()}  # fmt: skip
    for name, data in built.items():
        assert data == (path.parent / "pocket" / name).read_bytes(), name
    assert {"index.html", "README.md", "board.json", "board.parquet", "cards/base.json"} <= built.keys()


def test_the_manifest_holds_the_hash_of_every_file(files: dict[str, bytes]) -> None:
    hashes = json.loads(files["manifest.json"])
    assert hashes == {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != "manifest.json"}


def test_json_and_parquet_and_markdown_say_the_same(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "board.parquet").write_bytes(files["board.parquet"])
    table = pq.read_table(tmp_path / "board.parquet").to_pylist()
    content = json.loads(files["board.json"])
    assert [view["name"] for view in content["views"]] == ["overall", "a", "b"]
    flat = {(row["view"], row["checkpoint"]): row for row in table}
    for view in content["views"]:
        assert [row["rank"] for row in view["rows"]] == sorted(row["rank"] for row in view["rows"])
        for row in view["rows"]:
            same = flat[view["name"], row["checkpoint"]]
            assert (same["rank"], same["group"]) == (row["rank"], row["group"])
            assert same["area"] == (row["area"]["mean"] if row["area"] else None)
            assert same["few_low"] == (row["few"]["low"] if row["few"] else None)
    text = files["README.md"].decode()
    best = content["views"][0]["rows"][0]
    assert best["checkpoint"] == "better"
    assert f"| 1 | 1 | better | +{best['area']['mean']:.2f} (" in text
    assert re.search(r"broken†", text) and "**A label.**" in text


def test_each_row_leads_to_card_run_and_protocol(files: dict[str, bytes]) -> None:
    page, text = files["index.html"].decode(), files["README.md"].decode()
    for name in ("base", "better", "broken"):
        for target in (f"card-{name}", f"run-{name}", "protocol"):
            assert f'href="#{target}"' in page and f'id="{target}"' in page
        assert f"[card](cards/{name}.json)" in text and f"cards/{name}.json" in files
    assert "[protocol](protocol.json)" in text and "protocol.json" in files


def test_texts_are_escaped_everywhere(files: dict[str, bytes]) -> None:
    page = files["index.html"].decode()
    assert "<script>window.hacked" not in page and "<img src=x" not in page
    assert page.count("&lt;script&gt;window.hacked") >= 3
    assert len(re.findall(r"<script", page)) == 2  # its data and its own
    assert r"m\|d" in files["README.md"].decode()


def test_markup_in_a_title_is_text_in_markdown(tmp_path: Path) -> None:
    text = board_files(made(tmp_path / "store", title=_EVIL_MARKDOWN))["README.md"].decode()
    assert text.splitlines()[0] == r"# x \| y \# &lt;b&gt;z&lt;/b&gt; \[l\](http://e.x)"


def test_the_page_needs_nothing_beside_it(files: dict[str, bytes]) -> None:
    page = files["index.html"].decode()
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert sources and all(one.startswith(("data:", "#", "https://example.org/x")) for one in sources)
    assert "default-src 'none'" in html.unescape(page) and "unsafe-inline" not in page
    assert not re.search(r"\son\w+=", re.sub(r"&lt;.*?&gt;", "", page.split("<script", 1)[0]))


def test_no_time_and_no_path_is_in_a_board(files: dict[str, bytes], board: Board) -> None:
    whole = b"".join(files.values()).decode("utf-8", "replace")
    assert not re.search(r"20\d\d-\d\d-\d\dT", whole)
    assert "/tmp" not in whole and "store/runs" not in whole


def test_an_earlier_build_is_replaced_and_its_cards_with_it(board: Board, tmp_path: Path) -> None:
    write_board(board, tmp_path / "out")
    (tmp_path / "out" / "cards" / "gone.json").write_text("{}")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({**manifest, "cards/gone.json": "x"}))
    (tmp_path / "out" / "cards" / "mine.json").write_text("{}")
    write_board(board, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "cards").iterdir()) == [
        "base.json", "better.json", "broken.json", "mine.json",
    ]  # fmt: skip


def test_a_folder_with_something_else_is_left_alone(board: Board, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="holds something else than board 'demo'"):
        write_board(board, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
