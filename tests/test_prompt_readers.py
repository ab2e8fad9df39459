"""Readers of prompt files: what each format may hold, and what is refused with the place of the mistake."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from nbench.errors import PromptSetError
from nbench.prompts import Prompt, load_prompt_set

HEAD = "source: mine\nlicence: MIT\n"


def load(folder: Path, name: str, content: str) -> list[Prompt]:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return list(load_prompt_set(path))


def test_yaml_keeps_ids_texts_tags_source_and_licence(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: my set\ndescription: two\nsource: here\nlicence: MIT\nprompts:\n"
        "  - {id: one, text: 'a sign that says \"no: entry\"', tags: [text, sign]}\n  - {id: 2, text: ' a dog '}\n",
        encoding="utf-8",
    )
    prompt_set = load_prompt_set(path)
    assert list(prompt_set) == [
        Prompt("one", 'a sign that says "no: entry"', ("text", "sign")),
        Prompt("2", "a dog", ()),
    ]
    assert (prompt_set.name, prompt_set.source, prompt_set.licence) == ("my set", "here", "MIT")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("licence: MIT\nprompts: []", r"names no source; add a line `source: \.\.\.`"),
        ("source: mine\nprompts: []", r"names no licence"),
        (HEAD + "prompts: []", r"is empty; give it at least one prompt"),
        (HEAD, r"is empty; give it at least one prompt"),
        (HEAD + "promts: []", r"has the unknown key 'promts'\. Did you mean 'prompts'\?"),
        (HEAD + "prompts: {a: b}", r"`prompts` in .* must be a list"),
        (HEAD + "prompts: [a cat]", r"prompt 1 of .* must be a mapping, not str"),
        (HEAD + "prompts: [{id: a, txt: b}]", r"has the unknown key 'txt'\. Did you mean 'text'\?"),
        (HEAD + "prompts: [{id: a}]", r"prompt 'a' \(number 1\) of .* has no text"),
        (HEAD + "prompts: [{id: a, text: yes}]", r"has the text True, which is not a string; put it in quotes"),
        (HEAD + "prompts: [{id: a, text: ' '}]", r"has an empty text"),
        (HEAD + "prompts: [{id: 1.5, text: b}]", r"has the id 1\.5; an id must be a printable string"),
        (HEAD + "prompts: [{id: a, text: b, tags: {x: y}}]", r"tags must be a list of strings"),
        (HEAD + "count: many\nprompts: [{id: a, text: b}]", r"`count` in .* must be a whole number, not 'many'"),
        ("- a\n- b", r"must be a mapping, not list"),
        ("a: [", r"is not valid YAML"),
        ("!!python/object/apply:os.getcwd []", r"is not valid YAML"),
    ],
)
def test_malformed_yaml_is_refused_with_its_place(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(PromptSetError, match=message):
        load(tmp_path, "bad.yaml", content)


def test_jsonl_takes_objects_and_strings(tmp_path: Path) -> None:
    content = (
        '{"id": "a", "text": "a cat", "tags": ["x"], "seed": 3}\n\n"a dog"\n{"prompt": "a fish", "tags": "x; y, x"}\n'
    )
    a, b, c = load(tmp_path, "p.jsonl", content)
    assert a == Prompt("a", "a cat", ("x",))
    assert (b.text, b.tags, c.text, c.tags) == ("a dog", (), "a fish", ("x", "y"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('"a cat"\n{"text": ', r"line 2 of .*p\.jsonl is not valid JSON"),
        ("3\n", r"line 1 of .* is neither an object nor a string"),
        ('{"query": "a"}', r"line 1 of .* has no text column; call it one of text, prompt, .* \(found: query\)"),
    ],
)
def test_malformed_jsonl_is_refused_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(PromptSetError, match=message):
        load(tmp_path, "p.jsonl", content)


def test_csv_and_tsv_read_the_text_column_by_its_usual_names(tmp_path: Path) -> None:
    a, b = load(tmp_path, "p.csv", '\ufeffID,Prompt,Tags\n7,"a cat, asleep",x;y\n,"two\nlines",\n')
    assert a == Prompt("7", "a cat, asleep", ("x", "y"))
    assert b.text == "two\nlines" and b.id.startswith("p")
    assert [prompt.text for prompt in load(tmp_path, "p.tsv", "caption\tnote\na, b\tc\n")] == ["a, b"]


def test_csv_without_a_text_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptSetError, match=r"the first line of .*p\.csv has no text column"):
        load(tmp_path, "p.csv", "a,b\n1,2\n")


def test_txt_has_one_prompt_a_line(tmp_path: Path) -> None:
    texts = [prompt.text for prompt in load(tmp_path, "p.txt", "a cat\n\n  # not a comment \n")]
    assert texts == ["a cat", "# not a comment"]


def test_plain_files_are_marked_as_user_supplied(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a cat")
    prompt_set = load_prompt_set(tmp_path / "mine.txt")
    assert (prompt_set.name, prompt_set.licence, prompt_set.source) == ("mine", "user-supplied", "mine.txt")


def test_parquet_reads_text_id_and_tags_and_nothing_else(tmp_path: Path) -> None:
    table = pyarrow.table(
        {"prompt": ["a cat", "a dog"], "tags": [["x"], None], "image": [b"1", b"2"], "id": ["a", "b"]}
    )
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    assert list(load_prompt_set(tmp_path / "p.parquet")) == [Prompt("a", "a cat", ("x",)), Prompt("b", "a dog")]


def test_broken_or_foreign_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(PromptSetError, match=r"cannot read .* as parquet"):
        load_prompt_set(tmp_path / "p.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(PromptSetError, match=r"x\.parquet has no text column"):
        load_prompt_set(tmp_path / "x.parquet")


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"caf\xe9")
    with pytest.raises(PromptSetError, match="it must be readable UTF-8"):
        load_prompt_set(tmp_path / "p.txt")
