"""VQAScore through a served model: the probability of answering Yes to "does this figure show the prompt?".

    VQAScore = P(first token = "Yes" | picture, question), softmax over the whole vocabulary

as t2v_metrics 3.1 computes it for Qwen3-VL (Lin et al., "Evaluating Text-to-Visual Generation with Image-to-Text
Generation", ECCV 2024): it is not renormalised over Yes and No, so `label_mass` says how much of the probability is on
any form of either. Values of two models cannot be compared, and none with the paper's CLIP-FlanT5.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from nbench.errors import InfrastructureError, ScorerError
from nbench.scoring.judge.client import JudgeClient, ServedModel
from nbench.scoring.judge.question import Answer, Picture, Question, Unanswered
from nbench.scoring.judge.session import JudgeSession
from nbench.scoring.judge.transport import Patience
from nbench.scoring.scorer import Metric, Score, ScorerCard

if TYPE_CHECKING:
    from PIL import Image

#: environment variable that holds the server's URL
URL_VARIABLE = "NBENCH_JUDGE_URL"
QUESTION = 'Does this figure show "{}"? Please answer Yes or No.'
YES = "Yes"
#: every form of either answer; those that are several tokens in the model's tokenizer do not count
LABELS = ("Yes", "No", "yes", "no", " Yes", " No", " yes", " no", "YES", "NO")
LEAST_MASS = 0.5  # below that, the model is not answering the question
UNSEEN = 1e-3  # a probability known to be below this counts as half of its bound
_BRIEF = Patience(connect_seconds=3, silence_seconds=10, deadline_seconds=15, attempts=2)  # for the card


@dataclass(frozen=True)
class VqaModel:
    """A model to ask.

    Attributes:
        scorer: name of the scorer.
        repo: hub id; what the server must serve.
        licence: of the weights.
    """

    scorer: str
    repo: str
    licence: str = "Apache-2.0 (weights)"


def find_served(served: Sequence[ServedModel], repo: str) -> ServedModel | None:
    """The entry that is the hub's `repo`: by its id, by where it was loaded from, or a local folder of its name."""
    for entry in served:
        if repo in (entry.id, entry.root) or (_is_folder(entry.root) and _last(entry.root) == _last(repo)):
            return entry
    return None


def _is_folder(root: str) -> bool:
    return root.startswith(("/", ".", "~")) or root.count("/") > 1


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


