import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import pytest
from PIL import Image

from nbench.errors import InfrastructureError, ScorerError
from nbench.scoring.judge.client import JudgeClient
from nbench.scoring.judge.question import Answer, Picture, Question, Unanswered
from nbench.scoring.judge.transport import Patience
from nbench.testing.judge_server import Fault, JudgeServer, first, mixed

T = TypeVar("T")
QUICK = Patience(silence_seconds=5, deadline_seconds=20, attempts=5, first_wait=0.002, longest_wait=0.02)
GREY = Picture(Image.new("RGB", (8, 8), (128, 128, 128)))
SECRET = "sk-very-secret-key"


def question(text: str = "Is it so?", **fields: Any) -> Question:
    return Question((GREY,), text, tokens=("Yes", "No"), **fields)


def use(server: JudgeServer, call: Callable[[JudgeClient], Awaitable[T]], **settings: Any) -> T:
    """What `call` gives for a client of the server."""

    async def main() -> T:
        async with JudgeClient(server.url, server.model, **{"patience": QUICK} | settings) as client:
            return await call(client)

    return asyncio.run(main())


def texts(server: JudgeServer) -> list[str]:
    return [body["messages"][-1]["content"][-1]["text"] for body in server.asked]


def test_an_answer_has_the_probabilities_of_the_server_s_mind() -> None:
    with JudgeServer(mind=lambda pictures, text: {"Yes": 0.7, "No": 0.2, "other": 0.1}) as server:
        answer = use(server, lambda client: client.ask(question()))
    assert isinstance(answer, Answer)
    assert answer.probabilities == pytest.approx({"Yes": 0.7, "No": 0.2})
    assert (answer.text, answer.attempts, answer.missing) == ("Yes", 1, 0)


def test_a_server_without_vllm_s_extras_gives_the_same_from_its_top_list() -> None:
    with JudgeServer(vllm=False) as plain, JudgeServer() as vllm:
        one, other = (use(server, lambda client: client.ask(question())) for server in (plain, vllm))
    assert isinstance(one, Answer) and isinstance(other, Answer)
    assert one.probabilities == pytest.approx(other.probabilities)
    assert "logprob_token_ids" not in plain.asked[0]
    assert vllm.asked[0]["logprob_token_ids"] == [100, 101]


def test_the_missing_mass_of_a_short_top_list_is_recorded() -> None:
    with JudgeServer(vllm=False, top=1, mind=lambda pictures, text: {"Yes": 0.8, "No": 0.15, "other": 0.05}) as server:
        answer = use(server, lambda client: client.ask(question()))
    assert isinstance(answer, Answer)
    assert set(answer.probabilities) == {"Yes"}
    assert answer.missing == pytest.approx(0.2)


def test_a_silent_server_is_asked_again() -> None:
    patience = Patience(silence_seconds=0.3, attempts=50, first_wait=0.001, longest_wait=0.01)
    with JudgeServer(faults=first(2, "hang")) as server:
        answer = use(server, lambda client: client.ask(question()), patience=patience)
    assert isinstance(answer, Answer)
    assert answer.attempts >= 3


@pytest.mark.parametrize("fault", ["429", "500", "503", "truncated", "close", "hang"])
def test_overloads_failures_and_broken_connections_are_tried_again(fault: Fault) -> None:
    with JudgeServer(faults=first(2, fault), hang_seconds=0.1) as server:
        answer = use(server, lambda client: client.ask(question()))
    assert isinstance(answer, Answer)
    assert answer.attempts == 3
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("400", "the server gave 400 told to give 400"),
        ("malformed", "the reply is no chat completion"),
        ("refusal", "the judge refused"),
        ("no logprobs", "the reply has no logprobs"),
    ],
)
def test_what_another_attempt_would_not_change_is_not_tried_again(fault: Fault, reason: str) -> None:
    with JudgeServer(faults=first(1, fault)) as server:
        answer = use(server, lambda client: client.ask(question()))
    assert isinstance(answer, Unanswered)
    assert answer.reason.startswith(reason)
    assert answer.attempts == len(server.asked) == 1


def test_attempts_are_bounded_and_the_last_reason_is_told() -> None:
    with JudgeServer(faults=first(99, "500")) as server:
        answer = use(server, lambda client: client.ask(question()))
    assert answer == Unanswered("the server gave 500 told to give 500 (attempt 5, the last)", 5)
    assert len(server.asked) == 5


def test_the_deadline_ends_a_question_that_never_gets_an_answer() -> None:
    patience = Patience(silence_seconds=0.1, deadline_seconds=0.35, attempts=99, first_wait=0.001, longest_wait=0.01)
    with JudgeServer(faults=first(99, "hang")) as server:
        began = time.monotonic()
        answer = use(server, lambda client: client.ask(question()), patience=patience)
    assert time.monotonic() - began < 5
    assert isinstance(answer, Unanswered)
    assert answer.reason.startswith("no answer within 0.35 s, the last attempt: ")


def test_a_server_s_retry_after_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    real = asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    monkeypatch.setattr("nbench.scoring.judge.transport.asyncio.sleep", noted)
    with JudgeServer(faults=first(1, "429"), retry_after=3) as server:
        use(server, lambda client: client.ask(question()))
    assert waits == [3]


