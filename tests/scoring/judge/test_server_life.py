"""The server of judges: one for all of a model, started once more when it dies, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from judge_fakes import ROOT, gone, lives, use_fake_vllm
from PIL import Image

from nbench.scoring.judge.environment import require_vllm
from nbench.scoring.judge.scorer import JudgeScorer
from nbench.scoring.judge.served import StartedJudge, stop_servers

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def _alone(judge_alone: None) -> None:
    """No server, cache or setting of anybody else's."""


def test_a_judge_starts_its_server_once_for_all_and_agrees_with_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = use_fake_vllm(monkeypatch, tmp_path).model_copy(update={"scale": {"Yes": 1.0, "No": 0.0}})
    picture = Image.new("RGB", (8, 8), (255, 255, 255))
    first, second = JudgeScorer(spec), JudgeScorer(spec.model_copy(update={"rubric": "Again."}))
    for scorer in (first, second):
        (score,) = scorer.score([picture], [""])
        assert score.values is not None
        assert score.values["rating"] == pytest.approx(0.9 / 0.95)
        scorer.close()
    assert len(lives(tmp_path)) == 1
    assert "vllm 0.0.1" in first.card.weights["backend"]
    stop_servers()
    assert gone(lives(tmp_path)[0])


def test_a_dead_server_is_started_once_more_and_nothing_is_asked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DIES_AFTER", "20")
    monkeypatch.setenv("FAKE_DELAY", "0.01")
    spec = use_fake_vllm(monkeypatch, tmp_path).model_copy(update={"scale": {"Yes": 1.0, "No": 0.0}})
    told: list[str] = []
    judge = StartedJudge(spec, require_vllm("a test"), tell=told.append)
    scorer = JudgeScorer(spec, opener=lambda spec, journal: judge, keep_answers=False)
    _ = scorer.card
    pictures = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in range(60)]
    scores = scorer.score(pictures, [""] * 60)
    assert all(score.ok for score in scores)
    assert len({score.values["rating"] for score in scores if score.values}) == 60
    assert (judge.restarts, len(lives(tmp_path))) == (1, 2)
    assert any("died and is started again" in text for text in told)
    scorer.close()


_PARENT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from nbench.scoring.judge.environment import require_vllm
from nbench.scoring.judge.server import VllmServer, serve_command
from judge_fakes import make_spec
spec = make_spec(model={model!r})
VllmServer(serve_command(spec, Path(spec.model), require_vllm("x"))).start()
print("up", flush=True)
input()
"""


@pytest.mark.parametrize(
    "ending",
    ["kill -9", pytest.param("Ctrl-C", marks=pytest.mark.slow), pytest.param("crash", marks=pytest.mark.slow)],
)
def test_however_the_parent_ends_the_server_ends_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    spec = use_fake_vllm(monkeypatch, tmp_path)
    code = _PARENT.format(root=str(ROOT), tests=str(ROOT / "tests"), model=spec.model)
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        (pid,) = lives(tmp_path)
        os.kill(pid, 0)  # it lives
        if ending == "kill -9":
            parent.kill()
        elif ending == "Ctrl-C":
            parent.send_signal(signal.SIGINT)
        else:
            parent.stdin.close()  # type: ignore[union-attr]  # input() raises EOFError
        parent.wait(20)
        assert gone(pid, 20)
    finally:
        parent.kill()
        parent.wait()
