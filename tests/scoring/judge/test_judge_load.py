"""2,000 questions through faults, a slow start, a crash of the server and kill -9 of the client."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from judge_fakes import ROOT

QUESTIONS = 2000


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_every_answer_that_could_be_had_is_had_once_and_none_is_lost_or_invented() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "judge.py"), "--only", "load", "--json"]
    done = subprocess.run(
        [*command, "--questions", str(QUESTIONS)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    found = json.loads(done.stdout)["load"]
    assert found["questions"] == QUESTIONS
    assert QUESTIONS // 3 <= found["kept over kill -9"] < 2 * QUESTIONS // 3
    assert (found["answers lost"], found["answers invented"]) == (0, 0)
    # what was under way at the kill is all that may have been answered a second time
    assert found["answers had twice"] <= found["most at once"]
    assert found["requests"] > QUESTIONS
    # a malformed reply is final: asking again would not change it
    assert found["answered"] + sum(found["reasons"].values()) == QUESTIONS
    assert all("no chat completion" in reason for reason in found["reasons"])
    assert found["coverage"] > 0.97
