"""The Scorer protocol, its card, and Score: a value or a reason, never a stand-in number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from PIL import Image

Kind = Literal["reward", "judge", "realism", "diversity", "statistics"]
Orientation = Literal["higher", "lower", "none"]


@dataclass(frozen=True)
class Metric:
    """One number a scorer gives per picture.

    Attributes:
        name: column name; "" for a scorer's only metric, whose column is then the scorer's own name.
        orientation: which direction is better; "none" where neither is (drift statistics).
        unit: unit or scale in words, with the range, e.g. "cosine, -1 to 1".
    """

    name: str
    orientation: Orientation
    unit: str


@dataclass(frozen=True)
class Variant:
    """Another scale of a scorer's one number, as some code base or paper reports it; asked for as "SCORER:NAME".

    The value is factor x max(floor, x).

    Attributes:
        name: what follows the colon, e.g. "over-26".
        factor: multiplies.
        unit: of the result, with the range.
        source: who uses it.
        floor: least value of x; None for none.
    """

    name: str
    factor: float
    unit: str
    source: str
    floor: float | None = None


@dataclass(frozen=True)
class ScorerCard:
    """What a scorer's numbers are. Everything that changes a value is in here, and so in `identity`.

    Attributes:
        name: scorer name with its variant, e.g. "pocket-clip".
        kind: what sort of evidence it gives.
        version: raised when code changes move values; scores of other versions are never reused.
        metrics: the numbers it gives, at least one.
        summary: one sentence: what it measures and how.
        uses_prompt: whether the prompt changes the score.
        weights: sha256 of each weight file, or {} when there are none.
        preprocessing: how a picture reaches the network, in words.
        licence: licence of weights and code.
        source: paper, repository or recipe.
        heavy: scored in a pass of its own, with no other network in memory.
        variants: other scales that the number can be had in.
        fooled_by: canaries (see `nbench.scoring.conformance`) that it is known to rank no lower than sound pictures,
            by name. One that is fooled is a fair witness of paired differences, but unfit for absolute floors.
    """

    name: str
    kind: Kind
    version: str
    metrics: tuple[Metric, ...]
    summary: str
    uses_prompt: bool
    weights: Mapping[str, str] = field(default_factory=dict)
    preprocessing: str = ""
    licence: str = ""
    source: str = ""
    heavy: bool = False
    variants: tuple[Variant, ...] = ()
    fooled_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score:
    """One picture's score: `values` by metric name, or `reason` why there is none. Exactly one is set.

    Attributes:
        values: by metric name.
        reason: why there is none.
        truncated: whether the prompt was longer than the scorer reads; None where it reads none, or cannot tell.

    Raises:
        ValueError: both or neither are given, or a value is not finite.
    """

    values: Mapping[str, float] | None = None
    reason: str | None = None
    truncated: bool | None = None

    def __post_init__(self) -> None:
        if (self.values is None) == (self.reason is None):
            raise ValueError("a Score has either values or a reason")
        for name, value in (self.values or {}).items():
            if not math.isfinite(value):
                raise ValueError(f"metric {name!r} is {value}: report a reason instead")

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.values is not None

    @classmethod
    def of(cls, value: float, *, truncated: bool | None = None) -> Score:
        """The score of a scorer with one metric."""
        return cls(values={"": float(value)}, truncated=truncated)

    @classmethod
    def failed(cls, reason: str) -> Score:
        """No value, and why."""
        return cls(reason=reason)


class Scorer(Protocol):
    """Scores single pictures. Scores of a picture must not depend on what else is in the batch."""

    @property
    def card(self) -> ScorerCard:
        """What the numbers are; must not load weights into memory."""

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        """One Score per picture, in order. `images` are RGB; `prompts` has the same length."""
