"""Other scales of a scorer's number, as named transforms: "pickscore-v1:over-26" is PickScore as RL codes report it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nbench.errors import ScorerError, did_you_mean
from nbench.scoring.scorer import Metric, Score, Scorer, ScorerCard, Variant

if TYPE_CHECKING:
    import torch
    from PIL import Image


def in_variant(scorer: Any, name: str) -> Scorer:
    """`scorer` in another scale; differentiable when the scorer is.

    Raises:
        ScorerError: it has no variant of this name.
    """
    card: ScorerCard = scorer.card
    found = {variant.name: variant for variant in card.variants}
    if name not in found:
        hint = did_you_mean(name, found) or " It has none."
        raise ScorerError(f"scorer {card.name!r} has no variant {name!r}.{hint}")
    scaled = _Differentiable if hasattr(scorer, "reward") else _Scaled
    return scaled(scorer, found[name])


class _Scaled:
    """A scorer whose one number is scaled; its failures and what it says of prompts stay."""

    def __init__(self, scorer: Any, variant: Variant) -> None:
        self._scorer, self._variant = scorer, variant
        card: ScorerCard = scorer.card
        (metric,) = card.metrics
        floor = "" if variant.floor is None else f" of what is above {variant.floor:g}"
        self._card = replace(
            card,
            name=f"{card.name}:{variant.name}",
            metrics=(Metric(metric.name, metric.orientation, variant.unit),),
            summary=f"{card.summary} Here times {variant.factor:g}{floor}, as in {variant.source}.",
            preprocessing=f"{card.preprocessing}; the value times {variant.factor!r}{floor}",
            variants=(),
        )

    @property
    def card(self) -> ScorerCard:
        """What the numbers are."""
        return self._card

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        """The scorer's scores, scaled."""
        return [self._scale(score) for score in self._scorer.score(images, prompts)]

    def close(self) -> None:
        """Let go of the network."""
        close = getattr(self._scorer, "close", None)
        if close is not None:
            close()

    def _scale(self, score: Score) -> Score:
        if score.values is None:
            return score
        low = float("-inf") if self._variant.floor is None else self._variant.floor
        values = {name: self._variant.factor * max(low, value) for name, value in score.values.items()}
        return replace(score, values=values)


class _Differentiable(_Scaled):
    def reward(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """The scaled number as a differentiable function of the pixels; see `nbench.scoring.differentiable`."""
        value: torch.Tensor = self._scorer.reward(images, prompts)
        if self._variant.floor is not None:
            value = value.clamp_min(self._variant.floor)
        return self._variant.factor * value
