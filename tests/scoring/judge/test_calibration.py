"""The calibration card: a judge that follows is trusted; one that guesses, leans, wavers or is silent is not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_fakes import Mind, MindBackend, make_spec
from PIL import Image
from scipy.stats import spearmanr

from nbench.errors import ScorerError
from nbench.pocket.scenes import sample_scenes
from nbench.scoring.judge.calibration import HumanPair, JudgeCheck, check_judge, correlation
from nbench.scoring.judge.calibration_pairs import PairCheck, check_pair_judge
from nbench.scoring.judge.degradations import DEGRADATIONS
from nbench.scoring.judge.scorer import JudgeScorer
from nbench.scoring.judge.spec import JudgeSpec

SCENES = sample_scenes()[:6]
ORIGINALS = [np.asarray(image, np.float64) for image, _ in SCENES]
GOOD_BAD = make_spec(scale={"good": 1, "bad": 0})
PAIRS = make_spec(mode="pairwise", scale={"1": 1, "2": 0})


def damage(image: Image.Image) -> float:
    """Distance to the nearest original: the truth about a degradation, which no judge knows."""
    pixels = np.asarray(image, np.float64)
    return min(float(np.abs(pixels - one).mean()) for one in ORIGINALS)


def seeing(pictures: Sequence[Image.Image], text: str) -> Mapping[str, float]:
    good = math.exp(-damage(pictures[0]) / 10)
    return {"good": 0.9 * good, "bad": 0.9 * (1 - good)}


def checked(mind: Mind, spec: JudgeSpec = GOOD_BAD, **arguments: object) -> JudgeCheck:
    scorer = JudgeScorer(spec, opener=lambda spec, journal: MindBackend(mind), keep_answers=False)
    return check_judge(scorer, SCENES, **arguments)  # type: ignore[arg-type]


def pairs_checked(mind: Mind) -> PairCheck:
    return check_pair_judge(MindBackend(mind), PAIRS, SCENES)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=12))
def test_the_correlation_is_scipys_and_0_without_a_difference(values: list[int]) -> None:
    ranks = np.arange(len(values), dtype=np.float64)
    found = correlation(ranks, np.array(values, np.float64))
    assert found == pytest.approx(0 if len(set(values)) == 1 else spearmanr(ranks, values).statistic)


def test_a_judge_that_sees_the_damage_is_trusted() -> None:
    found = checked(seeing)
    assert found.faults == []
    assert [one.kind for one in found.following] == list(DEGRADATIONS)
    for one in found.following:
        assert one.spearman.mean == pytest.approx(1)
        assert one.auc.mean == 1
        assert one.means[0] == pytest.approx(1)
        assert list(one.means) == sorted(one.means, reverse=True)
    assert found.mass == (pytest.approx(0.9), pytest.approx(0.9))
    assert found.asked == len(SCENES) * (1 + 5 * len(DEGRADATIONS))
    assert found.repeatability is not None
    assert found.repeatability.deviation == 0


def test_a_judge_that_takes_blur_for_quality_is_told_so() -> None:
    def smooth(pictures: Sequence[Image.Image], text: str) -> Mapping[str, float]:
        pixels = np.asarray(pictures[0], np.float64)
        good = math.exp(-float(np.abs(np.diff(pixels, axis=1)).mean()) / 50)
        return {"good": good, "bad": 1 - good}

    found = checked(smooth)
    by_kind = {one.kind: one for one in found.following}
    assert by_kind["noise"].spearman.mean > 0.9
    assert by_kind["blur"].spearman.mean < -0.9
    assert by_kind["blur"].auc.mean < 0.1
    assert any(fault.startswith("blur: Spearman -") for fault in found.faults)
    assert not any(fault.startswith("noise") for fault in found.faults)


def test_a_judge_that_says_one_thing_has_an_auc_of_a_half_and_no_correlation() -> None:
    found = checked(lambda pictures, text: {"good": 0.5, "bad": 0.5})
    for one in found.following:
        assert (one.spearman.mean, one.auc.mean) == (0, 0.5)
    assert len(found.faults) == len(DEGRADATIONS)


def test_an_item_of_a_kinds_name_is_looked_at_and_lower_is_better_there() -> None:
    spec = make_spec(
        mode="items",
        scale={"yes": 1, "no": 0},
        items=[{"name": "blur", "question": "blur"}, {"name": "odd", "question": "odd"}],
    )

    def mind(pictures: Sequence[Image.Image], text: str) -> Mapping[str, float]:
        yes = 1 - math.exp(-damage(pictures[0]) / 10)
        return {"yes": yes, "no": 1 - yes}

    found = checked(mind, spec)
    by_kind = {one.kind: one for one in found.following}
    assert (by_kind["blur"].metric, by_kind["noise"].metric) == ("blur", "sound")
    assert list(by_kind["blur"].means) == sorted(by_kind["blur"].means)
    assert by_kind["blur"].spearman.mean == pytest.approx(1)
    assert by_kind["noise"].spearman.mean == pytest.approx(1)


def test_an_item_must_tell_degraded_copies_from_originals_whatever_their_severity() -> None:
    spec = make_spec(mode="items", scale={"yes": 1, "no": 0}, items=[{"name": "blur", "question": "blur"}])

    def noticing(pictures: Sequence[Image.Image], text: str) -> Mapping[str, float]:
        return {"yes": 0.9, "no": 0.1} if damage(pictures[0]) > 0 else {"yes": 0.1, "no": 0.9}

    def blind(pictures: Sequence[Image.Image], text: str) -> Mapping[str, float]:
        return {"yes": 0.9, "no": 0.1} if damage(pictures[0]) > 8 else {"yes": 0.1, "no": 0.9}

    (blur,) = [one for one in checked(noticing, spec).following if one.kind == "blur"]
    assert blur.spearman.mean < 0.8
    assert blur.fault is None
    (blur,) = [one for one in checked(blind, spec).following if one.kind == "blur"]
    assert blur.fault is not None
    assert "AUC 0." in blur.fault


def test_alignment_is_held_against_wrong_prompts() -> None:
    spec = make_spec(mode="alignment", scale={"yes": 1, "no": 0}, question="{prompt}", rubric="")
    captions = {np.asarray(image).tobytes(): prompt.split() for image, prompt in SCENES}

    def mind(pictures: Sequence[Image.Image], text: str) -> Mapping[str, float]:
        right = captions[np.asarray(pictures[0]).tobytes()]
        share = sum(a == b for a, b in zip(right, text.split(), strict=False)) / len(right)
        return {"yes": share, "no": 1 - share}

    (one,) = checked(mind, spec).following
    assert one.kind == "wrong prompt"
    assert one.spearman.mean > 0.8
    assert one.auc_at[-1] == 1


def test_answers_that_waver_under_load_are_measured() -> None:
    calls = iter(range(10**6))

    def wavering(pictures: Sequence[Image.Image], text: str) -> Mapping[str, float]:
        shift = 0.0 if next(calls) % 5 else 0.2  # five does not divide the six pictures
        good = 0.8 * math.exp(-damage(pictures[0]) / 10) + shift
        return {"good": good, "bad": 1 - good}

    found = checked(wavering).repeatability
    assert found is not None
    assert max(found.alone, found.loaded) == pytest.approx(0.2)
    assert 0.05 < found.deviation < 0.2
    assert any("equal questions" in fault for fault in checked(wavering).faults)


def test_a_judge_that_is_often_silent_is_not_trusted_and_its_reasons_are_counted() -> None:
    def silent(pictures: Sequence[Image.Image], text: str) -> Mapping[str, float]:
        found = seeing(pictures, text)
        return found if damage(pictures[0]) < 8 else {"good": 0.1, "bad": 0.1}

    found = checked(silent)
    assert 0.3 < found.coverage < 0.95
    assert any("answers" in fault and "rating words" in fault for fault in found.faults)


def test_people_agree_or_not() -> None:
    good = SCENES[0][0]
    bad = good.convert("L").convert("RGB")
    right = [HumanPair(good, bad, "", True), HumanPair(bad, good, "", False)]
    agreed = checked(seeing, human=[*right, HumanPair(good, bad, "", False), HumanPair(good, good, "", True)]).agreement
    assert agreed is not None
    assert (agreed.mean, agreed.values) == ((2 + 0 + 0.5) / 4, 4)


def test_one_picture_is_too_few() -> None:
    with pytest.raises(ScorerError, match="at least two pictures"):
        check_pair_judge(MindBackend(seeing), PAIRS, SCENES[:1])


def pair_mind(lean: float, noise: float = 1.0) -> Mind:
    def mind(pictures: Sequence[Image.Image], text: str) -> Mapping[str, float]:
        a, b = (damage(picture) for picture in pictures)
        first = min(1.0, max(0.0, 0.5 + noise * math.atan(b - a) / 4 + lean))
        return {"1": first, "2": 1 - first}

    return mind


def test_a_judge_of_pairs_that_sees_is_trusted() -> None:
    found = pairs_checked(pair_mind(0))
    assert found.faults == []
    assert (found.accuracy.mean, found.consistency.mean) == (1, 1)
    assert found.order_bias.mean == pytest.approx(0)
    assert found.asked == len(SCENES) * len(DEGRADATIONS) * 4
    assert all(one.accuracy_from == (1, 1, 1, 1) for one in found.following)


def test_a_liking_for_the_first_picture_is_measured_and_costs_consistency_not_accuracy() -> None:
    found = pairs_checked(pair_mind(0.15, noise=0.2))
    assert found.order_bias.mean == pytest.approx(0.15)
    assert found.accuracy.mean == 1
    assert found.consistency.mean < 0.5
    text = " ".join(found.faults)
    assert "leans to the first picture by 0.15" in text
    assert "keep their winner" in text


def test_a_judge_of_pairs_that_guesses_is_right_half_of_the_time() -> None:
    found = pairs_checked(lambda pictures, text: {"1": 0.5, "2": 0.5})
    assert found.accuracy.mean == 0.5
    assert found.consistency.mean == 0
    assert len(found.faults) == 2
