"""A judge behind a server: one that the user named, or one that nbench starts, for all judges of the same model."""

from __future__ import annotations

import atexit
from collections.abc import Mapping, Sequence
from functools import cached_property

from nbench.errors import InfrastructureError, ScorerError
from nbench.scoring.judge.answers import AnswerJournal, question_key
from nbench.scoring.judge.client import JudgeClient, ServedModel
from nbench.scoring.judge.environment import VllmEnvironment
from nbench.scoring.judge.in_process import check_labels
from nbench.scoring.judge.model_files import find_model, model_digests
from nbench.scoring.judge.question import Answer, Picture, Question, Unanswered
from nbench.scoring.judge.server import Command, Tell, VllmServer, check_flags, serve_command
from nbench.scoring.judge.session import JudgeSession
from nbench.scoring.judge.spec import JudgeSpec
from nbench.scoring.judge.transport import Patience
from nbench.scoring.rewards.vqascore import find_served

_BRIEF = Patience(connect_seconds=3, silence_seconds=10, deadline_seconds=15, attempts=2)  # for the identity
_NO_WORD = "qzxjvkqzx"


class ServedJudge:
    """A judge at the URL of a server that somebody else started.

    Args:
        spec: of the judge.
        url: of the server.
        patience: how long to try for each question.
        journal: keeps answers over crashes; None for none.
        most: questions under way at once, at most.
    """

    def __init__(
        self,
        spec: JudgeSpec,
        url: str,
        *,
        patience: Patience | None = None,
        journal: AnswerJournal | None = None,
        most: int = 64,
    ) -> None:
        self.spec = spec
        self.url = url
        self.journal = journal
        self._patience = patience
        self._most = most

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """What the server says it serves; asks it.

        Raises:
            ScorerError: it is none, or serves another model.
            InfrastructureError: there is no server.
        """
        session = JudgeSession(lambda: JudgeClient(self.url, patience=_BRIEF))
        try:
            entry = self._entry(session.run(lambda client: client.served()))
        finally:
            session.close()
        told = {"model (as the server says, no hash)": entry.root.rstrip("/").rsplit("/", 1)[-1]}
        return {**told, "backend": entry.server or "OpenAI-compatible server"}

    def _entry(self, served: Sequence[ServedModel]) -> ServedModel:
        entry = find_served(served, self.spec.model)
        if entry is None:
            found = ", ".join(sorted({model.root for model in served})) or "nothing"
            raise ScorerError(
                f"judge {self.spec.name!r} needs {self.spec.model}, and the server at {self.url} serves {found}: give "
                "the URL of the right one, or take a judge of that model."
            )
        return entry

    @cached_property
    def _session(self) -> JudgeSession:
        most = self._most
        session = JudgeSession(lambda: JudgeClient(self.url, patience=self._patience, start=min(8, most), most=most))
        try:
            session.run(self._check)
        except BaseException:
            session.close()
            raise
        return session

    async def _check(self, client: JudgeClient) -> None:
        """See that the server serves the model, knows the labels as tokens, and gives logprobs."""
        from PIL import Image

        client.model = self._entry(await client.served()).id
        ids = await client.token_ids((*self.spec.labels, _NO_WORD))
        if ids is not None:
            unknown = ids[_NO_WORD]  # a tokenizer of words may have one token for all that it does not know
            known = {label: None if ids[label] == unknown else ids[label] for label in self.spec.labels}
            check_labels(self.spec, known)
        picture = Picture(Image.new("RGB", (64, 64), (128, 128, 128)))
        probe = await client.ask(Question((picture,), "?", tokens=self.spec.labels, template=self._template))
        if isinstance(probe, Unanswered) and "no logprobs" in probe.reason:
            raise ScorerError(
                f"judge {self.spec.name!r}: the server at {client.address} gives no logprobs, from which scores are "
                "read: serve the model with vLLM, or with a server that knows logprobs and top_logprobs."
            )

    @property
    def _template(self) -> Mapping[str, object]:
        return self.spec.chat_template_kwargs

    def prepare(self) -> None:
        """Connect and check the server; does nothing the second time.

        Raises:
            ScorerError: it serves another model, a label is not one token of it, or it gives no logprobs.
            InfrastructureError: there is no server.
        """
        _ = self._session

    def ask(self, questions: Sequence[Question]) -> list[Answer | Unanswered]:
        """One answer per question, in order; what the journal holds is not asked again.

        Raises:
            ScorerError: the server wants another key, or serves another model.
            InfrastructureError: there is no server any more. What was answered is in the journal.
        """
        answers: dict[int, Answer | Unanswered] = {}
        keys: dict[int, str] = {}
        if self.journal is not None:
            keys = {i: question_key(question, self.spec.model) for i, question in enumerate(questions)}
            answers = {i: known for i, key in keys.items() if (known := self.journal.get(key)) is not None}
        self._ask_missing(questions, answers, keys)
        return [answers[i] for i in range(len(questions))]

    def _ask_missing(
        self, questions: Sequence[Question], answers: dict[int, Answer | Unanswered], keys: Mapping[int, str]
    ) -> None:
        left = [i for i in range(len(questions)) if i not in answers]
        if not left:
            return

        def hear(place: int, answer: Answer | Unanswered) -> None:
            if self.journal is not None and isinstance(answer, Answer):
                self.journal.add(keys[left[place]], answer)
            answers[left[place]] = answer

        self._session.run(lambda client: client.ask_all([questions[i] for i in left], hear))

    def close(self) -> None:
        """Close the connections and the journal's file."""
        session = self.__dict__.pop("_session", None)
        if session is not None:
            session.close()
        if self.journal is not None:
            self.journal.close()


