"""Judges are tested alone: with a cache of their own, and without the settings of whoever runs the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nbench.scoring.judge.environment import PYTHON_VARIABLE
from nbench.scoring.judge.served import stop_servers


@pytest.fixture
def judge_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NBENCH_CACHE", str(tmp_path / "cache"))
    for name in (PYTHON_VARIABLE, "NBENCH_JUDGE_URL", "NBENCH_JUDGE_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    yield
    stop_servers()
