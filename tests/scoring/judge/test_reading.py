"""Answers become numbers by the formula of the spec, or reasons; pictures reach every backend alike; pairs swap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_fakes import MindBackend, make_spec
from PIL import Image

from nbench.errors import ScorerError
from nbench.scoring.judge.pairs import judge_pairs
from nbench.scoring.judge.question import Answer, Picture, Unanswered
from nbench.scoring.judge.reading import questions_about, read, shown
from nbench.scoring.judge.spec import Resize

SPEC = make_spec()
PAIRS = make_spec(mode="pairwise", scale={"1": 1, "2": 0})


def test_the_value_is_the_expectation_over_the_labels() -> None:
    found = read(Answer("5", {"1": 0.1, "2": 0.0, "3": 0.0, "4": 0.2, "5": 0.5}), SPEC)
    assert found.value == pytest.approx((0.1 * 1 + 0.2 * 4 + 0.5 * 5) / 0.8)
    assert found.mass == pytest.approx(0.8)


@given(st.lists(st.floats(0.001, 0.19), min_size=5, max_size=5), st.floats(0.1, 1.0))
def test_it_stays_on_the_scale_and_ignores_what_is_off_it(shares: list[float], factor: float) -> None:
    spec = make_spec(label_mass=0)
    one = read(Answer("", dict(zip(spec.labels, shares, strict=True))), spec)
    other = read(Answer("", {label: factor * p for label, p in zip(spec.labels, shares, strict=True)}), spec)
    assert one.value is not None
    assert 1 <= one.value <= 5
    assert other.value == pytest.approx(one.value)


def test_low_label_mass_is_a_reason_that_says_how_the_answer_began() -> None:
    found = read(Answer("Sorry", {"1": 0.1, "2": 0.1, "3": 0.0, "4": 0.0, "5": 0.0}), SPEC)
    assert found.value is None
    assert found.mass == pytest.approx(0.2)
    assert "less than 0.5 of the probability" in found.reason
    assert "Sorry" in found.reason


def test_nothing_is_made_of_an_answer_without_any_mass() -> None:
    assert read(Answer("x", dict.fromkeys(SPEC.labels, 0.0)), make_spec(label_mass=0)).value is None


def test_no_answer_keeps_its_reason() -> None:
    assert read(Unanswered("the server gave 500"), SPEC).reason == "the server gave 500"


def test_a_label_that_the_server_left_out_counts_only_where_it_cannot_matter() -> None:
    known = {"1": 0.0, "2": 0.0, "3": 0.0, "5": 0.9}
    close = read(Answer("5", known, missing=0.001), SPEC)
    assert close.value == pytest.approx((0.9 * 5 + 0.0005 * 4) / 0.9005)
    far = read(Answer("5", known, missing=0.05), SPEC)
    assert far.value is None
    assert "probability of '4'" in far.reason


def test_pictures_are_resized_as_the_spec_says_and_otherwise_not() -> None:
    wide = Image.new("L", (100, 50))
    assert shown(wide, Resize()).image.size == (100, 50)
    assert shown(wide, Resize(side=64)).image.size == (64, 64)
    reduced = shown(wide, Resize(max_pixels=1250)).image
    assert reduced.size == (50, 25)
    assert reduced.mode == "RGB"
    assert shown(wide, Resize(max_pixels=5000)).image.size == (100, 50)


def test_a_question_has_all_that_the_spec_says() -> None:
    spec = make_spec(system="s", stem="It is", chat_template_kwargs={"enable_thinking": False})
    (question,) = questions_about(spec, [Picture(Image.new("RGB", (1, 1)))])
    assert (question.system, question.fixed, question.stem) == ("s", "Rate it.", "It is")
    assert question.tokens == spec.labels
    assert question.template == {"enable_thinking": False}


def lean(weight: float) -> MindBackend:
    """Prefers the brighter picture, and the first one by `weight`."""

    def mind(pictures: Sequence[Image.Image], text: str) -> Mapping[str, float]:
        a, b = (picture.getpixel((0, 0))[0] for picture in pictures)
        first = min(1.0, max(0.0, 0.5 + (a - b) / 510 + weight))
        return {"1": first, "2": 1 - first}

    return MindBackend(mind)


def pair(a: int, b: int) -> tuple[Picture, Picture]:
    return Picture(Image.new("RGB", (2, 2), (a, 0, 0))), Picture(Image.new("RGB", (2, 2), (b, 0, 0)))


def test_a_pair_is_asked_in_both_orders_and_a_liking_for_one_place_cancels() -> None:
    backend = lean(0.1)
    (found,) = judge_pairs(backend, PAIRS, [pair(153, 102)])
    assert len(backend.asked) == 2
    assert found.preference == pytest.approx(0.6)
    assert found.first_place == pytest.approx(0.6)


def test_a_strong_liking_for_one_place_is_inconsistent() -> None:
    (found,) = judge_pairs(lean(0.4), PAIRS, [pair(120, 100)])
    assert found.consistent is False
    (clear,) = judge_pairs(lean(0.1), PAIRS, [pair(255, 0)])
    assert clear.consistent is True


def test_judges_of_one_picture_judge_no_pairs() -> None:
    with pytest.raises(ScorerError, match="pairs need one of mode pairwise"):
        judge_pairs(lean(0), SPEC, [pair(1, 2)])
