from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageStat

from nbench.errors import ScorerError
from nbench.pocket.scenes import sample_scenes
from nbench.scoring.conformance import canaries, check_scorer
from nbench.scoring.registry import BUILT_IN, get_any_scorer
from nbench.scoring.scorer import Metric, Orientation, Score, ScorerCard
from nbench.scoring.weights import only_local
from nbench.testing import FakeSetScorer


@dataclass
class Made:
    """A scorer made of a function (images, prompts) -> scores."""

    function: Callable[[Sequence[Image.Image], Sequence[str]], list[Score]]
    orientation: Orientation = "none"
    uses_prompt: bool = False
    fooled_by: tuple[str, ...] = ()

    @property
    def card(self) -> ScorerCard:
        metrics = (Metric("", self.orientation, "made up"),)
        return ScorerCard("made", "reward", "1", metrics, "made up", self.uses_prompt, fooled_by=self.fooled_by)

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        return self.function(images, prompts)


def brightness(image: Image.Image) -> float:
    return float(np.mean(ImageStat.Stat(image).mean))


def sharpness(image: Image.Image) -> float:
    pixels = np.asarray(image.convert("RGB"), np.float64)
    return float(np.abs(np.diff(pixels, axis=1, append=pixels[:, -1:])).mean())


def failures(scorer: Made) -> set[str]:
    return {check.name for check in check_scorer(scorer).checks if check.passed is False}


@pytest.mark.parametrize("name", [hook.name for hook in BUILT_IN])
def test_every_built_in_that_can_run_here_passes(name: str) -> None:
    try:
        with only_local():
            scorer = get_any_scorer(name)
    except ScorerError:
        pytest.skip("its weights are not here, and no test downloads them")
    report = check_scorer(scorer)
    assert report.passed, [check for check in report.checks if check.passed is False]
    assert {"determinism", "order independence"} <= {check.name for check in report.checks}
    assert report.canaries["as drawn"] is not None


def test_a_sound_scorer_without_orientation_passes() -> None:
    assert failures(Made(lambda images, _: [Score.of(brightness(image)) for image in images])) == set()


def test_a_scorer_that_rolls_dice_fails_determinism() -> None:
    dice = np.random.default_rng(0)
    assert "determinism" in failures(Made(lambda images, _: [Score.of(dice.random()) for _ in images]))


def test_a_scorer_that_compares_with_the_batch_fails_batch_independence() -> None:
    def relative(images: Sequence[Image.Image], _: Sequence[str]) -> list[Score]:
        values = [brightness(image) for image in images]
        return [Score.of(value - sum(values) / len(values)) for value in values]

    found = failures(Made(relative))
    assert "batch independence" in found
    assert "order independence" not in found


def test_a_scorer_that_looks_at_the_place_in_the_batch_fails_order_independence() -> None:
    assert "order independence" in failures(Made(lambda images, _: [Score.of(i) for i, _ in enumerate(images)]))


def test_a_scorer_that_rewards_noise_or_blur_fails_that_canary() -> None:
    higher = Made(lambda images, _: [Score.of(sharpness(image)) for image in images], "higher")
    assert failures(higher) == {"canary: noise", "canary: saturated"}
    lower = Made(higher.function, "lower")
    assert failures(lower) == {"canary: black", "canary: white", "canary: blurred"}


def test_a_scorer_that_claims_to_read_the_prompt_must() -> None:
    blind = Made(lambda images, _: [Score.of(brightness(image)) for image in images], uses_prompt=True)
    assert failures(blind) == {"reads the prompt"}
    nosy = Made(lambda _, prompts: [Score.of(len(prompt)) for prompt in prompts])
    assert "ignores the prompt" in failures(nosy)


def test_a_wrong_number_of_scores_ends_the_check() -> None:
    report = check_scorer(Made(lambda images, _: [Score.of(1.0)]))
    assert [(check.name, check.passed) for check in report.checks] == [("one score per picture", False)]
    assert not report.passed