class VqaScore:
    """P(Yes) from the server at $NBENCH_JUDGE_URL.

    Args:
        model: what to ask.
        url: of the server; the environment's by default.
        patience: how long to try for each picture.
        least_mass: share of the probability that must be on some form of Yes or No.
    """

    def __init__(
        self,
        model: VqaModel,
        *,
        url: str | None = None,
        patience: Patience | None = None,
        least_mass: float = LEAST_MASS,
    ) -> None:
        self.model = model
        self._given_url = url
        self._patience = patience
        self._least_mass = least_mass

    @property
    def about(self) -> ScorerCard:
        """The card without what the server says; readable without one."""
        return ScorerCard(
            name=self.model.scorer,
            kind="reward",
            version="1",
            metrics=(
                Metric("p_yes", "higher", "probability over the whole vocabulary, 0 to 1"),
                Metric("label_mass", "none", "probability of any form of Yes or No, 0 to 1"),
            ),
            summary=f"Probability that {self.model.repo} answers Yes to: does this figure show the prompt?",
            uses_prompt=True,
            preprocessing=f"PNG at native size; the server's own image processor; {QUESTION!r}; first token, greedy. "
            f"Exact by token id with vLLM, else from the likeliest tokens, within {UNSEEN / 2:g}. No score where "
            f"less than {self._least_mass:g} of the probability is on Yes or No. The weights' identity is what the "
            "server calls its model, not a hash.",
            licence=f"{self.model.licence}, Apache-2.0 (code)",
            source="t2v_metrics 3.1 (Qwen3-VL); Lin et al., ECCV 2024, arXiv 2404.01291",
            heavy=True,
        )

    @cached_property
    def card(self) -> ScorerCard:
        """What the numbers are; asks the server what it serves.

        Raises:
            ScorerError: there is no URL, no server, or it serves another model.
        """
        try:
            session = JudgeSession(lambda: JudgeClient(self._url, patience=_BRIEF))
        except ScorerError as error:
            raise ScorerError(f"{self.model.scorer}: {error}") from error
        try:
            entry = self._entry(session.run(lambda client: client.served()))
        except InfrastructureError as error:
            raise ScorerError(f"{self.model.scorer}: {error}") from error
        finally:
            session.close()
        what = f"folder {_last(entry.root)}" if _is_folder(entry.root) else entry.root
        told = {"model (as the server says, no hash)": f"{what}, revision not told"}
        if entry.server:
            told["server"] = entry.server
        return replace(self.about, weights=told)

    @property
    def _url(self) -> str:
        url = os.environ.get(URL_VARIABLE, "") if self._given_url is None else self._given_url
        if not url:
            raise ScorerError(
                f"no server is named: serve {self.model.repo} (`vllm serve {self.model.repo}`) and set {URL_VARIABLE} "
                "to its URL."
            )
        return url

    def _entry(self, served: Sequence[ServedModel]) -> ServedModel:
        entry = find_served(served, self.model.repo)
        if entry is None:
            found = ", ".join(sorted({model.root for model in served})) or "nothing"
            raise ScorerError(
                f"{self.model.scorer} needs {self.model.repo}, and the server at {self._url} serves {found}: start "
                f"the right one, or use the scorer of that model."
            )
        return entry

    @cached_property
    def _session(self) -> JudgeSession:
        session = JudgeSession(lambda: JudgeClient(self._url, patience=self._patience))
        try:
            session.run(self._prepare)
        except BaseException:
            session.close()
            raise
        return session

    async def _prepare(self, client: JudgeClient) -> None:
        client.model = self._entry(await client.served()).id
        ids = await client.token_ids(LABELS)
        if ids is not None and ids[YES] is None:
            raise ScorerError(
                f"{YES!r} is not one token in the tokenizer of {self.model.repo}: P(Yes) is not defined for it."
            )

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        """One Score per picture.

        Raises:
            ScorerError: the server serves another model or wants another key.
            InfrastructureError: there is no server any more.
        """
        scores = [Score.failed("the prompt is empty")] * len(prompts)
        asked = [i for i, prompt in enumerate(prompts) if prompt.strip()]
        questions = [Question((Picture(images[i]),), QUESTION.format(prompts[i]), tokens=LABELS) for i in asked]
        if questions:
            answers = self._session.run(lambda client: client.ask_all(questions))
            for i, answer in zip(asked, answers, strict=True):
                scores[i] = self._judged(answer)
        return scores

    def _judged(self, answer: Answer | Unanswered) -> Score:
        if isinstance(answer, Unanswered):
            return Score.failed(f"{self.model.scorer}: {answer.reason}")
        mass = sum(answer.probabilities.values())
        if mass < self._least_mass:
            return Score.failed(
                f"only {mass:.3g} of the probability is on Yes or No: the judge began with {answer.text[:40]!r}"
            )
        p_yes = answer.probabilities.get(YES)
        if p_yes is None:
            if answer.missing > UNSEEN:
                return Score.failed(f"the server did not give the probability of Yes (at most {answer.missing:.3g})")
            p_yes = answer.missing / 2
        return Score(values={"p_yes": p_yes, "label_mass": min(1.0, mass)}, truncated=False)

    def close(self) -> None:
        """Close the connections."""
        session = self.__dict__.pop("_session", None)
        if session is not None:
            session.close()


MODELS: Mapping[str, VqaModel] = {
    model.scorer: model
    for model in (
        VqaModel("vqascore-qwen3vl-8b", "Qwen/Qwen3-VL-8B-Instruct"),
        VqaModel("vqascore-qwen3vl-30b-a3b", "Qwen/Qwen3-VL-30B-A3B-Instruct"),
        VqaModel("vqascore-qwen3vl-32b", "Qwen/Qwen3-VL-32B-Instruct"),
    )
}


def create_qwen3vl_8b(device: str) -> VqaScore:
    """Entry point of `vqascore-qwen3vl-8b`; the server has its own device."""
    return VqaScore(MODELS["vqascore-qwen3vl-8b"])


def create_qwen3vl_30b_a3b(device: str) -> VqaScore:
    """Entry point of `vqascore-qwen3vl-30b-a3b`; the server has its own device."""
    return VqaScore(MODELS["vqascore-qwen3vl-30b-a3b"])


def create_qwen3vl_32b(device: str) -> VqaScore:
    """Entry point of `vqascore-qwen3vl-32b`; the server has its own device."""
    return VqaScore(MODELS["vqascore-qwen3vl-32b"])
