"""The reward of a picture: a weighted sum of scorers' metrics, or a reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nbench.errors import ScorerError, did_you_mean
from nbench.normguard.config import RewardConfig
from nbench.runs.plan import SCORE_BATCH
from nbench.runs.score import score_safely
from nbench.scoring.registry import get_scorer
from nbench.scoring.scorer import Scorer

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Rewards:
    """Rewards of some pictures.

    Attributes:
        total: the weighted sum, float64 [n]; NaN for a picture of which any term failed.
        terms: each term, unweighted, by "scorer" or "scorer:metric", float64 [n], NaN where it failed.
        reasons: why a picture has no reward, or None.
    """

    total: Tensor
    terms: dict[str, Tensor]
    reasons: list[str | None]


class RewardModel:
    """The configured scorers, each asked once per picture however many of its metrics are used."""

    def __init__(self, terms: Sequence[RewardConfig], device: str, scorers: dict[str, Scorer] | None = None) -> None:
        """Look the scorers up; their weights are loaded at the first picture.

        Args:
            terms: what is summed.
            device: torch device string of the scorers.
            scorers: those to use in place of the registry's, by name.

        Raises:
            ScorerError: a scorer or one of its metrics is unknown.
        """
        self.terms = tuple(terms)
        given = scorers or {}
        self.scorers = {
            name: given.get(name) or get_scorer(name, device) for name in dict.fromkeys(t.scorer for t in terms)
        }
        for term in self.terms:
            names = [metric.name for metric in self.scorers[term.scorer].card.metrics]
            if term.metric not in names:
                wanted = f"metric {term.metric!r}" if term.metric else "metric without a name"
                raise ScorerError(
                    f"scorer {term.scorer!r} has no {wanted}: name one of its metrics in rewards."
                    f"{did_you_mean(term.metric, [name for name in names if name])}"
                )

    @staticmethod
    def name(term: RewardConfig) -> str:
        """What logs call a term."""
        return f"{term.scorer}:{term.metric}" if term.metric else term.scorer

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Rewards:
        """Rewards of pictures; a scorer that raises costs only the picture that it raised on.

        Raises:
            NbenchError: a scorer cannot work at all.
        """
        parts = [slice(start, start + SCORE_BATCH) for start in range(0, len(images), SCORE_BATCH)]
        found = {
            name: [score for part in parts for score in score_safely(scorer, images[part], prompts[part])]
            for name, scorer in self.scorers.items()
        }
        reasons: list[str | None] = [None] * len(images)
        terms = {}
        total = torch.zeros(len(images), dtype=torch.float64)
        for term in self.terms:
            values = torch.full((len(images),), math.nan, dtype=torch.float64)
            for i, score in enumerate(found[term.scorer]):
                if score.values is None:
                    reasons[i] = reasons[i] or f"{term.scorer}: {score.reason}"
                else:
                    values[i] = float(score.values[term.metric])
            terms[self.name(term)] = values
            total = total + term.weight * values
        return Rewards(total, terms, reasons)
