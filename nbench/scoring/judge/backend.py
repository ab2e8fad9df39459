"""How a judge is reached: the server that the user names, one that nbench starts, or in this process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, get_args

from nbench.errors import ScorerError, did_you_mean
from nbench.scoring.judge.answers import AnswerJournal
from nbench.scoring.judge.environment import find_vllm, require_vllm
from nbench.scoring.judge.question import Answer, Question, Unanswered
from nbench.scoring.judge.server import Tell
from nbench.scoring.judge.spec import JudgeSpec
from nbench.scoring.rewards.vqascore import URL_VARIABLE

Choice = Literal["auto", "url", "vllm", "transformers"]
#: environment variable: which of `Choice`
BACKEND_VARIABLE = "NBENCH_JUDGE_BACKEND"


class JudgeBackend(Protocol):
    """What a judge's questions are put to."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What answers: the model's files and the means; starts and loads nothing."""

    def prepare(self) -> None:
        """Start, load, connect and check, so that the first answer is as quick as the others."""

    def ask(self, questions: Sequence[Question]) -> list[Answer | Unanswered]:
        """One answer per question, in order."""

    def close(self) -> None:
        """Let go of model and connections."""


def open_judge(
    spec: JudgeSpec,
    device: str = "cpu",
    *,
    url: str | None = None,
    choice: str | None = None,
    journal: AnswerJournal | None = None,
    tell: Tell = lambda text: None,
) -> JudgeBackend:
    """The backend of a judge; nothing is started or loaded before the first question.

    Args:
        spec: of the judge.
        device: torch device string, for a model in this process.
        url: of a server; None takes that of NBENCH_JUDGE_URL.
        choice: "url", "vllm", "transformers", or "auto", the first of these that there is; None takes that of
            NBENCH_JUDGE_BACKEND, else "auto".
        journal: keeps a server's answers over crashes.
        tell: hears of a server's start.

    Raises:
        ScorerError: the choice is unknown, or what it needs is not here.
    """
    from nbench.scoring.judge.in_process import InProcessJudge
    from nbench.scoring.judge.served import ServedJudge, StartedJudge

    wanted = choice or os.environ.get(BACKEND_VARIABLE) or "auto"
    if wanted not in get_args(Choice):
        raise ScorerError(f"unknown judge backend {wanted!r}.{did_you_mean(wanted, get_args(Choice))}")
    address = os.environ.get(URL_VARIABLE, "") if url is None else url
    if wanted == "url" and not address:
        raise ScorerError(f"the judge backend is url, and no server is named: set {URL_VARIABLE}.")
    if wanted == "url" or (wanted == "auto" and address):
        return ServedJudge(spec, address, journal=journal)
    if wanted == "vllm":
        return StartedJudge(spec, require_vllm(f"judge {spec.name!r}"), journal=journal, tell=tell)
    vllm = find_vllm() if wanted == "auto" else None
    if vllm is not None:
        return StartedJudge(spec, vllm, journal=journal, tell=tell)
    return InProcessJudge(spec, device)
