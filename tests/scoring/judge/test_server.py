"""A started server: found, ready, failing in each known way, restarted once, and never left behind."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from judge_fakes import gone, lives, make_spec, use_fake_vllm

from nbench.errors import InfrastructureError, ScorerError
from nbench.scoring.judge import environment
from nbench.scoring.judge.environment import PYTHON_VARIABLE, find_vllm, require_vllm
from nbench.scoring.judge.server import VllmServer, check_flags, reserve_port, serve_command
from nbench.scoring.judge.spec import JudgeSpec

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def _alone(judge_alone: None) -> None:
    """No server, cache or setting of anybody else's."""


def server_of(spec: JudgeSpec, **arguments: object) -> VllmServer:
    command = serve_command(spec, Path(spec.model), require_vllm("a test"))
    return VllmServer(command, **arguments)  # type: ignore[arg-type]


def test_vllm_is_found_in_the_named_environment_with_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake_vllm(monkeypatch, tmp_path)
    found = find_vllm()
    assert found is not None
    assert (found.version, found.cpu, found.own) == ("0.0.1", False, True)


def test_no_vllm_anywhere_says_the_three_ways_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_importable", lambda: False)
    assert find_vllm() is None
    with pytest.raises(ScorerError, match="there is none here") as caught:
        require_vllm("this")
    for way in ("nbench judge install", PYTHON_VARIABLE, "nbench[vllm]", "NBENCH_JUDGE_URL"):
        assert way in str(caught.value)


def test_a_named_python_that_is_none_or_has_no_vllm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, "/nowhere/python")
    with pytest.raises(ScorerError, match="is no program"):
        find_vllm()
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    monkeypatch.setattr(environment, "_probe", lambda python: None)
    with pytest.raises(ScorerError, match="has no vLLM"):
        find_vllm()


def test_it_starts_answers_and_is_gone_after_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, told = use_fake_vllm(monkeypatch, tmp_path, "time.sleep(0.5)"), []
    with server_of(spec, tell=told.append) as server:
        assert server.alive
        assert server.url.startswith("http://127.0.0.1:")
        (pid,) = lives(tmp_path)
    assert gone(pid)
    assert "fake vllm serving" in server.log.read_text()
    assert "ready after" in told[-1]


def test_progress_is_told_while_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbench.scoring.judge.server._TELL_EVERY", 0.2)
    spec, told = use_fake_vllm(monkeypatch, tmp_path, "print('loading weights', flush=True); time.sleep(1)"), []
    with server_of(spec, tell=told.append):
        assert any("starting" in text and "loading weights" in text for text in told)


def test_it_is_given_up_at_its_time_limit_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = use_fake_vllm(monkeypatch, tmp_path, "time.sleep(60)")
    with pytest.raises(InfrastructureError, match="did not answer within 1 s"):
        server_of(spec, limit=1).start()
    assert all(gone(pid) for pid in lives(tmp_path))


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("print('torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB'); sys.exit(1)", "memory did not"),
        ("print('OSError: no/such is not a valid model identifier'); sys.exit(1)", "cannot find the model"),
        ("sys.exit('api_server.py: error: unrecognized arguments: --what')", "does not know a flag"),
        ("print('something new went wrong'); sys.exit(3)", "ended with code 3"),
    ],
)
def test_a_server_that_ends_shows_its_last_lines_and_a_known_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, said: str
) -> None:
    spec = use_fake_vllm(monkeypatch, tmp_path, behaviour)
    with pytest.raises(InfrastructureError, match=said) as caught:
        server_of(spec).start()
    text = str(caught.value)
    assert "fake vllm starting" in text
    assert any(word in text for word in ("2 GiB", "no/such", "--what", "something new"))
    assert len(lives(tmp_path)) == 1


def test_a_port_that_another_takes_first_is_tried_anew_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = use_fake_vllm(monkeypatch, tmp_path, "sys.exit('OSError: [Errno 98] Address already in use')")
    with pytest.raises(InfrastructureError, match="port was taken"):
        server_of(spec).start()
    assert len(lives(tmp_path)) == 3


def test_a_given_port_that_is_taken_is_said_at_once() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InfrastructureError, match=f"port {port} of 127.0.0.1 is taken"):
            reserve_port(port)
    assert reserve_port(port) == port


def test_flags_that_nbench_sets_are_refused_in_a_spec() -> None:
    with pytest.raises(ScorerError, match="--port in `serve`"):
        check_flags(make_spec(serve=["--port=1"]))