def test_metrics_other_than_the_card_s_fail() -> None:
    assert failures(Made(lambda images, _: [Score(values={"other": 1.0}) for _ in images])) == {"one score per picture"}


def test_a_scorer_that_refuses_a_canary_is_not_failed_for_it() -> None:
    def picky(images: Sequence[Image.Image], _: Sequence[str]) -> list[Score]:
        values = [sharpness(image) for image in images]
        return [Score.of(value) if value < 25 else Score.failed("this is noise") for value in values]

    report = check_scorer(Made(picky, "higher", fooled_by=("saturated",)))
    assert report.passed
    assert report.canaries["noise"] is None
    assert next(check for check in report.checks if check.name == "canary: noise").passed is None


def test_canaries_keep_size_and_differ_from_the_pictures() -> None:
    pictures = sample_scenes()
    for name, spoiled in canaries(pictures).items():
        assert len(spoiled) == len(pictures)
        for (image, prompt), (canary, other) in zip(pictures, spoiled, strict=True):
            assert canary.size == image.size
            assert (canary.tobytes(), other) != (image.tobytes(), prompt), name


def named(report_of: Made | FakeSetScorer) -> dict[str, bool | None]:
    return {check.name: check.passed for check in check_scorer(report_of).checks}


def test_a_declared_canary_does_not_fail_a_scorer_and_an_idle_declaration_does() -> None:
    function = Made(lambda images, _: [Score.of(sharpness(image)) for image in images], "higher").function
    assert failures(Made(function, "higher", fooled_by=("noise", "saturated"))) == set()
    assert named(Made(function, "higher", fooled_by=("noise", "saturated")))["canary: noise"] is None
    assert failures(Made(function, "higher", fooled_by=("noise", "saturated", "black"))) == {"declared canaries"}


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16"])
def test_a_scorer_in_half_precision_is_found_out(dtype: Any) -> None:
    def half(value: float) -> float:
        if dtype == "bfloat16":
            return float((np.array([value], np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)[0])
        return float(dtype(value))

    function = Made(lambda images, _: [Score.of(half(brightness(image))) for image in images]).function
    assert failures(Made(function)) == {"more than half precision"}


def test_counts_are_not_taken_for_half_precision() -> None:
    scorer = Made(lambda images, _: [Score.of(float(int(brightness(image)) % 2)) for image in images])
    assert named(scorer)["more than half precision"] is None


def test_a_scorer_that_raises_on_an_odd_input_fails() -> None:
    def fussy(images: Sequence[Image.Image], _: Sequence[str]) -> list[Score]:
        if any(image.mode != "RGB" for image in images):
            raise ValueError("not RGB")
        return [Score.of(brightness(image)) for image in images]

    report = check_scorer(Made(fussy))
    (odd,) = [check for check in report.checks if check.name.startswith("odd input")]
    assert odd.passed is False and "grey picture: raised ValueError: not RGB" in odd.detail


def test_a_sound_set_scorer_passes() -> None:
    report = check_scorer(FakeSetScorer())
    assert report.passed
    assert {check.name for check in report.checks if check.passed} >= {
        "determinism", "order independence", "a single picture", "copies of one picture"
    }  # fmt: skip


def test_a_set_scorer_that_looks_at_the_order_or_prefers_copies_fails() -> None:
    class FirstMinusLast(FakeSetScorer):
        def score_set(self, images: Sequence[Image.Image]) -> Score:
            return Score.of(-abs(brightness(images[0])) + brightness(images[-1]) - 100)

    found = {name for name, passed in named(FirstMinusLast()).items() if passed is False}
    assert {"order independence", "a single picture"} <= found

    class Alike(FakeSetScorer):
        def score_set(self, images: Sequence[Image.Image]) -> Score:
            score = super().score_set(images)
            return Score.of(-score.values[""]) if score.values else score

    assert {name for name, passed in named(Alike()).items() if passed is False} == {"copies of one picture"}
