"""Stand-ins for judges: a backend with a mind, a `vllm` that starts quickly or fails in a known way, a tiny model."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

import nbench
from nbench.scoring.judge.environment import PYTHON_VARIABLE
from nbench.scoring.judge.question import Answer, Question, Unanswered
from nbench.scoring.judge.spec import JudgeSpec

ROOT = Path(nbench.__file__).parent.parent
Mind = Callable[[Sequence[Image.Image], str], Mapping[str, float]]


def make_spec(**changes: object) -> JudgeSpec:
    """A judge of mode pointwise for the fake server's one-token words."""
    plain: dict[str, object] = {
        "name": "fake",
        "model": "fake-judge",
        "mode": "pointwise",
        "rubric": "Rate it.",
        "scale": {"1": 1, "2": 2, "3": 3, "4": 4, "5": 5},
    }
    return JudgeSpec.model_validate(plain | changes)


@dataclass
class MindBackend:
    """Answers by a function of pictures and text; counts what it is asked."""

    mind: Mind
    identity: Mapping[str, str] = field(default_factory=lambda: {"model": "mind", "backend": "a function"})
    asked: list[Question] = field(default_factory=list)
    prepared: int = 0
    closed: int = 0

    def prepare(self) -> None:
        self.prepared += 1

    def ask(self, questions: Sequence[Question]) -> list[Answer | Unanswered]:
        self.asked += questions
        return [
            Answer("?", self.mind([picture.image for picture in question.pictures], question.text))
            for question in questions
        ]

    def close(self) -> None:
        self.closed += 1


_SERVER = """
import argparse, os, pathlib, sys, time
parser = argparse.ArgumentParser()
for name in ("--model", "--served-model-name", "--host", "--dtype", "--generation-config", "--limit-mm-per-prompt"):
    parser.add_argument(name)
parser.add_argument("--port", type=int)
parser.add_argument("--max-model-len")
parser.add_argument("--max-num-seqs")
parser.add_argument("--enable-prefix-caching", action="store_true")
parser.add_argument("--enforce-eager", action="store_true")
args = parser.parse_args()
print("fake vllm starting", args.model, flush=True)
lives = pathlib.Path(os.environ["FAKE_VLLM"], "lives")
with lives.open("a") as file:
    file.write(f"{os.getpid()}\\n")
"""

_SERVING = """
sys.path.insert(0, os.environ["FAKE_NBENCH"])
from nbench.testing.judge_server import JudgeServer
server = JudgeServer(model=args.served_model_name, root=args.model, delay=float(os.environ.get("FAKE_DELAY", 0)))
server._port = args.port
server.start()
print("fake vllm serving", flush=True)
last = int(os.environ.get("FAKE_DIES_AFTER", 0))
while True:
    time.sleep(0.02)
    if last and len(server.asked) >= last and len(lives.read_text().split()) == 1:
        os._exit(9)
"""


def fake_vllm(folder: Path, behaviour: str = "") -> Path:
    """A "python" whose vllm serves the fake judge after `behaviour` (Python code, which may end it); gives its path.

    The file "lives" in `folder` holds the process id of every server that was started.
    """
    package = folder / "packages"
    entry = package / "vllm" / "entrypoints" / "openai"
    entry.mkdir(parents=True)
    for place in (package / "vllm", package / "vllm" / "entrypoints", entry):
        (place / "__init__.py").write_text("")
    (entry / "api_server.py").write_text(_SERVER + textwrap.dedent(behaviour) + _SERVING)
    facts = package / "vllm-0.0.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.0.1\n")
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\nFAKE_NBENCH="{ROOT}" FAKE_VLLM="{folder}" PYTHONPATH="{package}" exec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    return python


def model_folder(folder: Path) -> Path:
    """A folder that looks like a model, for servers that do not read it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\0" * 16)
    return folder


def use_fake_vllm(monkeypatch: pytest.MonkeyPatch, folder: Path, behaviour: str = "") -> JudgeSpec:
    """Let NBENCH_VLLM_PYTHON name a fake; gives a spec whose model it serves."""
    monkeypatch.setenv(PYTHON_VARIABLE, str(fake_vllm(folder / "vllm", behaviour)))
    return make_spec(model=str(model_folder(folder / "the-model")))


def lives(folder: Path) -> list[int]:
    """Process ids of the servers that a fake of `use_fake_vllm` started."""
    file = folder / "vllm" / "lives"
    return [int(line) for line in file.read_text().split()] if file.is_file() else []


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process ends within some seconds; one that is dead and not yet waited for has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False
