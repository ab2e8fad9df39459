import random

import numpy as np
import pytest
from PIL import Image

from nbench.pocket.recipes.augment import SPOILERS, augment, shift
from nbench.pocket.scenes import sample_scenes


def change(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


@pytest.mark.parametrize("name", SPOILERS)
def test_every_spoiler_keeps_the_size_repeats_itself_and_spoils_more_when_stronger(name: str) -> None:
    mild, strong = [], []
    for image, _ in sample_scenes():
        low = SPOILERS[name](image, 0.0, random.Random(3))
        high = SPOILERS[name](image, 1.0, random.Random(3))
        assert low.size == high.size == image.size
        assert low.mode == high.mode == "RGB"
        assert high.tobytes() == SPOILERS[name](image, 1.0, random.Random(3)).tobytes()
        mild.append(change(image, low))
        strong.append(change(image, high))
    assert min(strong) > 0
    assert np.mean(mild) > 0
    if name != "misplace":  # a picture moved further is worse to look at, not further away in pixels
        assert np.mean(strong) > np.mean(mild)


def test_augment_is_decided_by_its_random_stream_alone() -> None:
    image = sample_scenes()[0][0]
    one = [augment(image, random.Random(seed)).tobytes() for seed in range(20)]
    assert one == [augment(image, random.Random(seed)).tobytes() for seed in range(20)]
    assert len(set(one)) > 15


def test_shift_moves_right_and_down_and_repeats_the_edge() -> None:
    pixels = np.arange(9, dtype=np.uint8).reshape(3, 3, 1).repeat(3, 2)
    moved = np.asarray(shift(Image.fromarray(pixels), 1, -1))[..., 0]
    assert moved.tolist() == [[3, 3, 4], [6, 6, 7], [6, 6, 7]]
