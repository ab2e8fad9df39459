"""When a detector is fit for a claim."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from nbench.errors import ScorerError
from nbench.scoring.realism.check import check_detector
from nbench.scoring.scorer import Kind, Metric, Score, ScorerCard
from nbench.stats.bootstrap import Interval


class ByFormula:
    """A detector whose log-odds are a formula of the pixels in [0, 1]."""

    def __init__(self, formula: Callable[[np.ndarray], float], *, kind: Kind = "realism", refuse: bool = False) -> None:
        self.formula, self.refuse = formula, refuse
        self.card = ScorerCard("by-formula", kind, "1", (Metric("", "higher", "log-odds"),), "A formula.", False)

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        arrays = [np.asarray(image, np.float64) / 255 for image in images]
        return [
            Score.failed("too dark") if self.refuse and array.mean() < 0.3 else Score.of(self.formula(array))
            for array in arrays
        ]


def sharpness(array: np.ndarray) -> float:
    """Softer is "more real": what many detectors do."""
    return -10 * float(np.abs(np.diff(array, axis=0)).mean())


def mean(array: np.ndarray) -> float:
    return 10 * float(array.mean())


def pictures(level: int, count: int, spread: int = 40) -> list[Image.Image]:
    draw = np.random.default_rng(level)
    return [
        Image.fromarray((level + draw.integers(-spread, spread + 1, (24, 24, 3))).clip(0, 255).astype(np.uint8))
        for _ in range(count)
    ]


def names(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def test_a_detector_that_knows_real_and_is_moved_by_no_control_is_fit() -> None:
    found = check_detector(ByFormula(mean), pictures(90, 20), names(20), real=pictures(160, 20), real_groups=names(20))
    assert found.auc is not None and found.auc.value == 1.0 and found.informative
    assert found.verdict(0.5) == ("fit", [])
    assert found.real_mean == pytest.approx(10 * 160 / 255, abs=0.1)
    assert found.fake_mean == pytest.approx(10 * 90 / 255, abs=0.1)


def test_a_detector_that_takes_blur_for_realism_is_unfit_below_that_rise() -> None:
    real = pictures(128, 20, spread=5)
    found = check_detector(ByFormula(sharpness), pictures(128, 20), names(20), real=real, real_groups=names(20))
    assert found.informative  # it knows real from generated, and still cannot support the claim
    rises = {effect.name: effect.rise.mean for effect in found.controls}
    assert rises["blur 2"] > rises["blur 1"] > 0.5 > 0 > rises["noise 15"]
    fitness, reasons = found.verdict(0.5)
    assert fitness == "unfit"
    assert any(reason.startswith("blur 2 alone raises it by ") for reason in reasons)
    assert not any("noise" in reason for reason in reasons)
    assert found.verdict(rises["blur 2"] + 1)[0] == "fit"
    assert found.greatest.name == "blur 2"


def test_an_uninformative_detector_is_unfit_for_any_claim() -> None:
    found = check_detector(ByFormula(mean), pictures(128, 30), names(30), real=pictures(128, 30), real_groups=names(30))
    assert found.informative is False
    fitness, reasons = found.verdict(None)
    assert fitness == "unfit" and reasons[0].startswith("it is uninformative here: AUC 0.")


def test_without_real_pictures_nothing_is_decided() -> None:
    found = check_detector(ByFormula(mean), pictures(90, 10), names(10))
    assert found.auc is None and found.informative is None
    fitness, reasons = found.verdict(1.0)
    assert fitness == "undecided" and reasons[0].startswith("no real pictures were given")


def test_biased_folders_leave_it_undecided() -> None:
    found = check_detector(
        ByFormula(mean), pictures(90, 20), names(20), real=pictures(160, 20), real_groups=names(20), biases=["sizes"]
    )
    assert found.verdict(0.5) == ("undecided", ["the AUC cannot be trusted: sizes"])


def test_an_interval_that_reaches_over_the_claim_leaves_it_undecided() -> None:
    found = check_detector(ByFormula(mean), pictures(90, 20), names(20), real=pictures(160, 20), real_groups=names(20))
    worst = found.greatest
    fitness, reasons = found.verdict((worst.rise.mean + worst.rise.high) / 2)
    assert fitness == "undecided" and any(reason.startswith(f"{worst.name} may raise it") for reason in reasons)


def test_a_rise_that_may_be_none_decides_nothing() -> None:
    found = check_detector(ByFormula(mean), pictures(90, 20), names(20), real=pictures(160, 20), real_groups=names(20))
    assert found.verdict(0.5, Interval(0.5, 0.2, 0.8, 10, 10)) == ("fit", [])
    fitness, reasons = found.verdict(0.5, Interval(0.5, -0.1, 1.1, 10, 10))
    assert (fitness, reasons) == ("undecided", ["the rise itself is not shown: its interval is -0.100 to +1.100"])
    assert found.verdict(0.5, Interval(0.5, float("nan"), float("nan"), 1, 10))[0] == "undecided"


def test_failures_are_counted_and_their_pictures_left_out() -> None:
    fake = pictures(90, 10) + pictures(40, 3)
    found = check_detector(ByFormula(mean, refuse=True), fake, names(13))
    assert found.failures["too dark"] >= 3
    assert all(effect.rise.values == 10 for effect in found.controls)
    with pytest.raises(ScorerError, match="gave 0 of 3 pictures a score: too dark"):
        check_detector(ByFormula(mean, refuse=True), pictures(40, 3), names(3))


def test_only_a_realism_scorer_can_be_checked() -> None:
    with pytest.raises(ScorerError, match="is of kind reward"):
        check_detector(ByFormula(mean, kind="reward"), pictures(90, 3), names(3))
