"""A journal of a judge's answers: each is on disk before it is used, so a killed program need not ask again.

One JSON line per answer, appended and synced. A line that was cut short by a crash is passed over, and what it held is
asked again. What was not answered is not in it: another time may have more luck.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from types import TracebackType

from nbench.errors import InfrastructureError
from nbench.scoring.judge.question import Answer, Question, request_json


def question_key(question: Question, model: str) -> str:
    """sha256 (hex) of everything that is asked, pictures included."""
    body = json.dumps(request_json(question, model, None), sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()


class AnswerJournal:
    """Answers by `question_key`. A context manager.

    Args:
        path: of the journal; made when the first answer comes.

    Raises:
        InfrastructureError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[str, Answer] = {}
        self._lock = threading.Lock()
        self._file: int | None = None
        try:
            lines = path.read_bytes().splitlines() if path.is_file() else []
        except OSError as error:
            raise InfrastructureError(f"the judge's journal {path} cannot be read: {error.strerror}.") from error
        for line in lines:
            try:
                record = json.loads(line)
                found = {str(word): float(share) for word, share in record["probabilities"].items()}
                answer = Answer(str(record["text"]), found, float(record["missing"]), int(record["attempts"]))
                self._answers[str(record["key"])] = answer
            except (ValueError, LookupError, TypeError, AttributeError):
                continue  # torn by a crash

    def __enter__(self) -> AnswerJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """The answer that was had to a question."""
        return self._answers.get(key)

    def add(self, key: str, answer: Answer) -> None:
        """Keep an answer; it is on disk when this returns.

        Raises:
            InfrastructureError: the disk refuses.
        """
        record = {
            "key": key,
            "text": answer.text,
            "probabilities": dict(answer.probabilities),
            "missing": answer.missing,
            "attempts": answer.attempts,
        }
        # a newline before it as well: a line that a crash left open is closed, and costs only itself
        line = b"\n" + json.dumps(record, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            try:
                if self._file is None:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                os.write(self._file, line)
                os.fsync(self._file)
            except OSError as error:
                raise InfrastructureError(
                    f"the judge's journal {self.path} cannot be written: {error.strerror}."
                ) from error
            self._answers[key] = answer

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None
