"""`nbench gate` as a release engineer meets it: exit codes, files, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from evidence_fakes import curve_values, made_run
from gate_fakes import store_run

from nbench.cli import cli
from nbench.gates.policy import TEMPLATE, read_policy

POLICY = "name: release\nrules:\n  - {kinds: [reward], margin: {sd: 0.2}}\n"
#: candidate -> exit code, and how its scores differ from the base's
CANDIDATES = {"same": 0, "broken": 1, "noisy": 2, "gappy": 2}


def nbench(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gate") / "store"
    gappy = curve_values()
    gappy[0, 3, 1] = np.nan
    values = {
        "base": curve_values(),
        "same": curve_values(),
        "broken": curve_values(seed=5, at={2: -1.0}),
        "noisy": curve_values(seed=5, noise=2.0),
        "gappy": gappy,
    }
    store_run(made_run({name: {"a": array} for name, array in values.items()}, name="cmp"), root)
    store_run(made_run({"half": {"a": curve_values()}}, name="half", dtype="bfloat16"), root)
    return root


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "release.yaml"
    path.write_text(POLICY)
    return path


def check(store: Path, policy: Path, candidate: str, *more: object) -> Result:
    return nbench("gate", policy, "--store", store, "--run", "cmp", "--base", "base", "--candidate", candidate, *more)


@pytest.mark.parametrize(("candidate", "code"), CANDIDATES.items())
def test_the_exit_code_is_the_verdict(store: Path, policy: Path, candidate: str, code: int) -> None:
    done = check(store, policy, candidate)
    assert done.exit_code == code, done.output
    assert {0: "PASS  Every", 1: "BREACH  A drop", 2: "INCONCLUSIVE  Not decided"}[code] in done.output


def test_a_process_exits_so_too(store: Path, policy: Path) -> None:
    for candidate, code in {"same": 0, "broken": 1, "gappy": 2, "nobody": 3}.items():
        command = [
            "gate",
            "check",
            policy,
            "--store",
            store,
            "--run",
            "cmp",
            "--base",
            "base",
            "--candidate",
            candidate,
        ]
        done = subprocess.run(
            [sys.executable, "-m", "nbench", *map(str, command)],
            capture_output=True, text=True, timeout=120,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr


def test_an_empty_policy_is_inconclusive(store: Path, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("name: nothing\n")
    done = check(store, tmp_path / "p.yaml", "same")
    assert done.exit_code == 2 and "nothing can be passed" in done.output


def test_unlike_cards_are_refused_with_what_differs_and_the_word_that_allows_it(store: Path, policy: Path) -> None:
    across = ("--candidate-run", "half")
    done = check(store, policy, "half", *across)
    assert done.exit_code == 3 and "dtype: float32 -> bfloat16  (--allow dtype)" in done.output
    allowed = check(store, policy, "half", *across, "--allow", "dtype")
    assert allowed.exit_code == 0 and "NOT LIKE WITH LIKE" in allowed.output


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--run", "cmq"], "Did you mean 'cmp'?"),
        (["--base", "bass"], "Did you mean 'base'?"),
        (["--allow", "dtyp"], "Did you mean 'dtype'?"),
        (["--candidate-run", "nowhere"], "there is no run 'nowhere'"),
    ],
)
def test_wrong_names_end_with_3_and_the_nearest(store: Path, policy: Path, flags: list[str], said: str) -> None:
    done = check(store, policy, "same", *flags)
    assert (done.exit_code, said in done.output) == (3, True), done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("rules: [{kinds: [reward], margin: {sd: 0.2}, tear: x}]", "Did you mean 'tier'?"),
        ("rules: [{scorers: [s], margin: {sd: 1}}]\nconfidence: 2", "confidence is 2"),
        ("- a", "policy"),
    ],
)
def test_a_wrong_policy_ends_with_3(store: Path, tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "p.yaml").write_text(content)
    done = check(store, tmp_path / "p.yaml", "same")
    assert (done.exit_code, said in done.output) == (3, True), done.output


@pytest.mark.parametrize(
    "arguments", [[], ["nowhere.yaml"], ["check"], ["--run", "x"], ["sequential"], ["plan"], ["init"]]
)
def test_a_command_that_is_not_whole_ends_with_3_and_never_as_a_verdict(arguments: list[str]) -> None:
    done = nbench("gate", *arguments)
    assert done.exit_code == 3, done.output


def test_a_run_that_has_no_tables_yet_ends_with_4(store: Path, policy: Path, tmp_path: Path) -> None:
    folder = store_run(made_run({"base": {"a": curve_values()}}, name="young"), tmp_path / "store")
    (folder / "scores.parquet").unlink()
    arguments = ("--store", tmp_path / "store", "--run", "young", "--base", "base", "--candidate", "base")
    done = nbench("gate", policy, *arguments)
    assert done.exit_code == 4 and "has no tables yet" in done.output


def test_json_alone_is_on_stdout(store: Path, policy: Path, tmp_path: Path) -> None:
    done = check(store, policy, "broken", "--json", "--out", tmp_path / "dossier")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["verdict"], found["exit_code"]) == (1, "BREACH", 1)
    assert json.loads((tmp_path / "dossier/gate.json").read_text()) == found


def test_files_are_written_where_they_are_asked_for(store: Path, policy: Path, tmp_path: Path) -> None:
    out = tmp_path / "new/folder"
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    flags = ("--junit", out / "j.xml", "--sarif", out / "s.json", "--summary", summary, "--out", tmp_path / "dossier")
    done = check(store, policy, "broken", *flags)
    assert done.exit_code == 1 and f"Dossier: {tmp_path / 'dossier'}" in done.output
    assert ET.parse(out / "j.xml").getroot().tag == "testsuites"
    assert json.loads((out / "s.json").read_text())["version"] == "2.1.0"
    assert summary.read_text().startswith("before\n## ❌ release: BREACH")
    assert (tmp_path / "dossier/manifest.json").is_file()


def test_a_relative_policy_is_named_as_it_was_typed(
    store: Path, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(path: Path) -> str:
        check(store, path, "broken", "--sarif", tmp_path / "s.json")
        found = json.loads((tmp_path / "s.json").read_text())["runs"][0]["results"][0]
        return str(found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])

    monkeypatch.chdir(tmp_path)
    (tmp_path / "gates").mkdir()
    (tmp_path / "gates/p.yaml").write_text(POLICY)
    assert place(Path("gates/p.yaml")) == "gates/p.yaml"
    assert place(policy) == "release.yaml"  # the rest of an absolute path is nobody's business


def test_a_dossier_over_something_else_is_refused(store: Path, policy: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = check(store, policy, "same", "--out", tmp_path)
    assert done.exit_code == 3 and "something else than a dossier" in done.output


def test_init_writes_the_template_and_never_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "gates/release.yaml"
    done = nbench("gate", "init", path)
    assert done.exit_code == 0 and path.read_text() == TEMPLATE and "nbench gate plan" in done.output
    assert read_policy(path).name == "release"
    path.write_text("mine")
    again = nbench("gate", "init", path)
    assert again.exit_code == 3 and "exists already" in again.output and path.read_text() == "mine"


def test_plan_prints_what_the_policy_takes(store: Path, policy: Path) -> None:
    arguments = ("gate", "plan", policy, "--store", store, "--run", "cmp", "--base", "base")
    done = nbench(*arguments, "--seeds", "1,4")
    assert done.exit_code == 0 and "4 per prompt: " in done.output
    assert "from the base's scores" in " ".join(done.output.split())
    measured = nbench(*arguments, "--candidate", "noisy")
    assert measured.exit_code == 0 and "from measured pairs" in " ".join(measured.output.split())
    for flag, said in (
        (["--seeds", "0"], "give counts from 1"),
        (["--seeds", "x"], "give counts"),
        (["--base", "x"], "x"),
    ):
        wrong = nbench(*arguments, *flag)
        assert wrong.exit_code == 3 and said in wrong.output


def test_sequential_refuses_what_it_cannot_decide_before_it_makes_anything(policy: Path, tmp_path: Path) -> None:
    arguments = ("gate", "sequential", policy, "--suite", "pocket", "--store", tmp_path / "store", "--candidate", "x")
    few = nbench(*arguments, "--base", "base")
    assert few.exit_code == 3 and "the suite has no checkpoint 'x'" in few.output
    same = nbench(*arguments[:-1], "guarded", "--base", "base", "--limit", 24)
    assert same.exit_code == 3 and "24 prompts are too few for a sequential gate" in same.output
    assert not (tmp_path / "store").exists()