def test_waits_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    real = asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    monkeypatch.setattr("nbench.scoring.judge.transport.asyncio.sleep", noted)
    patience = Patience(attempts=7, first_wait=1, longest_wait=8)
    with JudgeServer(faults=first(99, "500")) as server:
        use(server, lambda client: client.ask(question()), patience=patience)
    tops = [1, 2, 4, 8, 8, 8]
    assert len(waits) == len(tops)
    assert all(top / 2 <= wait <= top for wait, top in zip(waits, tops, strict=True))
    assert len({wait / top for wait, top in zip(waits, tops, strict=True)}) > 1


def test_answers_stand_in_the_order_of_the_questions_and_each_is_heard_once() -> None:
    heard: list[int] = []
    questions = [question(f"{number}") for number in range(30)]
    mind = {str(number): (number + 1) / 100 for number in range(30)}
    with JudgeServer(mind=lambda pictures, text: {"Yes": mind[text], "other": 1 - mind[text]}) as server:
        answers = use(server, lambda client: client.ask_all(questions, lambda index, answer: heard.append(index)))
    found = [answer.probabilities["Yes"] for answer in answers if isinstance(answer, Answer)]
    assert found == pytest.approx(list(mind.values()))
    assert sorted(heard) == list(range(30))


def test_questions_are_sent_in_their_order() -> None:
    with JudgeServer() as server:
        use(server, lambda client: client.ask_all([question(f"{n}") for n in range(12)]), start=1, most=1)
    assert texts(server) == [str(number) for number in range(12)]
    assert server.most_at_once == 1


def test_requests_at_once_are_bounded_and_grow() -> None:
    async def peak(client: JudgeClient) -> int:
        await client.ask_all([question(f"{n}") for n in range(60)])
        return client.limit.peak

    with JudgeServer(delay=0.02) as server:
        assert use(server, peak, start=2, most=6) == 6
    assert server.most_at_once <= 6


def test_an_overloaded_server_gets_fewer_requests_at_once() -> None:
    async def limit_after(client: JudgeClient) -> int:
        await client.ask_all([question(f"{n}") for n in range(8)])
        return client.limit.limit

    with JudgeServer(faults=first(3, "429"), delay=0.01) as server:
        assert use(server, limit_after, start=32, most=32) <= 16


def test_of_many_questions_under_faults_each_is_answered_once_or_has_a_reason() -> None:
    check_many(120)


@pytest.mark.slow
def test_of_two_thousand_questions_under_faults_each_is_answered_once_or_has_a_reason() -> None:
    check_many(2000)


def check_many(count: int) -> None:
    shares: dict[Fault, float] = {
        "429": 0.1,
        "500": 0.05,
        "hang": 0.01,
        "truncated": 0.03,
        "close": 0.03,
        "malformed": 0.03,
        "refusal": 0.03,
    }
    questions = [question(f"{number}") for number in range(count)]

    def mind(pictures: Any, text: str) -> Mapping[str, float]:
        share = (int(text) + 0.5) / count
        return {"Yes": share, "other": 1 - share}

    with JudgeServer(mind=mind, faults=mixed(shares), hang_seconds=0.3) as server:
        answers = use(server, lambda client: client.ask_all(questions))
    assert len(answers) == count
    unanswered = [answer for answer in answers if isinstance(answer, Unanswered)]
    assert 0 < len(unanswered) < 0.15 * count  # about 6 %: those that are not tried again
    assert all("refused" in answer.reason or "no chat completion" in answer.reason for answer in unanswered)
    for number, answer in enumerate(answers):
        if isinstance(answer, Answer):
            assert answer.probabilities["Yes"] == pytest.approx((number + 0.5) / count)
    assert sum(server.answered.values()) == count - len(unanswered)
    assert set(server.answered.values()) == {1}  # a question that has its answer is not asked again
    assert any(isinstance(answer, Answer) and answer.attempts > 1 for answer in answers)


def test_no_server_is_an_error_that_says_how_to_go_on() -> None:
    with JudgeServer() as server:
        pass
    with pytest.raises(InfrastructureError, match=f"no judge answers at {server.url} .*: start the server"):
        use(server, lambda client: client.ask_all([question()] * 3))
    with pytest.raises(InfrastructureError, match="no judge answers"):
        use(server, lambda client: client.served())


def test_a_crash_in_the_middle_is_survived_when_the_server_comes_back() -> None:
    at_the_crash = {"20", "21", "22"}

    def silent(body: Mapping[str, Any], before: int) -> Fault | None:
        return "hang" if before == 0 and body["messages"][-1]["content"][-1]["text"] in at_the_crash else None

    server = JudgeServer(faults=silent).start()

    async def through(client: JudgeClient) -> list[Answer | Unanswered]:
        asking = asyncio.create_task(client.ask_all([question(f"{n}") for n in range(60)]))
        while not at_the_crash <= set(texts(server)):
            await asyncio.sleep(0.005)
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(0.1)
        await asyncio.to_thread(server.start)
        return await asking

    try:
        answers = use(server, through, patience=Patience(attempts=50, first_wait=0.01, longest_wait=0.1))
    finally:
        server.stop()
    assert [type(answer) for answer in answers] == [Answer] * 60
    assert all(answers[int(number)].attempts > 1 for number in at_the_crash)
    assert set(server.answered.values()) == {1}


