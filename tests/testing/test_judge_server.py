import base64
import io
import json
import urllib.error
import urllib.request
from collections import Counter
from typing import Any

import pytest
from PIL import Image

from nbench.testing.judge_server import JudgeServer, brightness, first, mixed


def url_of(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def chat(server: JudgeServer, level: int = 128, text: str = "Is it bright?", **fields: Any) -> dict[str, Any]:
    picture = {"type": "image_url", "image_url": {"url": url_of(Image.new("RGB", (8, 8), (level,) * 3))}}
    message = {"role": "user", "content": [picture, {"type": "text", "text": text}]}
    return call(server, "/v1/chat/completions", {"model": server.model, "messages": [message], **fields})


def call(server: JudgeServer, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(server.url + path, data), timeout=10) as reply:
        found: dict[str, Any] = json.load(reply)
        return found


def test_the_default_mind_likes_bright_pictures() -> None:
    shares = [brightness([Image.new("RGB", (4, 4), (level,) * 3)], "")["Yes"] for level in (0, 128, 255)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == pytest.approx((0.05, 0.9))
    assert sum(brightness([], "").values()) == pytest.approx(1)


def test_the_same_question_gets_the_same_answer() -> None:
    with JudgeServer() as server:
        one, other = (chat(server, logprobs=True, top_logprobs=5) for _ in range(2))
        assert one == other
        assert chat(server, level=255)["choices"][0]["message"]["content"] == "Yes"
        assert chat(server, level=0)["choices"][0]["message"]["content"] == "No"


def test_logprobs_by_id_are_given_for_exactly_these_ids() -> None:
    with JudgeServer() as server:
        ids = call(server, "/tokenize", {"model": server.model, "prompt": "No"})["tokens"]
        found = chat(server, logprobs=True, logprob_token_ids=ids, return_tokens_as_token_ids=True)
    top = found["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    assert [entry["token"] for entry in top] == [f"token_id:{ids[0]}"]


def test_it_serves_what_a_client_looks_for_and_nothing_else() -> None:
    with JudgeServer(model="m", root="Owner/M") as server:
        (entry,) = call(server, "/v1/models")["data"]
        assert (entry["id"], entry["root"], entry["owned_by"]) == ("m", "Owner/M", "vllm")
        assert call(server, "/version")["version"]
        assert call(server, "/health") == {}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            call(server, "/metrics")
        server.vllm = False
        with pytest.raises(urllib.error.HTTPError, match="404"):
            call(server, "/tokenize", {"model": "m", "prompt": "Yes"})


def test_faults_come_when_they_are_told_to() -> None:
    with JudgeServer(faults=first(1, "500")) as server:
        with pytest.raises(urllib.error.HTTPError, match="500"):
            chat(server)
        chat(server)
        with pytest.raises(urllib.error.HTTPError, match="500"):
            chat(server, text="another question")
    assert len(server.asked) == 3
    assert sum(server.answered.values()) == 1


def test_mixed_faults_have_their_shares_and_are_the_same_in_every_run() -> None:
    choose, again, others = (
        mixed({"429": 0.2, "500": 0.1}),
        mixed({"429": 0.2, "500": 0.1}),
        mixed({"429": 0.2}, seed=1),
    )
    bodies = [{"text": str(number)} for number in range(2000)]
    found = [choose(body, 0) for body in bodies]
    counted = Counter(found)
    assert counted["429"] == pytest.approx(400, abs=80)
    assert counted["500"] == pytest.approx(200, abs=60)
    assert found == [again(body, 0) for body in bodies]
    assert found != [others(body, 0) for body in bodies]
    assert {choose(body, 3) for body in bodies} == {None}


def test_it_listens_on_loopback_only_and_keeps_its_port() -> None:
    server = JudgeServer().start()
    url = server.url
    assert url.startswith("http://127.0.0.1:")
    server.stop()
    with pytest.raises(urllib.error.URLError):
        call(server, "/health")
    server.start()
    assert server.url == url
    assert call(server, "/health") == {}
    server.stop()


def test_a_key_is_wanted_where_one_is_set() -> None:
    with JudgeServer(key="k") as server, pytest.raises(urllib.error.HTTPError, match="401"):
        call(server, "/v1/models")
