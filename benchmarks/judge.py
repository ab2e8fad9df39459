"""Judges under load: speed against a sequential loop, what survives faults and kills, what the order of asking does.

python benchmarks/judge.py                        # speed and load, against the fake server of nbench.testing
python benchmarks/judge.py --only load --json
NBENCH_VLLM_PYTHON=... python benchmarks/judge.py --only order --spec items-pocket    # against a real vLLM

speed   the client against one request after the other on one connection, at several times per answer
load    2,000 questions through 429s, 500s, hangs, malformed and cut replies, a slow start, a crash of the server
        and kill -9 of the client: every answer that could be had is had, from the journal where it was had before
order   six questions per picture to vLLM: picture after picture against question after question, and one at a
        time; rate, and the share of prompt tokens and pictures that its caches had
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from nbench.scoring.judge.answers import AnswerJournal, question_key
from nbench.scoring.judge.client import JudgeClient
from nbench.scoring.judge.question import Answer, Picture, Question
from nbench.scoring.judge.reading import questions_about, shown
from nbench.scoring.judge.served import ServedJudge
from nbench.scoring.judge.spec import JudgeSpec, load_judge
from nbench.scoring.judge.transport import Patience
from nbench.testing.judge_server import JudgeServer, brightness, mixed

SPEC = JudgeSpec(name="load", model="fake-judge", mode="pointwise", rubric="Is it so?", scale={"Yes": 1, "No": 0})
FAULTS = {"429": 0.05, "500": 0.05, "hang": 0.005, "malformed": 0.01, "truncated": 0.02, "close": 0.02}
PATIENCE = Patience(silence_seconds=1.0, first_wait=0.05, longest_wait=2.0, attempts=12)


def load_questions(count: int) -> list[Question]:
    """Five questions per picture, none twice."""
    found = []
    for number in range(count):
        shade = number // 5
        if number % 5 == 0:
            picture = Picture(Image.new("RGB", (16, 16), (shade % 256, shade // 256, 0)))
        found.append(Question((picture,), f"question {number}", fixed=SPEC.rubric, tokens=SPEC.labels))
    return found


def client_process(url: str, journal: Path, count: int) -> None:
    """What is killed and started again: asks all that its journal does not hold, and tells what became of them."""
    judge = ServedJudge(SPEC, url, patience=PATIENCE, journal=AnswerJournal(journal))
    answers = judge.ask(load_questions(count))
    judge.close()
    reasons = [answer.reason.split("(")[0][:50] for answer in answers if not isinstance(answer, Answer)]
    print(json.dumps({"answered": sum(isinstance(answer, Answer) for answer in answers), "reasons": reasons}))


def load(count: int) -> dict[str, Any]:
    """Run the load; every figure of its table."""
    server = JudgeServer(faults=mixed(FAULTS), delay=0.002, hang_seconds=5, ready_after=2.0)
    lines_before_kill = count // 3
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, server:
        journal = Path(folder) / "answers.jsonl"
        command = [sys.executable, __file__, "--client", server.url, str(journal), str(count)]

        def had() -> int:
            return len(AnswerJournal(journal))

        first = subprocess.Popen(command, stdout=subprocess.PIPE)
        while had() < lines_before_kill and first.poll() is None:
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        first.wait()
        kept = had()

        def crash() -> None:
            while had() < 2 * lines_before_kill:
                time.sleep(0.05)
            server.stop()
            time.sleep(1.0)
            server.start()

        crasher = threading.Thread(target=crash, daemon=True)
        crasher.start()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        crasher.join(10)
        seconds = time.monotonic() - began
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        result = json.loads(done.stdout)
        known = AnswerJournal(journal)
        wrong = 0
        for question in load_questions(count):
            answer = known.get(question_key(question, SPEC.model))
            truth = brightness([question.pictures[0].image], "")
            wrong += answer is not None and any(
                abs(answer.probabilities[label] - truth[label]) > 1e-9 for label in SPEC.labels
            )
    ours = {body: times for body, times in server.answered.items() if "question " in body}
    return {
        "questions": count,
        "answered": result["answered"],
        "coverage": result["answered"] / count,
        "reasons": {reason: result["reasons"].count(reason) for reason in sorted(set(result["reasons"]))},
        "kept over kill -9": kept,
        "answers lost": len(ours) - result["answered"],
        "answers invented": wrong,
        "answers had twice": sum(times > 1 for times in ours.values()),
        "requests": len(server.asked),
        "most at once": server.most_at_once,
        "seconds": round(seconds, 1),
    }


def sequential(url: str, questions: Sequence[Question]) -> float:
    """Seconds of a plain loop over one connection: one request, one answer, the next."""
    from http.client import HTTPConnection
    from urllib.parse import urlsplit

    from nbench.scoring.judge.question import request_json

    address = urlsplit(url)
    connection = HTTPConnection(address.hostname or "", address.port)
    began = time.perf_counter()
    for question in questions:
        body = json.dumps(request_json(question, SPEC.model, None))
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        json.loads(connection.getresponse().read())
    return time.perf_counter() - began


def concurrent(url: str, questions: Sequence[Question]) -> float:
    """Seconds of the client."""

    async def asked() -> float:
        async with JudgeClient(url, SPEC.model) as client:
            await client.token_ids(SPEC.labels)
            began = time.perf_counter()
            answers = await client.ask_all(questions)
            assert all(isinstance(answer, Answer) for answer in answers)
            return time.perf_counter() - began

    return asyncio.run(asked())


def speed(rounds: int) -> list[dict[str, Any]]:
    """Requests per second, median of rounds, at several times per answer of the server."""
    found = []
    for delay, count in ((0.0, 400), (0.02, 200), (0.1, 100)):
        with JudgeServer(delay=delay) as server:
            rates: dict[str, list[float]] = {"loop": [], "nbench": []}
            for _ in range(rounds):
                questions = load_questions(count)
                rates["loop"].append(count / sequential(server.url, questions))
                rates["nbench"].append(count / concurrent(server.url, load_questions(count)))
        medians = {name: statistics.median(values) for name, values in rates.items()}
        found.append({"delay_ms": 1000 * delay, **medians, "times": medians["nbench"] / medians["loop"]})
    return found


def cache_counts(url: str) -> dict[str, float]:
    """The counters that vLLM keeps of its prefix cache and its multimodal cache."""
    text = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
    found: dict[str, float] = {}
    for line in text.splitlines():
        name = line.split("{")[0].split(" ")[0]
        if name.startswith("vllm:") and "cache" in name and name.endswith(("hits_total", "queries_total")):
            found[name] = found.get(name, 0.0) + float(line.rsplit(" ", 1)[1])
    return found


def order(spec: JudgeSpec, pictures: int, side: int) -> list[dict[str, Any]]:
    """Each way of asking the same questions of fresh pictures to one started vLLM."""
    import numpy as np

    from nbench.scoring.judge.backend import open_judge

    judge = open_judge(spec, choice="vllm", tell=lambda text: print(text, file=sys.stderr))
    judge.prepare()
    assert isinstance(judge, ServedJudge)
    draw = np.random.default_rng(0)
    found = []
    for way in ("warm-up", "adjacent", "scattered", "one at a time"):
        images = [Image.fromarray(draw.integers(0, 256, (side, side, 3), np.uint8)) for _ in range(pictures)]
        asked = [questions_about(spec, [shown(image, spec.image)], "a red fox") for image in images]
        each = len(asked[0])
        questions = [question for about in asked for question in about]
        if way == "scattered":
            questions = [asked[i][k] for k in range(each) for i in range(pictures)]
        before, began = cache_counts(judge.url), time.perf_counter()
        if way == "one at a time":
            answers = [judge.ask([question])[0] for question in questions]
        else:
            answers = judge.ask(questions)
        seconds = time.perf_counter() - began
        after = cache_counts(judge.url)
        moved = {name: after[name] - before.get(name, 0.0) for name in after}
        hits = {
            name.removeprefix("vllm:").removesuffix("_queries_total"): moved.get(name.replace("queries", "hits"), 0.0)
            / moved[name]
            for name in moved
            if name.endswith("queries_total") and moved[name]
        }
        assert all(isinstance(answer, Answer) for answer in answers)
        found.append({"way": way, "questions_per_picture": each, "rate": len(questions) / seconds, "hits": hits})
    judge.close()
    return found[1:]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["speed", "load", "order"])
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spec", default="items-pocket", help="of `order`")
    parser.add_argument("--pictures", type=int, default=40, help="of `order`")
    parser.add_argument("--side", type=int, default=64, help="of `order`'s pictures, in pixels")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--client", nargs=3, metavar=("URL", "JOURNAL", "COUNT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.client:
        client_process(args.client[0], Path(args.client[1]), int(args.client[2]))
        return
    found: dict[str, Any] = {}
    if args.only in (None, "speed"):
        found["speed"] = speed(args.rounds)
    if args.only in (None, "load"):
        found["load"] = load(args.questions)
    if args.only == "order":
        from nbench.scoring.judge.served import stop_servers

        try:
            found["order"] = order(load_judge(args.spec), args.pictures, args.side)
        finally:
            stop_servers()
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for row in found.get("speed", []):
        print(
            f"speed  server takes {row['delay_ms']:3.0f} ms: loop {row['loop']:6.1f}/s, nbench {row['nbench']:6.1f}/s, "
            f"{row['times']:.1f} times"
        )
    for name, value in found.get("load", {}).items():
        print(f"load   {name}: {f'{value:.2%}' if name == 'coverage' else value}")
    for row in found.get("order", []):
        hits = ", ".join(f"{name} {share:.0%}" for name, share in row["hits"].items())
        print(f"order  {row['way']}: {row['rate']:.1f} questions/s; found in caches: {hits}")


if __name__ == "__main__":
    main()
