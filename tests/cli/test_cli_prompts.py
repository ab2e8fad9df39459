"""`nbench prompts list` and `show`."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from nbench.cli import cli
from nbench.prompts import load_prompt_set


def test_list_names_every_set_with_count_and_licence() -> None:
    result = CliRunner().invoke(cli, ["prompts", "list"])
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["core", str(len(load_prompt_set("core"))), "CC0-1.0", "bundled"] in [line[:4] for line in lines]
    assert ["parti-prompts", "1632", "Apache-2.0", "fetched"] in [line[:4] for line in lines]


def test_show_prints_prompts_and_where_they_come_from() -> None:
    result = CliRunner().invoke(cli, ["prompts", "show", "core", "--limit", "3"], env={"COLUMNS": "200"})
    core = load_prompt_set("core")
    assert result.exit_code == 0
    assert all(prompt.id in result.stdout for prompt in core.limited(3))
    assert f"3 of {len(core)}" in result.stdout
    assert core.limited(3).content_hash in result.stdout and "CC0-1.0" in result.stdout


def test_show_as_json_lines_is_a_prompt_set_again(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["prompts", "show", "core", "--tag", "hands", "--json"])
    path = tmp_path / "hands.jsonl"
    path.write_text(result.stdout, encoding="utf-8")
    assert load_prompt_set(path).prompts == load_prompt_set("core").tagged("hands").prompts


def test_several_tags_narrow_the_choice() -> None:
    result = CliRunner().invoke(cli, ["prompts", "show", "core", "--tag", "long", "--tag", "text", "--json"])
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows and all({"long", "text"} <= set(row["tags"]) for row in rows)


def test_markup_in_a_prompt_is_printed_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("a sign reading [bold]STOP[/bold]\n")
    result = CliRunner().invoke(cli, ["prompts", "show", str(tmp_path / "m.txt")], env={"COLUMNS": "120"})
    assert "a sign reading [bold]STOP[/bold]" in result.stdout


def test_unknown_set_and_tag_exit_with_3_and_a_suggestion() -> None:
    result = CliRunner().invoke(cli, ["prompts", "show", "pocke"])
    assert (result.exit_code, result.stderr) == (3, "Error: there is no prompt set 'pocke'. Did you mean 'pocket'?\n")
    result = CliRunner().invoke(cli, ["prompts", "show", "core", "--tag", "handz"])
    assert result.exit_code == 3 and "Did you mean 'hands'?" in result.stderr
