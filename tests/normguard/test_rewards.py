"""The reward of a picture: a weighted sum, or none with the reason; each scorer is asked once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from nbench.errors import InfrastructureError, ScorerError
from nbench.normguard.config import RewardConfig
from nbench.normguard.rewards import RewardModel
from nbench.scoring.scorer import Metric, Score, ScorerCard
from nbench.testing import FakeScorer

IMAGES = [Image.new("RGB", (4, 4), (shade, shade, shade)) for shade in (0, 51, 102, 255)]
PROMPTS = ["a", "b", "c", "d"]


class TwoMetrics:
    """Gives the prompt's length and its double; fails, raises, or gives up on demand."""

    def __init__(self, fail: Sequence[str] = (), raised: Exception | None = None, on: str = "") -> None:
        self.fail, self.raised, self.on = fail, raised, on
        self.calls: list[int] = []
        self.card = ScorerCard(
            name="two",
            kind="reward",
            version="1",
            metrics=(Metric("length", "higher", "letters"), Metric("double", "lower", "letters")),
            summary="For tests.",
            uses_prompt=True,
        )

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        self.calls.append(len(images))
        if self.raised is not None and self.on in prompts:
            raise self.raised
        return [
            Score.failed("told to")
            if prompt in self.fail
            else Score(values={"length": float(len(prompt)), "double": 2.0 * len(prompt)})
            for prompt in prompts
        ]


def model(*terms: RewardConfig, **scorers: Any) -> RewardModel:
    return RewardModel(terms, "cpu", scorers)


def test_the_total_is_the_weighted_sum_of_its_terms() -> None:
    terms = [
        RewardConfig(scorer="fake", weight=0.5),
        RewardConfig(scorer="two", metric="length"),
        RewardConfig(scorer="two", metric="double", weight=-2),
    ]
    found = model(*terms, fake=FakeScorer("fake"), two=TwoMetrics()).score(IMAGES, PROMPTS)
    plain = [score.values[""] for score in FakeScorer("fake").score(IMAGES, PROMPTS) if score.values]
    assert found.terms.keys() == {"fake", "two:length", "two:double"}
    assert found.terms["fake"].tolist() == plain
    assert found.terms["two:length"].tolist() == [1, 1, 1, 1]
    assert found.total.tolist() == pytest.approx([0.5 * value + 1 - 4 for value in plain], abs=1e-12)
    assert found.reasons == [None] * 4


def test_each_scorer_is_asked_once_for_all_its_metrics() -> None:
    two = TwoMetrics()
    model(RewardConfig(scorer="two", metric="length"), RewardConfig(scorer="two", metric="double"), two=two).score(
        IMAGES, PROMPTS
    )
    assert two.calls == [4]


def test_a_term_that_failed_leaves_its_picture_without_a_reward_and_with_a_reason() -> None:
    found = model(
        RewardConfig(scorer="two", metric="length"),
        RewardConfig(scorer="fake", weight=0.0),
        two=TwoMetrics(fail=["c"]),
        fake=FakeScorer("fake", fail_prompts=["b", "c"]),
    ).score(IMAGES, PROMPTS)
    assert [math.isnan(value) for value in found.total.tolist()] == [False, True, True, False]
    assert [math.isnan(value) for value in found.terms["two:length"].tolist()] == [False, False, True, False]
    assert found.reasons[1] == "fake: fake was told to fail on this prompt"
    assert found.reasons[2] == "two: told to"  # the first of two
    assert (found.reasons[0], found.reasons[3]) == (None, None)
    assert found.total[0] == 1 and found.total[3] == 1


def test_a_scorer_that_raises_costs_only_the_picture_it_raised_on() -> None:
    two = TwoMetrics(raised=RuntimeError("no such letter"), on="b")
    found = model(RewardConfig(scorer="two", metric="length"), two=two).score(IMAGES, PROMPTS)
    assert [math.isnan(value) for value in found.total.tolist()] == [False, True, False, False]
    assert found.reasons[1] == "two: two raised RuntimeError: no such letter"


def test_a_value_that_is_no_number_is_a_failure() -> None:
    class Infinite(FakeScorer):
        def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
            return [Score.of(math.inf if prompt == "d" else 1.0) for prompt in prompts]

    found = model(RewardConfig(scorer="fake"), fake=Infinite("fake")).score(IMAGES, PROMPTS)
    assert [math.isnan(value) for value in found.total.tolist()] == [False, False, False, True]
    assert "inf" in str(found.reasons[3])


def test_a_scorer_that_cannot_work_at_all_ends_the_training() -> None:
    two = TwoMetrics(raised=InfrastructureError("the server is gone"), on="a")
    with pytest.raises(InfrastructureError, match="the server is gone"):
        model(RewardConfig(scorer="two", metric="length"), two=two).score(IMAGES, PROMPTS)


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        ("", "scorer 'two' has no metric without a name: name one of its metrics in rewards. Known: double, length."),
        ("lenght", "scorer 'two' has no metric 'lenght': name one of its metrics in rewards. Did you mean 'length'?"),
    ],
)
def test_unknown_metrics_are_refused_before_anything_is_scored(metric: str, sentence: str) -> None:
    two = TwoMetrics()
    with pytest.raises(ScorerError) as caught:
        model(RewardConfig(scorer="two", metric=metric), two=two)
    assert str(caught.value) == sentence
    assert two.calls == []


def test_unknown_scorers_are_refused_and_the_nearest_is_named() -> None:
    with pytest.raises(ScorerError, match="pocket-clip"):
        model(RewardConfig(scorer="pocket-clp"))


def test_scorers_of_the_registry_are_found_by_name() -> None:
    halves = [Image.new("RGB", (32, 32)) for _ in IMAGES]
    for half, image in zip(halves, IMAGES, strict=True):
        half.paste(image.resize((32, 16)), (0, 16))
    term = RewardConfig(scorer="image-stats", metric="rms_contrast", weight=2)
    rewards = model(term).score(halves, PROMPTS)
    assert rewards.reasons == [None] * 4
    assert rewards.total.tolist() == (2 * rewards.terms["image-stats:rms_contrast"]).tolist()
    assert rewards.total.diff().min() > 0
