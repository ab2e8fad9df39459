"""Two pictures and a judge of mode pairwise: both orders are asked, so that a liking for one place cancels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nbench.errors import ScorerError
from nbench.scoring.judge.backend import JudgeBackend
from nbench.scoring.judge.question import Picture
from nbench.scoring.judge.reading import questions_about, read
from nbench.scoring.judge.spec import JudgeSpec


@dataclass(frozen=True)
class PairJudgement:
    """What the judge says of a pair (a, b).

    Attributes:
        shown_first: P(first is better) with a shown first; None where there is a reason.
        shown_second: P(first is better) with b shown first.
        mass: least label mass of the two.
        reason: why there is none.
    """

    shown_first: float | None
    shown_second: float | None
    mass: float = 0.0
    reason: str = ""

    @property
    def preference(self) -> float | None:
        """P(a is better), the mean over both orders; None where there is a reason."""
        if self.shown_first is None or self.shown_second is None:
            return None
        return (self.shown_first + 1 - self.shown_second) / 2

    @property
    def consistent(self) -> bool | None:
        """Whether the same picture wins in both orders; a tie in either does not count as a win."""
        if self.shown_first is None or self.shown_second is None:
            return None
        return (self.shown_first - 0.5) * (self.shown_second - 0.5) < 0

    @property
    def first_place(self) -> float | None:
        """Mean probability of whatever stands first; 0.5 is unbiased."""
        if self.shown_first is None or self.shown_second is None:
            return None
        return (self.shown_first + self.shown_second) / 2


def judge_pairs(
    backend: JudgeBackend, spec: JudgeSpec, pairs: Sequence[tuple[Picture, Picture]], prompts: Sequence[str] = ()
) -> list[PairJudgement]:
    """One judgement per pair, in order.

    Args:
        backend: of the judge.
        spec: of mode pairwise.
        pairs: of pictures, as `reading.shown` gives them.
        prompts: of the pairs, where the spec asks for one.

    Raises:
        ScorerError: the spec is of another mode.
    """
    if spec.mode != "pairwise":
        raise ScorerError(f"judge {spec.name!r} is of mode {spec.mode}: pairs need one of mode pairwise.")
    texts = prompts or [""] * len(pairs)
    questions = [
        question
        for (a, b), prompt in zip(pairs, texts, strict=True)
        for order in ((a, b), (b, a))
        for question in questions_about(spec, order, prompt)
    ]
    readings = [read(answer, spec) for answer in backend.ask(questions)]
    found = []
    for first, second in zip(readings[::2], readings[1::2], strict=True):
        reason = first.reason or second.reason
        mass = min(first.mass, second.mass)
        found.append(
            PairJudgement(None, None, mass, reason) if reason else PairJudgement(first.value, second.value, mass)
        )
    return found
