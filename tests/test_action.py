"""action.yml and docs/ci.md: they parse, agree with each other, and the action's shell steps do what they say."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from evidence_fakes import curve_values, made_run
from gate_fakes import store_run

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
_EXPRESSION = re.compile(r"\$\{\{\s*([\w.-]+)\s*\}\}")
_CONDITION = re.compile(r"(inputs|steps\.gate\.outputs)\.([\w-]+) (==|!=) '([^']*)'")


@dataclass
class Job:
    """What GitHub's runner does with a composite action, as far as this one needs it.

    Attributes:
        folder: where the job's steps run.
        inputs: as the workflow gives them.
        stubbed: whether `nbench gate` is only written down too.
        calls: what `python` was called with.
        used: actions that were called, with what.
        outputs: of the step "gate".
        code: exit code of the step that failed, or 0.
    """

    folder: Path
    inputs: dict[str, str]
    stubbed: bool = False
    calls: list[list[str]] = field(default_factory=list)
    used: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    code: int = 0

    def __post_init__(self) -> None:
        defaults = {name: one.get("default", "") for name, one in ACTION["inputs"].items()}
        assert self.inputs.keys() <= defaults.keys()
        self.inputs = {**defaults, **self.inputs}

    def value(self, text: str) -> str:
        def look_up(found: re.Match[str]) -> str:
            scope, _, name = found[1].rpartition(".")
            known = {"inputs": self.inputs, "github": {"action_path": str(ROOT)}, "steps.gate.outputs": self.outputs}
            return known[scope][name]

        return _EXPRESSION.sub(look_up, text)

    def wanted(self, condition: str) -> bool:
        parts = [_CONDITION.fullmatch(part) for part in condition.split(" && ")]
        assert all(parts), f"teach this test to read {condition!r}"
        scopes = {"inputs": self.inputs, "steps.gate.outputs": self.outputs}
        return all((scopes[part[1]][part[2]] == part[4]) == (part[3] == "==") for part in parts if part is not None)

    def run(self) -> Job:
        stub = self.folder / "bin/python"
        stub.parent.mkdir()
        log, output, summary = (self.folder / name for name in ("calls", "output", "summary.md"))
        # pip and what generates are written down; `nbench gate check` is the real thing, unless stubbed.
        skipped = '"-m pip "*|"-m nbench run "*|"-m nbench gate sequential "*' if not self.stubbed else "*"
        stub.write_text(
            f'#!/bin/bash\nprintf "%q " "$@" >> {log}; echo >> {log}\n'
            f'case "$*" in {skipped}) exit "${{STUB_CODE:-0}}";; esac\n'
            f'exec {sys.executable} "$@"\n'
        )
        stub.chmod(0o755)
        for step in STEPS:
            if "if" in step and not self.wanted(step["if"]):
                continue
            if "uses" in step:
                self.used.append((step["uses"], {key: self.value(text) for key, text in step["with"].items()}))
                continue
            assert step["shell"] == "bash"
            environment = {
                **os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
                "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary),
                **{name: self.value(text) for name, text in step.get("env", {}).items()},
            }  # fmt: skip
            script = self.folder / "step.sh"
            script.write_text(step["run"])
            command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
            done = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120
            )
            if output.exists():
                self.outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
            if done.returncode:
                self.code = done.returncode
                break
        self.calls = [shlex.split(line) for line in log.read_text().splitlines()]
        return self


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    values = {
        "base": {"a": curve_values()},
        "same": {"a": curve_values()},
        "broken": {"a": curve_values(seed=5, at={2: -1.0})},
        "noisy": {"a": curve_values(seed=5, noise=2.0)},
    }
    store_run(made_run(values, name="gate"), tmp_path / "nbench-store")
    (tmp_path / "policy.yaml").write_text("name: release\nrules: [{kinds: [reward], margin: {sd: 0.2}}]\n")

    def make(stubbed: bool = False, **inputs: str) -> Job:
        named = {name.replace("_", "-"): text for name, text in inputs.items()}
        return Job(tmp_path, {"policy": "policy.yaml", "base": "base", "candidate": "same", **named}, stubbed)

    return make


@pytest.mark.parametrize(
    ("candidate", "code", "verdict"), [("same", 0, "PASS"), ("broken", 1, "BREACH"), ("noisy", 2, "INCONCLUSIVE")]
)
def test_the_job_ends_with_the_gates_code_and_keeps_the_evidence(
    job: Any, tmp_path: Path, candidate: str, code: int, verdict: str
) -> None:
    done = job(candidate=candidate, upload_sarif="true").run()
    assert done.code == code
    assert done.outputs == {"exit-code": str(code), "verdict": verdict, "dossier": "nbench-dossier"}
    assert [name.partition("@")[0] for name, _ in done.used] == [
        "actions/setup-python", "actions/upload-artifact", "github/codeql-action/upload-sarif",
    ]  # fmt: skip
    assert (tmp_path / done.used[1][1]["path"] / "manifest.json").is_file()
    assert (tmp_path / done.used[2][1]["sarif_file"]).is_file()
    assert f"release: {verdict}" in (tmp_path / "summary.md").read_text()


def test_wrong_input_ends_with_3_and_uploads_nothing(job: Any, tmp_path: Path) -> None:
    done = job(candidate="nobody", upload_sarif="true").run()
    assert (done.code, done.outputs) == (3, {"exit-code": "3", "verdict": "ERROR", "dossier": ""})
    assert [name.partition("@")[0] for name, _ in done.used] == ["actions/setup-python"]
    assert "could not judge" in (tmp_path / "summary.md").read_text()


def test_it_installs_itself_unless_told_what(job: Any) -> None:
    assert job(stubbed=True).run().calls[0] == ["-m", "pip", "install", str(ROOT)]


def test_what_is_installed_may_be_told(job: Any) -> None:
    done = job(stubbed=True, install="nbench==1.2\n--no-deps\n", python_version="").run()
    assert done.calls[0] == ["-m", "pip", "install", "nbench==1.2", "--no-deps"] and done.used[0][0].startswith(
        "actions/upload-artifact"
    )


def test_a_suite_is_run_first_with_its_arguments_as_they_are(job: Any) -> None:
    done = job(stubbed=True, suite="suite.yaml", run_args="--batch-size\n8\n\n--name\n$(touch pwned); `id`\n").run()
    assert done.code == 0
    assert done.calls[1] == [
        "-m", "nbench", "run", "suite.yaml", "--name", "gate", "--store", "nbench-store", "--batch-size", "8",
        "--name", "$(touch pwned); `id`",
    ]  # fmt: skip
    assert done.calls[2][:4] == ["-m", "nbench", "gate", "check"]


def test_a_run_that_fails_ends_the_job_with_its_code(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_CODE", "4")
    assert job(candidate="same", suite="suite.yaml").run().code == 4


def test_names_cannot_become_commands(job: Any, tmp_path: Path) -> None:
    name = 'x"; touch pwned; "$(touch pwned)'
    done = job(stubbed=True, candidate=name, base=name, policy=name).run()
    assert done.code == 0 and done.calls[-1].count(name) == 3 and not (tmp_path / "pwned").exists()


def test_the_sequential_gate_runs_the_suite_itself(job: Any) -> None:
    done = job(candidate="same", suite="suite.yaml", sequential="true", gate_args="--block\n32").run()
    assert done.code == 0 and done.outputs["verdict"] == "PASS"
    assert len(done.calls) == 2
    assert done.calls[1] == [
        "-m", "nbench", "gate", "sequential", "policy.yaml", "--suite", "suite.yaml", "--name", "gate",
        "--base", "base", "--candidate", "same", "--store", "nbench-store", "--out", "nbench-dossier", "--summary",
        str(done.folder / "summary.md"), "--block", "32",
    ]  # fmt: skip


def test_the_options_of_a_sequential_gate_exist() -> None:
    from nbench.cli.gate import gate

    known = {option for one in gate.commands["sequential"].params for option in one.opts}
    assert {"--suite", "--name", "--base", "--candidate", "--store", "--out", "--summary", "--block"} <= known


def test_the_candidate_may_be_in_another_run(job: Any, tmp_path: Path) -> None:
    store_run(made_run({"nft": {"a": curve_values()}}, name="other", dtype="bfloat16"), tmp_path / "nbench-store")
    done = job(candidate="nft", candidate_run="other", gate_args="--allow\ndtype", artifact="").run()
    assert done.code == 0
    assert [name.partition("@")[0] for name, _ in done.used] == ["actions/setup-python"]


def test_inputs_reach_the_shell_as_environment_variables_alone() -> None:
    scripts = [step["run"] for step in STEPS if "run" in step]
    assert len(scripts) == 4 and not any("${{" in script for script in scripts)


def test_every_input_and_output_is_described_and_used() -> None:
    text = (ROOT / "action.yml").read_text()
    for name, one in ACTION["inputs"].items():
        assert one["description"] and f"inputs.{name}" in text
        assert one.get("required") or "default" in one
    assert all(one["description"] for one in ACTION["outputs"].values())


def workflow() -> dict[str, Any]:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/ci.md").read_text(), re.DOTALL)
    return next(found for found in map(yaml.safe_load, blocks) if "jobs" in found)  # type: ignore[no-any-return]


def test_the_documented_workflow_gives_the_action_what_it_takes() -> None:
    steps = workflow()["jobs"]["gate"]["steps"]
    (ours,) = [step for step in steps if "nbench@" in step.get("uses", "")]
    assert ours["with"].keys() <= ACTION["inputs"].keys()
    assert {name for name, one in ACTION["inputs"].items() if one.get("required")} <= ours["with"].keys()
    for step in steps:
        for name in re.findall(r"steps\.gate\.outputs\.([\w-]+)", str(step)):
            assert name in ACTION["outputs"]


def test_the_documented_suite_is_a_suite() -> None:
    from nbench.runs.suite import make_suite

    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/ci.md").read_text(), re.DOTALL)
    found = make_suite(next(one for one in map(yaml.safe_load, blocks) if "checkpoints" in one))
    assert {"base", "nft"} == {one.name for one in found.checkpoints}


def test_the_documented_table_names_every_input() -> None:
    table = [line for line in (ROOT / "docs/ci.md").read_text().splitlines() if line.startswith("| `")]
    named = {name for line in table for name in re.findall(r"`([\w-]+)`", line.split("|")[1])}
    assert named == ACTION["inputs"].keys()
