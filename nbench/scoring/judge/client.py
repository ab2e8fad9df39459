"""The client of a judge: questions to any OpenAI-compatible server, many at once, each until answered or given up.

Each question ends as an `Answer` or as `Unanswered` with the reason; a number is never made up. What concerns every
question (no server, another key, another model) is an error instead, so that a run stops and can be resumed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from nbench.errors import InfrastructureError, NbenchError, ScorerError
from nbench.scoring.judge.address import Address
from nbench.scoring.judge.concurrency import AdaptiveLimit
from nbench.scoring.judge.question import Answer, MalformedReplyError, Question, Unanswered, read_reply, request_json
from nbench.scoring.judge.transport import GaveUpError, Patience, Transport

Heard = Callable[[int, "Answer | Unanswered"], None]


@dataclass(frozen=True)
class ServedModel:
    """What a server says it serves.

    Attributes:
        id: what requests name.
        root: where it was loaded from, as far as the server tells; else its id.
        server: name and version of the server's software, as far as it tells; else "".
    """

    id: str
    root: str
    server: str


class JudgeClient:
    """Asks one model of one server. An asynchronous context manager, for one event loop.

    Args:
        url: of the server, with or without /v1.
        model: id to ask for, as the server names it.
        key: API key; the environment's (NBENCH_JUDGE_API_KEY) by default.
        patience: how long to try.
        start: requests under way at once, at first.
        most: requests under way at once, at most.

    Attributes:
        address: of the server.
        model: as given; may be set once `served` has told.
        limit: how many requests may be under way.

    Raises:
        ScorerError: the URL is none, or httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str = "",
        *,
        key: str | None = None,
        patience: Patience | None = None,
        start: int = 8,
        most: int = 64,
    ) -> None:
        self.address = Address.parse(url)
        self.model = model
        self.limit = AdaptiveLimit(start, most)
        self._transport = Transport(self.address, key=key, patience=patience or Patience(), limit=self.limit, most=most)
        self._token_ids: dict[str, int | None] = {}
        self._tokenizes: bool | None = None  # not known yet
        self._asking_tokens = asyncio.Lock()

    async def __aenter__(self) -> JudgeClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def served(self) -> list[ServedModel]:
        """What the server serves (GET /v1/models, and /version of vLLM).

        Raises:
            InfrastructureError: no server answers.
            ScorerError: it wants another key, or does not speak this API.
        """
        try:
            reply, _ = await self._transport.send("GET", "/v1/models")
        except GaveUpError as error:
            raise self._gone(error) from None
        if reply.status_code != 200:
            said = self._transport.said(reply)
            raise ScorerError(f"{self.address} is no OpenAI-compatible server: /v1/models gave {said}.")
        try:
            listed = [(str(entry["id"]), entry.get("root"), entry.get("owned_by")) for entry in reply.json()["data"]]
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ScorerError(f"{self.address} is no OpenAI-compatible server: /v1/models lists no models.") from None
        version = await self._version() if any(owner == "vllm" for _, _, owner in listed) else ""
        return [ServedModel(name, str(root or name), version or str(owner or "")) for name, root, owner in listed]

    async def _version(self) -> str:
        try:
            reply, _ = await self._transport.send("GET", "/version")
            return f"vllm {reply.json()['version']}" if reply.status_code == 200 else "vllm"
        except (GaveUpError, ValueError, LookupError, TypeError):
            return "vllm"

    async def token_ids(self, words: Sequence[str]) -> dict[str, int | None] | None:
        """The id of each word that is one token of the model, None for one that is several (POST /tokenize of vLLM).

        Returns:
            None where the server does not tokenize: it then gives its likeliest tokens only, by their text.

        Raises:
            InfrastructureError: no server answers.
        """
        async with self._asking_tokens:
            for word in words:
                if self._tokenizes is not False and word not in self._token_ids:
                    tokens = await self._tokens(word)
                    self._tokenizes = tokens is not None
                    self._token_ids[word] = tokens[0] if tokens is not None and len(tokens) == 1 else None
        return {word: self._token_ids[word] for word in words} if self._tokenizes else None

    async def _tokens(self, word: str) -> list[int] | None:
        body = json.dumps({"model": self.model, "prompt": word, "add_special_tokens": False}).encode()
        try:
            reply, _ = await self._transport.send("POST", "/tokenize", body)
            return [int(token) for token in reply.json()["tokens"]] if reply.status_code == 200 else None
        except GaveUpError as error:
            raise self._gone(error) from None
        except (ValueError, LookupError, TypeError):
            return None

    async def ask(self, question: Question) -> Answer | Unanswered:
        """Ask one question, when there is a slot for it.

        Raises:
            ScorerError: the server wants another key or does not know the model.
            InfrastructureError: there is no server.
        """
        seen_in = await self.limit.acquire()
        try:
            return await self._ask(question, seen_in)
        finally:
            self.limit.release()

    async def ask_all(self, questions: Sequence[Question], heard: Heard | None = None) -> list[Answer | Unanswered]:
        """Ask all, begun in their order, as many at once as the server bears.

        Args:
            questions: those about one picture should be neighbours.
            heard: called with index and answer as each comes, for a journal.

        Returns:
            One per question, in their order.

        Raises:
            ScorerError: the server wants another key or does not know the model; the others are dropped.
            InfrastructureError: there is no server; the others are dropped.
        """
        answers: dict[int, Answer | Unanswered] = {}

        async def one(index: int, question: Question, seen_in: int) -> None:
            answers[index] = answer = await self._ask(question, seen_in)
            if heard is not None:
                heard(index, answer)

        try:
            async with asyncio.TaskGroup() as group:
                for index, question in enumerate(questions):
                    seen_in = await self.limit.acquire()
                    task = group.create_task(one(index, question, seen_in))
                    task.add_done_callback(lambda _: self.limit.release())  # also for one cancelled before it began
        except BaseExceptionGroup as errors:
            known = errors.subgroup(NbenchError)
            raise (errors if known is None else known).exceptions[0] from None
        return [answers[index] for index in range(len(questions))]

    async def _ask(self, question: Question, seen_in: int) -> Answer | Unanswered:
        known = await self.token_ids(question.tokens) if question.tokens else None
        ids = None if known is None else {word: token for word, token in known.items() if token is not None}
        body = await asyncio.to_thread(lambda: json.dumps(request_json(question, self.model, ids)).encode())
        began = time.monotonic()
        try:
            reply, attempts = await self._transport.send("POST", "/v1/chat/completions", body, seen_in)
        except GaveUpError as error:
            if error.unreachable:
                raise self._gone(error) from None
            return Unanswered(error.reason, error.attempts)
        if reply.status_code == 404:
            said = self._transport.said(reply)
            raise ScorerError(f"{self.address} does not serve the model {self.model!r} ({said}).")
        if reply.status_code != 200:
            return Unanswered(f"the server gave {self._transport.said(reply)}", attempts)
        try:
            answer = read_reply(reply.content, question, ids)
        except MalformedReplyError as error:
            return Unanswered(self._transport.clean(str(error)), attempts)
        return replace(answer, attempts=attempts, seconds=time.monotonic() - began)

    def _gone(self, error: GaveUpError) -> InfrastructureError:
        return InfrastructureError(
            f"no judge answers at {self.address} ({error.reason}): start the server, or give another URL, and resume."
        )
