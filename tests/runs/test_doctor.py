"""Doctor's checks: verdicts from memory and weights, and failures that stay checks."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from nbench.cli import cli
from nbench.runs import doctor
from nbench.runs.doctor import NEEDS, POCKET_WEIGHTS, TESTED, Check, Machine, can_run, run_checks

POCKET, SD3, FLUX = NEEDS
ALL_WEIGHTS = dict.fromkeys(POCKET_WEIGHTS, 5.0)


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Check]:
    return {check.name: check for check in run_checks(tmp_path_factory.mktemp("store"))}


def test_all_subjects_are_covered(checks: dict[str, Check]) -> None:
    subjects = {"python", "torchvision ops", "devices", "memory", "threads", "store", "hub", "pocket weights"}
    assert set(checks) == {*subjects, *TESTED, "run pocket", "run SD3.5-Medium", "run FLUX.1-dev"}


def test_this_environment_passes_the_installation_checks(checks: dict[str, Check]) -> None:
    failed = [name for name in (*TESTED, "torchvision ops", "devices", "store") if checks[name].status == "fail"]
    assert failed == []


def test_failures_and_notes_say_what_to_do(checks: dict[str, Check]) -> None:
    assert all(check.advice for check in checks.values() if check.status == "fail")


@pytest.mark.parametrize(
    ("need", "gpu", "ram", "status"),
    [
        (POCKET, None, 4, "ok"),
        (POCKET, None, 1, "fail"),
        (SD3, None, 64, "note"),
        (SD3, 12, 64, "note"),
        (SD3, 24, 64, "ok"),
        (SD3, 24, 8, "note"),
        (FLUX, 24, 64, "note"),
        (FLUX, 80, 128, "ok"),
    ],
)
def test_verdict_follows_the_memory(need: doctor.ModelNeed, gpu: float | None, ram: float, status: str) -> None:
    machine = Machine(ram=ram, accelerators={} if gpu is None else {"cuda:0 X": gpu})
    check = can_run(need, machine, ALL_WEIGHTS)
    assert check.status == status
    assert check.found.startswith("yes" if status == "ok" else "no")


def test_estimates_are_called_estimates() -> None:
    for need in (SD3, FLUX):
        assert "an estimated" in can_run(need, Machine(8, {}), {}).found


def test_missing_pocket_weights_are_named() -> None:
    weights = {name: size for name, size in ALL_WEIGHTS.items() if name != "pocket-flux"}
    check = can_run(POCKET, Machine(16, {}), weights)
    assert check.status == "fail" and "pocket-flux missing" in check.found


def test_other_version_is_a_note_and_a_missing_package_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"torch": "2.13.0+cu130", "diffusers": "0.41.0"}.get(name, TESTED[name])

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {check.name: check for check in doctor._versions()}
    assert found["torch"].status == "ok"
    assert found["diffusers"].status == "note" and "Tested with 0.42.1" in found["diffusers"].advice
    assert found["peft"].status == "fail" and "pip install" in found["peft"].advice


def test_broken_torch_is_a_failed_check_not_an_exception(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in ("torch", "torchvision", "torchvision.extension"):
        monkeypatch.setitem(sys.modules, module, None)
    found = {check.name: check for check in run_checks(tmp_path)}
    assert found["devices"].status == "fail" and found["torchvision ops"].status == "fail"


def test_store_that_cannot_be_written_fails(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert doctor._store(file).status == "fail"
    assert doctor._store(tmp_path / "new" / "deep").status != "fail"


def test_offline_switches_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    assert "offline (HF_HUB_OFFLINE set)" in doctor._hub().found
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert doctor._hub().status == "ok"


def test_more_threads_than_cores_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert doctor._threads().status == "note"


def test_command_prints_every_check_and_exits_by_the_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    for status, code in (("ok", 0), ("note", 0), ("fail", 4)):
        listed = [Check("memory", "ok", "8 GiB"), Check("store", status, "[x] free", "Do this.")]  # type: ignore[arg-type]
        monkeypatch.setattr(doctor, "run_checks", lambda store, listed=listed: listed)
        result = CliRunner().invoke(cli, ["doctor"])
        assert result.exit_code == code
        assert "8 GiB" in result.stdout and "[x] free" in result.stdout and "Do this." in result.stdout
        result = CliRunner().invoke(cli, ["doctor", "--json"])
        assert [row["status"] for row in json.loads(result.stdout)] == ["ok", status]
