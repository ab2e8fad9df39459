"""Scorers of sets: one number for all pictures of a prompt over seeds, such as how various they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from nbench.scoring.scorer import Score, ScorerCard

if TYPE_CHECKING:
    from PIL import Image


@runtime_checkable
class SetScorer(Protocol):
    """Scores the pictures of one prompt together. The order of the pictures must not matter.

    One that also has `score_sets(sets) -> list[Score]` is given several sets at once.

    It is registered as any scorer is, and asked for by name in the same lists; a run calls it once per checkpoint, step
    count and prompt, with the pictures of all seeds.
    """

    @property
    def card(self) -> ScorerCard:
        """What the numbers are."""

    def score_set(self, images: Sequence[Image.Image]) -> Score:
        """The set's Score; `images` are RGB, and a reason is given for fewer than two."""
