from pathlib import Path

import pytest

from nbench.errors import PromptSetError, UsageError
from nbench.normguard.heldout import write_held_out
from nbench.prompts import Prompt, PromptSet, load_prompt_set

PROMPTS = PromptSet(
    "colours: all",
    (
        Prompt("1e3", 'a "red" cube: 50 % # off', ("colour:red", "yes")),
        Prompt("null", "ein Würfel, d'azur — 立方体", ()),
        Prompt("- x", "true", ("a, b",)),
    ),
    source="https://example.org/colours, version: 2",
    licence="CC-BY-4.0",
    total=40,
)


def test_the_file_holds_the_same_prompts_in_order_with_source_and_licence(tmp_path: Path) -> None:
    written = write_held_out(PROMPTS, tmp_path / "run" / "heldout.yaml")
    read = load_prompt_set(tmp_path / "run" / "heldout.yaml")
    assert read == written
    assert read.prompts == PROMPTS.prompts
    assert (read.name, read.source, read.licence) == ("heldout", PROMPTS.source, PROMPTS.licence)
    assert "3 of the 40 prompts of colours: all" in read.description


def test_a_file_that_was_edited_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "heldout.yaml"
    write_held_out(PROMPTS, path)
    path.write_text(path.read_text(encoding="utf-8").replace("cube", "ball"), encoding="utf-8")
    with pytest.raises(PromptSetError, match="has changed"):
        write_held_out(PROMPTS, path)


def test_other_prompts_are_refused_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "heldout.yaml"
    write_held_out(PROMPTS, path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="holds other held-out prompts"):
        write_held_out(PROMPTS.limited(2), path)
    assert path.read_bytes() == before


def test_a_bundled_set_survives_whole(tmp_path: Path) -> None:
    pocket = load_prompt_set("pocket")
    assert write_held_out(pocket, tmp_path / "heldout.yaml").content_hash == pocket.content_hash
