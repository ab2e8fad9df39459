import base64
import io
import json
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nbench.scoring.judge.question import MalformedReplyError, Picture, Question, read_reply, request_json

PICTURE = Picture(Image.new("RGB", (4, 4), (10, 20, 30)))
IDS = {"Yes": 7, "No": 8}


def logged(listed: dict[str, float], said: str = "Yes", logprob: float = -0.1) -> dict[str, Any]:
    top = [{"token": token, "logprob": value} for token, value in listed.items()]
    return {"content": [{"token": said, "logprob": logprob, "top_logprobs": top}]}


def reply(content: str | None = "Yes", **choice: Any) -> bytes:
    message = {"role": "assistant", "content": content} | choice.pop("message", {})
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop"} | choice]}).encode()


def ask(*tokens: str, **fields: Any) -> Question:
    return Question((PICTURE,), "Is it so?", tokens=tokens, **fields)


def kinds(content: list[dict[str, Any]]) -> list[str]:
    return [part.get("text", "picture") for part in content]


def test_the_picture_comes_first_and_what_varies_last() -> None:
    question = Question((PICTURE,), "a cat", fixed="Rate it. ", system="You judge.")
    system, user = request_json(question, "m", None)["messages"]
    assert system == {"role": "system", "content": "You judge."}
    assert kinds(user["content"]) == ["picture", "Rate it. a cat"]


def test_two_pictures_are_announced_by_number_only() -> None:
    question = Question((PICTURE, PICTURE), "Which is better?")
    content = request_json(question, "m", None)["messages"][0]["content"]
    assert kinds(content) == ["Image 1:", "picture", "Image 2:", "picture", "Which is better?"]


def test_the_picture_is_sent_without_loss_at_its_own_size() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (13, 7, 3), np.uint8)
    url = Picture(Image.fromarray(pixels)).url
    head, data = url.split(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), pixels)


def test_a_picture_is_encoded_once() -> None:
    picture = Picture(Image.new("RGB", (4, 4)))
    assert picture.url is picture.url


def test_a_plain_request_is_greedy_and_holds_nothing_but_the_openai_api() -> None:
    body = request_json(Question((PICTURE,), "x", max_tokens=9), "m", IDS)
    assert set(body) == {"model", "messages", "max_tokens", "temperature"}
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 9, 0)


def test_tokens_are_asked_for_by_id_where_ids_are_known_and_by_the_top_list_in_any_case() -> None:
    without = request_json(ask("Yes", "No"), "m", None)
    assert (without["logprobs"], without["top_logprobs"]) == (True, 20)
    assert "logprob_token_ids" not in without
    body = request_json(ask("Yes", "several tokens", "No"), "m", IDS)
    assert body["logprob_token_ids"] == [7, 8]
    assert body["return_tokens_as_token_ids"] is True
    assert body["top_logprobs"] == 20


def test_a_stem_is_the_beginning_of_the_answer() -> None:
    body = request_json(ask("Yes", stem="The quality is"), "m", None)
    assert body["messages"][-1] == {"role": "assistant", "content": "The quality is"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def test_a_schema_is_sent_as_structured_output() -> None:
    schema = {"type": "object"}
    body = request_json(ask(schema=schema), "m", None)
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["schema"] == schema


def test_probabilities_by_id() -> None:
    listed = {"token_id:7": math.log(0.6), "token_id:8": math.log(0.3)}
    answer = read_reply(reply(logprobs=logged(listed, "token_id:7", math.log(0.6))), ask("Yes", "No"), IDS)
    assert answer.probabilities == pytest.approx({"Yes": 0.6, "No": 0.3})
    assert answer.missing == 0
    assert answer.text == "Yes"


def test_a_word_of_several_tokens_is_left_out_and_is_not_missing() -> None:
    listed = {"token_id:7": math.log(0.6)}
    answer = read_reply(reply(logprobs=logged(listed)), ask("Yes", "YES!"), {"Yes": 7})
    assert answer.probabilities == pytest.approx({"Yes": 0.6})
    assert answer.missing == 0


def test_a_server_that_overlooks_the_ids_is_read_by_its_top_list() -> None:
    listed = {"Yes": math.log(0.6), "No": math.log(0.3)}
    answer = read_reply(reply(logprobs=logged(listed)), ask("Yes", "No"), IDS)
    assert answer.probabilities == pytest.approx({"Yes": 0.6, "No": 0.3})


@pytest.mark.parametrize(
    ("listed", "missing"),
    [
        ({"Yes": 0.9, "other": 0.04}, 0.04),  # no likelier than the least of the list
        ({"Yes": 0.6, "other": 0.395}, 0.005),  # no more than what is left
    ],
)
def test_a_token_outside_the_top_list_has_a_bound_and_no_value(listed: dict[str, float], missing: float) -> None:
    logs = {token: math.log(value) for token, value in listed.items()}
    said = logged(logs, "Yes", math.log(listed["Yes"]))
    answer = read_reply(reply(logprobs=said), ask("Yes", "No"), None)
    assert set(answer.probabilities) == {"Yes"}
    assert answer.missing == pytest.approx(missing)


def test_token_texts_are_told_apart_by_their_spaces_and_case() -> None:
    listed = {" Yes": math.log(0.5), "yes": math.log(0.2), "Yes": math.log(0.1)}
    answer = read_reply(reply(logprobs=logged(listed)), ask("Yes", " Yes", "yes"), None)
    assert answer.probabilities == pytest.approx({"Yes": 0.1, " Yes": 0.5, "yes": 0.2})


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"<html>busy</html>", b"[]", b"null", b'{"choices": []}', b'{"choices": [{}]}', b'{"choices": [null]}'],
)
def test_a_reply_of_another_form_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedReplyError, match="no chat completion"):
        read_reply(raw, ask(), None)


@pytest.mark.parametrize("logprobs", [None, {}, {"content": []}, {"content": [{"token": "Yes"}]}, {"content": None}])
def test_a_reply_without_logprobs_is_malformed_where_they_were_asked_for(logprobs: Any) -> None:
    with pytest.raises(MalformedReplyError, match="no logprobs"):
        read_reply(reply(logprobs=logprobs), ask("Yes"), None)
    assert read_reply(reply(logprobs=logprobs), ask(), None).probabilities == {}


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_numbers_that_are_no_logprobs_are_malformed(value: float) -> None:
    with pytest.raises(MalformedReplyError, match="no log-probabilities"):
        read_reply(reply(logprobs=logged({"Yes": value})), ask("Yes"), None)


def test_a_refusal_is_not_an_answer() -> None:
    with pytest.raises(MalformedReplyError, match="refused: 'I cannot'"):
        read_reply(reply(None, message={"refusal": "I cannot"}), ask(), None)
    with pytest.raises(MalformedReplyError, match="refused"):
        read_reply(reply("", finish_reason="content_filter"), ask(), None)


def test_an_answer_that_is_not_the_wanted_json_is_malformed_and_says_when_it_was_cut() -> None:
    question = ask(schema={"type": "object"})
    assert read_reply(reply('{"score": 3}'), question, None).text == '{"score": 3}'
    with pytest.raises(MalformedReplyError, match="not the JSON"):
        read_reply(reply("three"), question, None)
    with pytest.raises(MalformedReplyError, match="cut at max_tokens"):
        read_reply(reply('{"score', finish_reason="length"), question, None)
