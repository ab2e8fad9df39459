import signal
import threading
import time

import pytest
from PIL import Image

from nbench.errors import ScorerError
from nbench.scoring.judge.client import JudgeClient
from nbench.scoring.judge.question import Answer, Picture, Question
from nbench.scoring.judge.session import JudgeSession
from nbench.testing.judge_server import JudgeServer, first

QUESTION = Question((Picture(Image.new("RGB", (8, 8))),), "Is it so?", tokens=("Yes",))


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "nbench-judge"]


def test_connections_stay_open_between_calls_and_close_ends_the_thread() -> None:
    with JudgeServer() as server:
        session = JudgeSession(lambda: JudgeClient(server.url, server.model))
        found = [session.run(lambda client: client.ask(QUESTION)) for _ in range(3)]
        assert [type(answer) for answer in found] == [Answer] * 3
        assert server.connections == 1
        assert threads() == ["nbench-judge"]
        session.close()
        session.close()
    assert threads() == []


def test_errors_come_through_and_a_session_that_cannot_begin_leaves_no_thread() -> None:
    with pytest.raises(ScorerError, match="no http address"):
        JudgeSession(lambda: JudgeClient("nonsense"))
    assert threads() == []


@pytest.mark.timeout(30)
def test_an_interrupt_while_waiting_cancels_the_questions() -> None:
    with JudgeServer(faults=first(9, "hang"), hang_seconds=5) as server:
        session = JudgeSession(lambda: JudgeClient(server.url, server.model, start=1, most=1))

        def interrupt() -> None:
            while not server.asked:
                time.sleep(0.01)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # as Ctrl-C does

        stopper = threading.Thread(target=interrupt)
        stopper.start()
        with pytest.raises(KeyboardInterrupt):
            session.run(lambda client: client.ask_all([QUESTION] * 5))
        stopper.join()
        for _ in range(100):
            if session.run(_under_way) == 0:
                break
            time.sleep(0.02)
        assert session.run(_under_way) == 0
        session.close()
        assert len(server.asked) == 1


async def _under_way(client: JudgeClient) -> int:
    return client.limit.under_way
