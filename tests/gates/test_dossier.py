"""The dossier: everything beside each other, hashes that hold, nothing else touched."""

import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evidence_fakes import curve_values, made_run
from gate_fakes import REWARDS
from PIL import Image

from nbench.compare import Side
from nbench.errors import UsageError
from nbench.gates.dossier import MANIFEST, write_dossier
from nbench.gates.evaluate import evaluate_gate
from nbench.gates.policy import make_policy

FILES = {
    "gate.json", "gate.sarif", "junit.xml", "summary.md", "comparison.json", "curves.svg", "worst-pairs.png",
    "card-base.json", "card-candidate.json", "index.html", "manifest.json",
}  # fmt: skip


def dossier(out: Path, *, name: str = "p", steps: tuple[int, ...] = (2, 4, 8)) -> list[Path]:
    values = {"steps": steps}
    run = made_run(
        {"base": {"a": curve_values(**values)}, "nft": {"a": curve_values(seed=5, at={2: -1.0}, **values)}},
        steps=steps, root=out.parent / "store",
    )  # fmt: skip
    policy = make_policy({"name": name, "rules": [REWARDS]})
    sides = Side(run, "base"), Side(run, "nft")
    return write_dossier(evaluate_gate(policy, *sides), *sides, "gates/release.yaml", out)


def test_it_holds_the_result_in_every_format_and_the_evidence(tmp_path: Path) -> None:
    written = dossier(tmp_path / "out")
    assert {path.name for path in written} == FILES == {path.name for path in (tmp_path / "out").iterdir()}
    assert written[-1].name == MANIFEST
    found = json.loads((tmp_path / "out/gate.json").read_text())
    assert (found["verdict"], found["exit_code"]) == ("BREACH", 1)
    assert json.loads((tmp_path / "out/card-base.json").read_text())["dtype"] == "float32"
    with Image.open(tmp_path / "out/worst-pairs.png") as sheet:
        assert sheet.height > 300


def test_the_manifest_holds_the_hash_of_every_other_file(tmp_path: Path) -> None:
    dossier(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert manifest.keys() == FILES - {MANIFEST}
    for name, wanted in manifest.items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == wanted


def test_again_it_is_the_same_bytes(tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in dossier(tmp_path / "one")}
    assert first == {path.name: path.read_bytes() for path in dossier(tmp_path / "two")}


def test_a_later_dossier_replaces_an_earlier_one_whole(tmp_path: Path) -> None:
    dossier(tmp_path / "out")
    dossier(tmp_path / "out", steps=(2,))  # one step count has no curve
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES - {"curves.svg"}


@pytest.mark.parametrize("names", [["notes.txt"], ["manifest.json"], ["manifest.json", "notes.txt"]])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, names: list[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in names:
        (out / name).write_text("mine")
    with pytest.raises(UsageError, match="something else than a dossier"):
        dossier(out)
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(names, "mine")


def test_a_file_put_beside_a_dossier_is_not_lost(tmp_path: Path) -> None:
    dossier(tmp_path / "out")
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else than a dossier"):
        dossier(tmp_path / "out")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_markup_as_text_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    dossier(tmp_path / "out", name="<script>alert(1)</script> & [red]")
    page = _Page()
    page.feed((tmp_path / "out/index.html").read_text())
    assert "script" not in page.tags and not page.handlers
    assert "gate <script>alert(1)</script> & [red]: nft against base" in page.text and "BREACH" in page.text
    linked = {one for one in page.addresses if not one.startswith("data:image/png;base64,")}
    assert linked == FILES - {"index.html"}
    assert "default-src 'none'" in (tmp_path / "out/index.html").read_text()
