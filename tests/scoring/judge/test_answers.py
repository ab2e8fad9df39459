"""The journal of answers: what was answered is not asked again, whatever crashed in between."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from nbench.scoring.judge.answers import AnswerJournal, question_key
from nbench.scoring.judge.question import Answer, Picture, Question

ANSWER = Answer("Yes", {"Yes": 0.75, "No": 0.1234567890123456}, 0.001, 2)


def question(shade: int = 0, text: str = "?") -> Question:
    return Question((Picture(Image.new("RGB", (4, 4), (shade, 0, 0))),), text, tokens=("Yes", "No"))


def test_the_key_is_of_all_that_is_asked_and_of_nothing_else() -> None:
    assert question_key(question(), "m") == question_key(question(), "m")
    others = [question_key(question(1), "m"), question_key(question(text="!"), "m"), question_key(question(), "n")]
    assert len({question_key(question(), "m"), *others}) == 4


def test_answers_come_back_bit_by_bit(tmp_path: Path) -> None:
    with AnswerJournal(tmp_path / "new" / "answers.jsonl") as journal:
        assert journal.get("a") is None
        journal.add("a", ANSWER)
        assert journal.get("a") == ANSWER
    assert AnswerJournal(tmp_path / "new" / "answers.jsonl").get("a") == ANSWER


def test_a_torn_line_costs_only_itself_and_not_the_next(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerJournal(path) as journal:
        journal.add("a", ANSWER)
        journal.add("b", ANSWER)
    path.write_bytes(path.read_bytes()[:-20])
    with AnswerJournal(path) as journal:
        assert (journal.get("a"), journal.get("b"), len(journal)) == (ANSWER, None, 1)
        journal.add("c", ANSWER)
    again = AnswerJournal(path)
    assert (again.get("a"), again.get("b"), again.get("c")) == (ANSWER, None, ANSWER)
