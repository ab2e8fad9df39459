"""Definitions of boards: what they refuse, and in which words."""

from pathlib import Path
from typing import Any

import pytest

from nbench.errors import UsageError
from nbench.leaderboard.definition import find_definition, make_definition, read_definition


def content(**fields: Any) -> dict[str, Any]:
    return {
        "name": "demo", "title": "Demo", "base": {"run": "r", "checkpoint": "base"}, "steps": [2, 4, 8],
        "entries": [{"run": "r", "checkpoint": "nft"}], **fields,
    }  # fmt: skip


def test_few_and_full_are_the_first_and_the_last_step_count() -> None:
    found = make_definition(content())
    assert (found.few_steps, found.full_steps) == (2, 8)
    found = make_definition(content(few=4))
    assert (found.few_steps, found.full_steps) == (4, 8)


def test_a_string_is_a_submission() -> None:
    found = make_definition(content(entries=["subs/x"]))
    assert (found.entries[0].submission, found.entries[0].run) == ("subs/x", "")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stepz": [1]}, "unknown key 'stepz'. Did you mean 'steps'"),
        ({"entries": [{"run": "r", "checkpiont": "x"}]}, "Did you mean 'checkpoint'"),
        ({"steps": [4, 2]}, "must ascend"),
        ({"steps": [2]}, "steps"),
        ({"few": 3}, "few: 3 is not among the steps"),
        ({"few": 8, "full": 2}, r"few \(8\) must be less than full \(2\)"),
        ({"name": "../up"}, "cannot be used as a name"),
        ({"entries": [{"run": "r", "checkpoint": "x", "name": "a b"}]}, "cannot be used as a name"),
        ({"entries": [{"run": "r"}]}, "needs a checkpoint"),
        ({"entries": [{"checkpoint": "r"}]}, "needs the run"),
        ({"entries": [{"run": "r", "checkpoint": "x", "submission": "s"}]}, "either a run with a checkpoint, or a sub"),
        ({"entries": [{"submission": "s", "url": "javascript:alert(1)"}]}, "no web address"),
        ({"allow": ["guidence"]}, "Did you mean 'guidance'"),
        ({"kinds": []}, "names kinds of scorers, scorers, or both"),
    ],
)
def test_what_is_wrong_is_said(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_definition(content(**fields))


def test_an_unknown_definition_names_the_nearest_bundled_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'pocket'"):
        find_definition("pockett")
    assert read_definition(find_definition("pocket")).name == "pocket"
