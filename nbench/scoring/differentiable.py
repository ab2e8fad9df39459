"""Rewards that can be differentiated with respect to the picture, for analyses that go back through the sampler.

A scorer is one when it also has the method `reward`; nothing else is registered, so a plug-in's scorer joins by adding
that method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from nbench.errors import NbenchError, ScorerError
from nbench.scoring.registry import get_scorer, list_scorers
from nbench.scoring.scorer import ScorerCard
from nbench.scoring.weights import only_local

if TYPE_CHECKING:
    import torch


@runtime_checkable
class DifferentiableReward(Protocol):
    """A scorer whose one number is also a differentiable function of the pixels."""

    @property
    def card(self) -> ScorerCard:
        """What the numbers are; the same card as the scorer's."""

    def reward(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Reward of each picture.

        Args:
            images: float [B, 3, H, W] in [0, 1]; gets the gradient. They are not rounded to bytes, as files are.
            prompts: B texts.

        Returns:
            float32 [B] on the reward's device; row i depends on picture i alone.

        Raises:
            ScorerError: a prompt has no score; its reason is in the message.
        """


def get_differentiable(name: str, device: str = "cpu") -> DifferentiableReward:
    """The differentiable reward of this name.

    Args:
        name: of a scorer.
        device: a torch device string.

    Raises:
        ScorerError: the scorer is unknown, or cannot be differentiated (the message names those that can).
    """
    scorer = get_scorer(name, device)
    if isinstance(scorer, DifferentiableReward):
        return scorer
    known = ", ".join(differentiable_scorers()) or "none"
    raise ScorerError(f"scorer {name!r} cannot be differentiated with respect to the picture: use one of {known}.")


def differentiable_scorers() -> list[str]:
    """Names of the scorers that are differentiable and can run here, sorted; nothing is loaded or downloaded."""
    found = []
    for name in list_scorers():
        try:
            with only_local():
                scorer = get_scorer(name)
        except NbenchError:
            continue  # a broken plug-in is reported where it is asked for
        if isinstance(scorer, DifferentiableReward):
            found.append(name)
    return found
