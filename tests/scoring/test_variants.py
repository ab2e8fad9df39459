"""Named scales of a scorer's number."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from PIL import Image

from nbench.errors import ScorerError
from nbench.scoring import registry
from nbench.scoring.differentiable import DifferentiableReward
from nbench.scoring.registry import card_identity, get_any_scorer
from nbench.scoring.scorer import Metric, Score, ScorerCard, Variant
from nbench.scoring.variants import in_variant

CARD = ScorerCard(
    name="made",
    kind="reward",
    version="1",
    metrics=(Metric("", "higher", "cosine"),),
    summary="Made up.",
    uses_prompt=True,
    variants=(
        Variant("over-4", 0.25, "cosine / 4", "a paper"),
        Variant("clipped", 100.0, "0 to 100", "a library", floor=0.0),
    ),
)


class Made:
    card = CARD
    closed = False

    def score(self, images: Any, prompts: Any) -> list[Score]:
        return [Score.of(float(p), truncated=True) if p else Score.failed("no") for p in prompts]

    def close(self) -> None:
        self.closed = True


class Differentiable(Made):
    def reward(self, images: torch.Tensor, prompts: Any) -> torch.Tensor:
        return images.mean((1, 2, 3)) - 0.5


PICTURES = [Image.new("RGB", (2, 2))] * 3


def test_values_are_scaled_and_failures_stay() -> None:
    scores = in_variant(Made(), "over-4").score(PICTURES, ["2", "", "-8"])
    assert [score.values for score in scores] == [{"": 0.5}, None, {"": -2.0}]
    assert scores[1].reason == "no" and scores[0].truncated is True
    scores = in_variant(Made(), "clipped").score(PICTURES, ["2", "0.5", "-8"])
    assert [score.values for score in scores] == [{"": 200.0}, {"": 50.0}, {"": 0.0}]


def test_a_variant_is_another_scorer_to_the_store() -> None:
    plain, scaled = Made(), in_variant(Made(), "over-4")
    assert scaled.card.name == "made:over-4" and scaled.card.metrics[0].unit == "cosine / 4"
    assert card_identity(scaled.card) != card_identity(plain.card)
    assert card_identity(scaled.card) != card_identity(in_variant(Made(), "clipped").card)


def test_variants_on_a_card_do_not_change_its_own_identity() -> None:
    assert card_identity(CARD) == card_identity(ScorerCard(**{**vars(CARD), "variants": (), "heavy": True}))


def test_an_unknown_variant_names_the_nearest() -> None:
    with pytest.raises(ScorerError, match=r"no variant 'over-5'. Did you mean 'over-4'\?"):
        in_variant(Made(), "over-5")


def test_a_variant_is_differentiable_when_the_scorer_is() -> None:
    assert not isinstance(in_variant(Made(), "over-4"), DifferentiableReward)
    reward = in_variant(Differentiable(), "clipped")
    assert isinstance(reward, DifferentiableReward)
    images = torch.tensor([0.25, 0.75])[:, None, None, None].expand(2, 3, 1, 1).clone().requires_grad_()
    found = reward.reward(images, ["a", "b"])
    assert found.tolist() == [0.0, 25.0]
    found.sum().backward()
    assert images.grad is not None and images.grad[0].eq(0).all() and images.grad[1].gt(0).all()


def test_closing_a_variant_closes_the_scorer() -> None:
    scorer = Made()
    in_variant(scorer, "over-4").close()  # type: ignore[attr-defined]
    assert scorer.closed


@dataclass
class Hook:
    name: str = "made"
    value: str = "tests"

    def load(self) -> Any:
        return lambda device: Made()


def test_the_registry_knows_variants_by_a_colon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", (Hook(),))
    assert get_any_scorer("made:over-4").card.name == "made:over-4"
    with pytest.raises(ScorerError, match="no variant"):
        get_any_scorer("made:over")
