"""Public prompt sets: every bundled entry, read from local files in the format of the real ones; no network."""

from __future__ import annotations

import csv
import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import yaml

from nbench.errors import PromptSetError
from nbench.prompts import PromptSetWarning, load_prompt_set, prompt_set_paths


@pytest.fixture(autouse=True)
def private_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NBENCH_CACHE", str(tmp_path / "cache"))


def _csv(path: Path, rows: list[list[str]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def _parti(folder: Path) -> None:
    header = ["Prompt", "Category", "Challenge", "Note"]
    rows = [["bond", "Abstract", "Basic", ""], ["a red barn", "Outdoor Scenes", "Imagination", "n"]]
    _csv(folder / "PartiPrompts.tsv", [header, *rows], delimiter="\t")


def _hpdv2(folder: Path) -> None:
    for style in ("anime", "concept-art", "paintings", "photo"):
        path = folder / "benchmark" / f"{style}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([f"{style} one", f"{style} two"]))


def _drawbench(folder: Path) -> None:
    _csv(folder / "drawbench.csv", [["Prompts", "Category"], ["A red car.", "Colors"], ["Two cars.", "Counting"]])


def _geneval(folder: Path) -> None:
    rows = [
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
        {"tag": "position", "include": [{"class": "cup", "position": ["left of", 0]}], "prompt": "a photo of a cup"},
    ]
    (folder / "evaluation_metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def _unigenbench(folder: Path) -> None:
    points = json.dumps({"Primary Categories": "Art", "Testpoints": ["Style", "Attribute - Color"]})
    _csv(folder / "test_prompts_en.csv", [["index", "prompt_en", "sub_dims_en"], ["0", "an ink fox", points]])


def _pick_a_pic(folder: Path) -> None:
    (folder / "data").mkdir()
    for split in ("test_unique", "train"):
        table = pyarrow.table({"caption": [f"{split} one", f"{split} two"], "label_0": [1.0, 0.0]})
        pyarrow.parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001-abc.parquet")


def local_entry(name: str, folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """The bundled entry `name`, with its data set replaced by the files in `folder`; nothing else is changed."""
    entry = yaml.safe_load(prompt_set_paths()[name].read_text(encoding="utf-8"))
    dataset = entry["dataset"]
    if "/" in dataset["id"]:
        dataset["id"] = str(folder)
    else:
        split, url = next(iter(dataset["data_files"].items()))
        dataset["data_files"] = {split: str(folder / url.rsplit("/", 1)[-1])}
    entry.update(changes or {})
    path = folder.parent / f"{name}.yaml"
    path.write_text(yaml.safe_dump(entry), encoding="utf-8")
    return path


CASES: dict[str, tuple[Callable[[Path], None], int, list[tuple[str, tuple[str, ...]]]]] = {
    "parti-prompts": (
        _parti,
        1632,
        [("bond", ("Abstract", "Basic")), ("a red barn", ("Outdoor Scenes", "Imagination"))],
    ),
    "hpdv2": (
        _hpdv2,
        3200,
        [
            (f"{style} {n}", (style.replace("-", "_"),))
            for style in ("anime", "concept-art", "paintings", "photo")
            for n in ("one", "two")
        ],
    ),
    "drawbench": (_drawbench, 200, [("A red car.", ("Colors",)), ("Two cars.", ("Counting",))]),
    "geneval": (_geneval, 553, [("a photo of a bench", ("single_object",)), ("a photo of a cup", ("position",))]),
    "unigenbench": (_unigenbench, 600, [("an ink fox", ("Art", "Style", "Attribute - Color"))]),
    "pick-a-pic": (_pick_a_pic, 500, [("test_unique one", ()), ("test_unique two", ())]),
}


def test_every_bundled_entry_has_a_case() -> None:
    assert set(CASES) == set(prompt_set_paths()) - {"core", "pocket", "pocket-all", "pocket-held-out"}


@pytest.mark.parametrize("name", sorted(CASES))
def test_entry_reads_its_format_and_warns_of_another_count(name: str, tmp_path: Path) -> None:
    write, count, expected = CASES[name]
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder)
    with pytest.warns(PromptSetWarning, match=rf"expected to hold {count} prompts, but holds {len(expected)}"):
        prompt_set = load_prompt_set(local_entry(name, folder))
    assert [(prompt.text, prompt.tags) for prompt in prompt_set] == expected
    assert prompt_set.name == name and prompt_set.licence and prompt_set.source.startswith("https://")


def test_ids_come_from_the_id_column(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    _unigenbench(tmp_path / "data")
    path = local_entry("unigenbench", tmp_path / "data", {"count": 1})
    assert [prompt.id for prompt in load_prompt_set(path)] == ["0"]


@pytest.mark.parametrize("name", ["parti-prompts", "geneval"])
def test_offline_says_what_to_do(name: str) -> None:
    with pytest.raises(PromptSetError, match=rf"'{name}' could not be loaded .*; load it once with network access"):
        load_prompt_set(name)


def test_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    _drawbench(tmp_path / "data")
    path = local_entry("drawbench", tmp_path / "data", {"columns": {"text": "Prompt"}})
    with pytest.raises(PromptSetError, match=r"has no column 'Prompt'; it has Prompts, Category"):
        load_prompt_set(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": None}, "`columns` in .* must be a mapping"),
        ({"columns": {"tags": ["a"]}}, "must name the data set's `id` and the `text` column; 'text' is missing"),
        ({"dataset": {"id": "x/y", "spilt": "train"}}, r"unknown key 'spilt'\. Did you mean 'split'\?"),
        ({"licence": None}, "names no licence"),
    ],
)
def test_malformed_entry_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(PromptSetError, match=message):
        load_prompt_set(local_entry("drawbench", tmp_path / "data", changes))


def test_https_file_is_downloaded_once_and_then_used_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = yaml.safe_load(prompt_set_paths()["geneval"].read_text(encoding="utf-8")) | {"count": 1}
    path = tmp_path / "geneval.yaml"
    path.write_text(yaml.safe_dump(entry))
    fetched: list[str] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        fetched.append(url)
        return io.BytesIO(b'{"tag": "counting", "prompt": "a photo of three cups"}\n')

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    first = load_prompt_set(path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert load_prompt_set(path).content_hash == first.content_hash
    assert [prompt.text for prompt in first] == ["a photo of three cups"]
    assert fetched == [entry["dataset"]["data_files"]["train"]]


def test_failed_download_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(url: str, timeout: float) -> io.BytesIO:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(PromptSetError, match="no route to host"):
        load_prompt_set("geneval")
    assert list((tmp_path / "cache" / "prompts").iterdir()) == []
