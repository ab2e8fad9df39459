"""What a judge is asked and what it answers: questions, the request's JSON, and how its reply is read.

Order is chosen for the server's caches: system text, pictures, fixed text, then the text that varies. The questions of
one picture should be asked one after the other.

A token's probability comes from an unconstrained first token, over the whole vocabulary. vLLM gives exactly the tokens
asked for (`logprob_token_ids`, by id); other servers give their most likely ones (`top_logprobs`, by text), and then a
token that is not among them has a bound instead of a probability.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

TOP = 20  # most that a server gives by default (vLLM --max-logprobs, OpenAI)


class Picture:
    """A picture as a PNG data URL, encoded once, at first use; share it among the questions about it.

    Args:
        image: any mode; sent as RGB, lossless, at its own size.
    """

    def __init__(self, image: Image.Image) -> None:
        self._image = image

    @property
    def image(self) -> Image.Image:
        """The picture in RGB."""
        return self._image.convert("RGB")

    @cached_property
    def url(self) -> str:
        """`data:image/png;base64,...`."""
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG", compress_level=1)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@dataclass(frozen=True, eq=False)
class Question:
    """One question about pictures.

    Attributes:
        pictures: shown before the text; two or more are announced as "Image 1:", "Image 2:", ...
        text: the part that varies, last in the user's turn.
        fixed: text between the pictures and `text`, the same for many questions.
        system: the system turn; "" for none.
        stem: beginning of the answer, which the model goes on with; "" for none.
        tokens: whose probabilities of being the answer's first token are wanted.
        schema: JSON schema that the answer must obey; None for free text.
        max_tokens: longest answer.
        template: arguments for the model's chat template.
    """

    pictures: tuple[Picture, ...]
    text: str
    fixed: str = ""
    system: str = ""
    stem: str = ""
    tokens: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 1
    template: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What the judge said.

    Attributes:
        text: of the answer.
        probabilities: of the tokens asked for; one whose probability the server did not give is left out.
        missing: largest probability that a token left out can have; 0 where none is left out.
        attempts: how often the request was sent.
        seconds: from the first attempt to the answer.
    """

    text: str
    probabilities: Mapping[str, float] = field(default_factory=dict)
    missing: float = 0.0
    attempts: int = 1
    seconds: float = 0.0


@dataclass(frozen=True)
class Unanswered:
    """No answer to one question.

    Attributes:
        reason: why, without secrets.
        attempts: how often the request was sent.
    """

    reason: str
    attempts: int = 1


class MalformedReplyError(ValueError):
    """A reply that is not what the OpenAI API says, or lacks what was asked for."""


def request_json(question: Question, model: str, token_ids: Mapping[str, int] | None) -> dict[str, Any]:
    """The body of POST /v1/chat/completions: greedy, one choice.

    Args:
        question: what to ask.
        model: id that the server serves.
        token_ids: of the question's tokens, where the server is one that can give probabilities by id.
    """
    content: list[dict[str, Any]] = []
    for number, picture in enumerate(question.pictures, 1):
        if len(question.pictures) > 1:
            content.append({"type": "text", "text": f"Image {number}:"})
        content.append({"type": "image_url", "image_url": {"url": picture.url}})
    content.append({"type": "text", "text": question.fixed + question.text})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if question.system:
        messages.insert(0, {"role": "system", "content": question.system})
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_tokens": question.max_tokens,
        "temperature": 0,
    }
    if question.stem:
        messages.append({"role": "assistant", "content": question.stem})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if question.tokens:
        body |= {"logprobs": True, "top_logprobs": TOP}
        if token_ids is not None:
            ids = [token_ids[token] for token in question.tokens if token in token_ids]
            body |= {"logprob_token_ids": ids, "return_tokens_as_token_ids": True}
    if question.template:
        body["chat_template_kwargs"] = dict(question.template)
    if question.schema is not None:
        form = {"name": "answer", "strict": True, "schema": dict(question.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    return body


def read_reply(raw: bytes, question: Question, token_ids: Mapping[str, int] | None) -> Answer:
    """The answer in the body of a reply with status 200.

    Args:
        raw: the body.
        question: what was asked.
        token_ids: as they were sent.

    Raises:
        MalformedReplyError: the body is not JSON of the API's form, holds a refusal, no logprobs where tokens were
            asked for, or no JSON where a schema was given.
    """
    try:
        choice = json.loads(raw)["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content") or "", message.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise MalformedReplyError(f"the reply is no chat completion: {_shown(raw)}") from error
    if not isinstance(text, str):
        raise MalformedReplyError(f"the answer is no text but {type(text).__name__}")
    if refusal or choice.get("finish_reason") == "content_filter":
        raise MalformedReplyError(f"the judge refused: {str(refusal or text)[:200]!r}")
    if question.schema is not None:
        try:
            json.loads(text)
        except ValueError as error:
            cut = ", cut at max_tokens" if choice.get("finish_reason") == "length" else ""
            raise MalformedReplyError(f"the answer is not the JSON that was asked for{cut}: {text[:200]!r}") from error
    probabilities, missing = _probabilities(choice, question.tokens, token_ids) if question.tokens else ({}, 0.0)
    return Answer(text, probabilities, missing)


def _probabilities(
    choice: Mapping[str, Any], tokens: Sequence[str], token_ids: Mapping[str, int] | None
) -> tuple[dict[str, float], float]:
    try:
        first = choice["logprobs"]["content"][0]
        entries = [first, *first["top_logprobs"]]
        listed = {str(entry["token"]): float(entry["logprob"]) for entry in entries}
        given = {str(entry["token"]): float(entry["logprob"]) for entry in first["top_logprobs"]}
    except (LookupError, TypeError, ValueError) as error:
        raise MalformedReplyError(
            "the reply has no logprobs of its first token: the judge's server must give logprobs and top_logprobs"
        ) from error
    if not all(logprob <= 1e-6 for logprob in listed.values()):  # also false for NaN
        raise MalformedReplyError(f"logprobs that are no log-probabilities: {max(listed.values())}")
    # where ids are known, a word without one is several tokens, and never the first
    wanted = [token for token in tokens if token_ids is None or token in token_ids]
    found = {}
    for token in wanted:
        by_text = listed.get(token)  # also where a server knows the ids, but not the two fields about them
        logprob = by_text if token_ids is None else listed.get(f"token_id:{token_ids[token]}", by_text)
        if logprob is not None:
            found[token] = min(1.0, math.exp(logprob))
    if len(found) == len(wanted):
        return found, 0.0
    rest = max(0.0, 1.0 - math.fsum(math.exp(logprob) for logprob in listed.values()))
    least = math.exp(min(given.values())) if given else 1.0  # the list holds the likeliest: none outside is likelier
    return found, min(rest, least)


def _shown(raw: bytes) -> str:
    return repr(raw[:120].decode("utf-8", "replace"))