class StartedJudge(ServedJudge):
    """A judge whose server nbench starts, at the first question, and starts once more if it dies.

    Args:
        spec: of the judge.
        vllm: where vLLM is.
        patience: how long to try for each question.
        journal: keeps answers over crashes; None for none.
        limit: seconds until the server must answer.
        tell: hears of the start.

    Attributes:
        restarts: how often the server was started again.
    """

    def __init__(
        self,
        spec: JudgeSpec,
        vllm: VllmEnvironment,
        *,
        patience: Patience | None = None,
        journal: AnswerJournal | None = None,
        limit: float | None = None,
        tell: Tell = lambda text: None,
    ) -> None:
        super().__init__(spec, "", patience=patience or Patience(attempts=4), journal=journal)
        self.vllm = vllm
        self.restarts = 0
        self._limit = limit
        self._tell = tell
        check_flags(spec)

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """Digests of the model's files, and vLLM's version; starts nothing."""
        means = f"vllm {self.vllm.version}, {'cpu' if self.vllm.cpu else 'gpu'}"
        return {**model_digests(find_model(self.spec)), "backend": means}

    @property
    def _command(self) -> Command:
        return serve_command(self.spec, find_model(self.spec), self.vllm)

    def prepare(self) -> None:
        """Start the server, unless one of the same command runs, and check it."""
        server = running_server(self._command, limit=self._limit, tell=self._tell)
        if self.url != server.url:
            self._disconnect()
            self.url = server.url
        super().prepare()

    def _ask_missing(
        self, questions: Sequence[Question], answers: dict[int, Answer | Unanswered], keys: Mapping[int, str]
    ) -> None:
        self.prepare()
        server = running_server(self._command)
        try:
            super()._ask_missing(questions, answers, keys)
            gone = None if server.alive else InfrastructureError("the judge's server ended while it was asked.")
        except InfrastructureError as error:
            if server.alive:
                raise
            gone = error
        if gone is None:
            return
        for place in [i for i, answer in answers.items() if isinstance(answer, Unanswered)]:
            del answers[place]  # the server's death may be why
        if self.restarts:
            raise InfrastructureError(
                f"the judge's server died twice ({gone}): see its log {server.log}; what is scored is kept."
            )
        self.restarts += 1
        self._tell(f"The judge's server died and is started again; the log of its first life is {_kept_log(server)}.")
        self._ask_missing(questions, answers, keys)

    def close(self) -> None:
        """Close the connections. The server stays for other judges of the model, until `stop_servers` or the end."""
        super().close()

    def _disconnect(self) -> None:
        session = self.__dict__.pop("_session", None)
        if session is not None:
            session.close()


_running: dict[str, VllmServer] = {}  # at most one, under "server"


def running_server(command: Command, *, limit: float | None = None, tell: Tell = lambda text: None) -> VllmServer:
    """The one server of this process, for this command; one of another command is stopped first.

    Raises:
        InfrastructureError: it does not start.
    """
    server = _running.get("server")
    if server is not None:
        if server.command == command and server.alive:
            return server
        stop_servers()
    started = VllmServer(command, tell=tell) if limit is None else VllmServer(command, tell=tell, limit=limit)
    started.start()
    _running["server"] = started
    return started


def stop_servers() -> None:
    """Stop the server of this process, if there is one."""
    server = _running.pop("server", None)
    if server is not None:
        server.stop()


def _kept_log(server: VllmServer) -> str:
    kept = server.log.with_suffix(".died.log")
    server.log.replace(kept)
    return str(kept)


atexit.register(stop_servers)
