"""A whole little study through its command: killed, moved to another place, finished there, and reported."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from study_parts import study_content

pytestmark = pytest.mark.slow


def _nbench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nbench", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def _alive(folder: Path) -> list[str]:
    """Commands that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def _killed_while_training(config: Path, out: Path) -> None:
    """Start a study, and kill -9 it once its second training has begun to log."""
    command = [sys.executable, "-m", "nbench", "study", str(config), "--out", str(out), "--stage", "train"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = out / "trainings" / "pocket-sd3-nft-aesthetic-normguard-s0" / "log.jsonl"
    until = time.monotonic() + 300
    while not (log.is_file() and log.stat().st_size) and time.monotonic() < until:
        assert process.poll() is None, "the study ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while _alive(out) and time.monotonic() < until:
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_study_that_was_killed_and_moved_is_finished_elsewhere_and_reports_every_claim(tmp_path: Path) -> None:
    config = tmp_path / "little.yaml"
    config.write_text(yaml.safe_dump(study_content()))
    first, second = tmp_path / "here", tmp_path / "there"
    _killed_while_training(config, first)
    assert _alive(first) == []  # nothing that the study started outlives it
    noted = [json.loads(line)["task"] for line in (first / "tasks.jsonl").read_text().splitlines()]
    assert noted == ["train-pocket-sd3-nft-aesthetic-unguarded-s0"]

    early = _nbench("study", config, "--out", first, "--stage", "report")
    assert early.returncode == 0, early.stderr
    claims = json.loads((first / "results" / "claims.json").read_text())
    assert {one["verdict"] for one in claims} == {"cannot tell"}
    assert all(one["missing"] for one in claims)

    shutil.move(first, second)
    done = _nbench("study", config, "--out", second)
    assert done.returncode == 0, done.stderr
    again = _nbench("study", config, "--out", second)
    assert "Tasks: 0 done, 6 done before, 0 failed, 0 waiting" in again.stdout

    claims = json.loads((second / "results" / "claims.json").read_text())
    assert [one["number"] for one in claims] == list(range(1, 12))
    measured = {one["number"]: one["effect"] for one in claims if one["effect"]}
    assert {1, 2, 3, 4, 5, 6, 7, 8} <= set(measured)
    assert "<html" in (second / "results" / "index.html").read_text()
    assert (second / "results" / "boards" / "pocket-sd3" / "index.html").is_file()
    assert (second / "results" / "tables" / "main.tex").is_file()

    # A pair begins alike: the first rollout is the base's, from the same prompts and noise.
    logs = [
        json.loads(
            (second / "trainings" / f"pocket-sd3-nft-aesthetic-{arm}-s0" / "log.jsonl").read_text().split("\n")[0]
        )
        for arm in ("unguarded", "normguard")
    ]
    assert logs[0]["reward"] == logs[1]["reward"]


def test_bad_studies_are_one_sentence_and_exit_3(tmp_path: Path) -> None:
    config = tmp_path / "little.yaml"
    wrong = study_content()
    wrong["arms"]["normguard"]["guards"][0]["wait"] = 1
    config.write_text(yaml.safe_dump(wrong))
    for arguments, said in (
        (("study",), "name a study"),
        (("study", "poket"), "Did you mean 'pocket'"),
        (("study", config), "'guards.0.wait'"),
        (("study", "smoke", "--only", "sd3*", "--dry-run"), "matches no training"),
    ):
        result = _nbench(*arguments)
        assert result.returncode == 3, result.stderr
        assert said in result.stderr
        assert "Traceback" not in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
