"""What a claim comes to: its verdict, its effect with an interval, and the parts that it was pooled from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["holds", "does not hold", "cannot tell"]


@dataclass(frozen=True)
class Effect:
    """A number with its 95 % interval.

    Attributes:
        mean, low, high: in `unit`; low and high are None where there is no interval.
        unit: of the three.
        prompts: clusters of the interval.
        trainings: trainings, or pairs of them, that the mean is over.
    """

    mean: float
    low: float | None
    high: float | None
    unit: str
    prompts: int
    trainings: int = 1


@dataclass(frozen=True)
class Part:
    """The claim on one training or one pair of them, or on one cell of the grid.

    Attributes:
        name: what it is about, such as "pocket-sd3-nft-aesthetic s0".
        effect: None where it was not measured.
        verdict: of this part alone, without correction for looking at many.
        facts: further numbers and words for the table, by column.
    """

    name: str
    effect: Effect | None
    verdict: Verdict
    facts: Mapping[str, float | str | None]


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, tested.

    Attributes:
        number: 1 to 11.
        key: a short name for files and anchors, such as "inflation".
        source: the paper.
        statement: what it claims, in one sentence.
        rule: how the verdict follows from the numbers, in one or two sentences.
        verdict: of the whole.
        effect: pooled; None without evidence.
        parts: what it was pooled from.
        summary: what was found, in one to three sentences of plain words, numbers included.
        caveats: how far it reaches.
        missing: what was not run; empty when nothing is missing.
        series: lines for the claim's figure: name -> columns of equal length, such as {"steps": [...], "mean": [...],
            "low": [...], "high": [...]}.
    """

    number: int
    key: str
    source: str
    statement: str
    rule: str
    verdict: Verdict
    effect: Effect | None
    parts: tuple[Part, ...] = ()
    summary: str = ""
    caveats: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    series: Mapping[str, Mapping[str, Sequence[float | None]]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
