"""Degradations: nothing at 0, worse with severity, and at every size alike."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from nbench.pocket.scenes import sample_scenes
from nbench.scoring.judge.degradations import DEGRADATIONS, SEVERITIES, degrade, wrong_prompt

SCENES = [image for image, _ in sample_scenes()]


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_severity_takes_a_picture_further_from_what_it_was(kind: str) -> None:
    for scene in SCENES[:4]:
        at = [distance(scene, degrade(scene, kind, level, random.Random(1))) for level in (0, *SEVERITIES)]
        assert at[0] == 0
        assert at == sorted(at)
        assert len(set(at)) == len(at)


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_size_stays_and_a_seed_gives_the_same_picture_again(kind: str) -> None:
    picture = SCENES[0].resize((96, 48)).convert("L")
    one, other = (degrade(picture, kind, 2.5, random.Random("x")) for _ in range(2))
    assert (one.size, one.mode) == ((96, 48), "RGB")
    assert distance(one, other) == 0


def test_a_wrong_prompt_loses_more_of_its_words_with_severity() -> None:
    right, other = "two red foxes beside one small green car", "a big yellow sun over seven tall blue trees now"
    told = [wrong_prompt(right, other, level, random.Random(1)).split() for level in range(6)]
    assert [len(set(words) & set(right.split())) for words in told] == [8, 6, 5, 3, 2, 0]
    assert wrong_prompt(right, other, 5, random.Random(1)) == other
    assert wrong_prompt(right, "", 5, random.Random(1)) == ""
