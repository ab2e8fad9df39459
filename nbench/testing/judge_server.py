"""An OpenAI-shaped judge server without a model: in this process, on loopback, deterministic, bad when told to be.

    with JudgeServer(faults=mixed({"429": 0.2, "hang": 0.01})) as server:
        client = JudgeClient(server.url, server.model)

It knows what the judge's client uses of vLLM's API: /health, /version, /v1/models, /tokenize and /v1/chat/completions
with PNG data URLs, logprobs by id or the top ones, and JSON answers.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image

from nbench.testing.judge_http import Listener

Fault = Literal["429", "500", "503", "400", "hang", "malformed", "truncated", "close", "refusal", "no logprobs"]
#: (chat body, how often this very body came before) -> what to do wrong, or None
Faults = Callable[[Mapping[str, Any], int], Fault | None]
#: (pictures, text of the user's turn) -> probabilities of the first token, or a whole text
Mind = Callable[[Sequence[Image.Image], str], Mapping[str, float] | str]

#: what the server's tokenizer knows as one token; everything else is one token per character
WORDS: Mapping[str, int] = {
    word: 100 + i
    for i, word in enumerate(
        ("Yes", "No", "yes", "no", " Yes", " No", " yes", " no", "1", "2", "3", "4", "5", "A", "B", "other")
    )
}


def brightness(pictures: Sequence[Image.Image], text: str) -> dict[str, float]:
    """The default mind: P(Yes) grows from 0.05 to 0.9 with the mean brightness of the pictures; 0.05 says neither."""
    mean = float(np.mean([np.asarray(picture, np.float64).mean() for picture in pictures] or [0.0])) / 255
    return {"Yes": 0.05 + 0.85 * mean, "No": 0.9 - 0.85 * mean, "other": 0.05}


def mixed(shares: Mapping[Fault, float], *, seed: int = 0, in_a_row: int = 3) -> Faults:
    """Faults that hit the given shares of attempts, chosen by hash of body and attempt; the same in every run.

    Args:
        shares: share of each fault, 0 to 1 together.
        seed: another seed chooses others.
        in_a_row: attempts of one body that may go wrong; later ones do not.
    """

    def choose(body: Mapping[str, Any], before: int) -> Fault | None:
        if before >= in_a_row:
            return None
        text = json.dumps([seed, before, body], sort_keys=True)
        draw = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12
        for fault, share in shares.items():
            if draw < share:
                return fault
            draw -= share
        return None

    return choose


def first(count: int, fault: Fault) -> Faults:
    """The fault at the first `count` attempts of each body."""
    return lambda body, before: fault if before < count else None


@dataclass
class JudgeServer:
    """The server; a context manager, or `start` and `stop`.

    Attributes:
        model: id that it serves.
        root: where it says the model was loaded from; its id by default.
        key: API key that it wants; "" for none.
        mind: what it answers.
        faults: what it does wrong, and when.
        vllm: whether it has vLLM's extras (/tokenize, /version, logprobs by id).
        top: how many top logprobs it gives at most.
        delay: seconds per answer.
        hang_seconds: how long a hanging request stays silent, before its connection ends.
        retry_after: seconds that a 429 asks to wait.
        told: message of the errors; says which it is by default.
        ready_after: seconds from the start during which everything gives 503.
        asked: chat bodies in the order they came.
        answered: bodies (as JSON) that got a sound answer, counted.
        most_at_once: most chat requests under way at once.
        connections: how many were opened.
    """

    model: str = "fake-judge"
    root: str = ""
    key: str = ""
    mind: Mind = brightness
    faults: Faults | None = None
    vllm: bool = True
    top: int = 20
    delay: float = 0.0
    hang_seconds: float = 30.0
    retry_after: float = 0.0
    told: str = ""
    ready_after: float = 0.0
    asked: list[dict[str, Any]] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    connections: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._before: Counter[str] = Counter()
        self._at_once = 0
        self._http: Listener | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where it listens; the port stays the same over `stop` and `start`."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> JudgeServer:
        """Listen, on a free port of loopback the first time."""
        self._http = Listener(self, self._port)
        self._port = self._http.server_address[1]
        self._began = time.monotonic()
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop at once: requests under way lose their connections, as in a crash."""
        if self._http is not None:
            self._http.gone.set()
            self._http.shutdown()
            self._http.server_close()
            self._http.cut()
            self._http = None

    def __enter__(self) -> JudgeServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # what the handler asks

    def ready(self) -> bool:
        """Whether `ready_after` is over."""
        return time.monotonic() - self._began >= self.ready_after

    def take(self, body: dict[str, Any]) -> Fault | None:
        """Note a chat request; gives its fault."""
        text = json.dumps(body, sort_keys=True)
        with self._lock:
            self.asked.append(body)
            before = self._before[text]
            self._before[text] += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        return self.faults(body, before) if self.faults is not None else None

    @staticmethod
    def tokenize(text: str) -> list[int]:
        """One token for each of `WORDS`, else one per character."""
        return [WORDS[text]] if text in WORDS else [1000 + ord(letter) for letter in text]

    def leave(self) -> None:
        """Note that a chat request is over."""
        with self._lock:
            self._at_once -= 1

    def note_answered(self, body: Mapping[str, Any]) -> None:
        """Note that a body got a sound answer."""
        with self._lock:
            self.answered[json.dumps(body, sort_keys=True)] += 1

    def reply(self, body: Mapping[str, Any], *, logprobs: bool = True) -> dict[str, Any]:
        """The chat completion for a body."""
        thought = self.mind(*_seen(body))
        shares: Mapping[str, float] = {thought: 1.0} if isinstance(thought, str) else thought
        probabilities = dict(sorted(shares.items(), key=lambda item: -item[1]))
        answer = next(iter(probabilities))
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": answer},
            "finish_reason": "stop",
            "logprobs": None,
        }
        if body.get("logprobs") and logprobs:
            choice["logprobs"] = {"content": [self._first_token(body, answer, probabilities)]}
        return {"id": "fake", "object": "chat.completion", "model": self.model, "choices": [choice]}

    def _first_token(self, body: Mapping[str, Any], answer: str, probabilities: Mapping[str, float]) -> dict[str, Any]:
        ids = body.get("logprob_token_ids") if self.vllm else None
        if ids:
            words = [word for word, number in WORDS.items() if number in ids]
        else:
            words = list(probabilities)[: min(self.top, int(body.get("top_logprobs") or 0))]
        by_id = self.vllm and bool(body.get("return_tokens_as_token_ids"))

        def entry(word: str) -> dict[str, Any]:
            share = probabilities.get(word, 0.0)
            token = f"token_id:{WORDS[word]}" if by_id and word in WORDS else word
            return {"token": token, "logprob": math.log(share) if share > 0 else -9999.0, "bytes": list(token.encode())}

        return {**entry(answer), "top_logprobs": [entry(word) for word in words]}


def _seen(body: Mapping[str, Any]) -> tuple[list[Image.Image], str]:
    """Pictures and text of the last user's turn."""
    content = [message["content"] for message in body["messages"] if message["role"] == "user"][-1]
    parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    pictures = []
    for part in parts:
        if part["type"] == "image_url":
            _, data = part["image_url"]["url"].split("base64,")
            pictures.append(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    return pictures, "".join(part["text"] for part in parts if part["type"] == "text")
