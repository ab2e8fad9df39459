"""What every calibration card of a judge says first: how much of what was asked it answered."""

from __future__ import annotations

from collections.abc import Mapping

#: share of questions that a judge must answer
LEAST_COVERAGE = 0.95


class Answered:
    """Coverage of a card that counts what was asked and why some of it has no answer.

    Attributes:
        asked: pictures or pairs.
        failures: why some have no answer, with counts.
    """

    asked: int
    failures: Mapping[str, int]

    @property
    def coverage(self) -> float:
        """Share of what was asked that has an answer."""
        return 1 - sum(self.failures.values()) / self.asked if self.asked else 0.0

    def silences(self, what: str) -> list[str]:
        """The fault of answering too little, if it is one; `what` are "questions" or "pairs"."""
        if self.coverage >= LEAST_COVERAGE:
            return []
        reason = max(self.failures, key=lambda key: self.failures[key])
        return [f"it answers {self.coverage:.0%} of the {what} ({reason})"]
