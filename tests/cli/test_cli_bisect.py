"""`nbench bisect`: its exit codes, on fakes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from run_fakes import Fakes, fake_suite

from nbench.cli import cli

POLICY = "rules: [{scorers: [fake-a], margin: {absolute: 0.0}}]\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in ("execute", "estimate"):
        monkeypatch.setattr(f"nbench.runs.{module}.default_backend", lambda: Fakes().backend())
    (tmp_path / "suite.yaml").write_text(fake_suite(scorers="fake-a", limit=8, steps="2").to_yaml())
    (tmp_path / "policy.yaml").write_text(POLICY)
    return tmp_path


def bisect(place: Path, names: str, *options: str) -> Result:
    checkpoints = [f"{name}=fake-base+lora-{name}" for name in names.split()]
    files = ["--policy", str(place / "policy.yaml"), "--suite", str(place / "suite.yaml")]
    fixed = [*files, "--base", "base", "--store", str(place / "store")]
    return CliRunner().invoke(cli, ["bisect", *checkpoints, *fixed, *options])


@pytest.mark.parametrize(
    ("names", "code", "told"),
    [
        ("s2 s3", 0, "No breach: s3, the last checkpoint, passes."),
        ("s2 s3 s0 s7", 1, "s0 is the first that breaches, and s3 before it passes."),
        ("s2 s4", 2, "No breach is shown, and s4 cannot be told: use more prompts."),
    ],
)
def test_exit_codes_are_those_of_a_gate(place: Path, names: str, code: int, told: str) -> None:
    done = bisect(place, names)
    assert done.exit_code == code and told in done.output, done.output


def test_json_says_it_all(place: Path) -> None:
    done = bisect(place, "s2 s0", "--json")
    content = json.loads(done.stdout)
    assert done.exit_code == content["exit_code"] == 1
    assert (content["first_breach"], content["last_pass"]) == ("s0", "s2")
    assert content["checkpoints"][1]["gate"]["verdict"] == "BREACH"


def test_a_wrong_base_is_an_input_error(place: Path) -> None:
    done = bisect(place, "s2", "--base", "bse")
    assert done.exit_code == 3 and "Did you mean 'base'" in done.output