def test_a_server_that_is_still_starting_is_waited_for() -> None:
    patience = Patience(attempts=50, first_wait=0.02, longest_wait=0.05)
    with JudgeServer(ready_after=0.2) as server:
        assert isinstance(use(server, lambda client: client.ask(question()), patience=patience), Answer)


def test_what_happens_after_an_error_finds_all_slots_free() -> None:
    async def twice(client: JudgeClient) -> list[Answer | Unanswered]:
        client.model = "another"
        with pytest.raises(ScorerError):
            await client.ask_all([question(f"{n}") for n in range(20)])
        client.model = "fake-judge"
        answers = await asyncio.wait_for(client.ask_all([question(f"{n}") for n in range(20)]), 10)
        assert client.limit.under_way == 0
        return answers

    with JudgeServer() as server:
        answers = use(server, twice, start=4, most=4)
    assert [type(answer) for answer in answers] == [Answer] * 20


def test_a_model_that_is_not_served_is_an_error_that_names_it() -> None:
    with JudgeServer(model="this") as server:
        server.model, asked = "that", "this"
        with pytest.raises(ScorerError, match=r"does not serve the model 'this' \(404"):

            async def ask(client: JudgeClient) -> Answer | Unanswered:
                client.model = asked
                return await client.ask(question())

            use(server, ask)


def test_the_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBENCH_JUDGE_API_KEY", SECRET)
    with JudgeServer(key=SECRET) as server:
        assert isinstance(use(server, lambda client: client.ask(question())), Answer)


def test_a_wrong_key_is_an_error_that_names_the_variable_and_never_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wanted = pytest.raises(ScorerError, match="set NBENCH_JUDGE_API_KEY")
    with JudgeServer(key="another") as server, wanted as caught:
        use(server, lambda client: client.ask(question()), key=SECRET)
    assert "wrong API key: Bearer ***" in str(caught.value)  # the server repeated it
    assert SECRET not in str(caught.value)
    assert caplog.records  # httpx has logged the request
    assert not any(SECRET in record.getMessage() for record in caplog.records)


def test_the_key_is_in_no_reason_and_in_no_representation() -> None:
    async def shown(client: JudgeClient) -> str:
        return f"{client!r} {vars(client)!r} {await client.ask(question())!r}"

    with JudgeServer(faults=lambda body, before: "400", key=SECRET, told=f"bad request by {SECRET}") as server:
        text = use(server, shown, key=SECRET)
    assert "bad request by ***" in text
    assert SECRET not in text


def test_what_a_server_serves() -> None:
    with JudgeServer(model="short", root="Owner/Long-Name") as server:
        (found,) = use(server, lambda client: client.served())
        assert (found.id, found.root, found.server) == ("short", "Owner/Long-Name", "vllm 0.0.0+fake")
        server.vllm = False
        (found,) = use(server, lambda client: client.served())
        assert (found.id, found.server) == ("short", "fake")


def test_a_server_of_something_else_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with JudgeServer() as server, pytest.raises(ScorerError, match="no OpenAI-compatible server: /v1/models gave 404"):

        async def elsewhere(client: JudgeClient) -> object:
            other = JudgeClient(server.url + "/elsewhere", patience=QUICK)
            try:
                return await other.served()
            finally:
                await other.close()

        use(server, elsewhere)


def test_words_of_several_tokens_have_no_id() -> None:
    with JudgeServer() as server:
        ids = use(server, lambda client: client.token_ids(("Yes", " Yes", "Certainly")))
        assert ids == {"Yes": 100, " Yes": 104, "Certainly": None}
        server.vllm = False
        assert use(server, lambda client: client.token_ids(("Yes",))) is None


def test_each_word_is_looked_up_once() -> None:
    async def asks(client: JudgeClient) -> None:
        await client.ask_all([question(f"{n}") for n in range(10)])

    with JudgeServer() as server:
        counted: list[str] = []
        real = server.tokenize
        server.tokenize = lambda text: counted.append(text) or real(text)  # type: ignore[method-assign]
        use(server, asks)
    assert sorted(counted) == ["No", "Yes"]


def test_a_long_message_of_a_server_is_cut() -> None:
    with JudgeServer(faults=first(9, "400"), told="x" * 5000) as server:
        answer = use(server, lambda client: client.ask(question()))
    assert isinstance(answer, Unanswered)
    assert len(answer.reason) < 300


def test_json_answers_are_given_as_they_are() -> None:
    said = json.dumps({"score": 4})
    with JudgeServer(mind=lambda pictures, text: said) as server:
        asked = Question((GREY,), "Rate it.", schema={"type": "object"}, max_tokens=50)
        answer = use(server, lambda client: client.ask(asked))
    assert isinstance(answer, Answer) and answer.text == said
