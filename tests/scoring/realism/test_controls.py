"""Controls change a picture the way their names say, and leave its size."""

import random

import numpy as np
import pytest
from PIL import Image

from nbench.pocket.scenes import sample_scenes
from nbench.scoring.realism.controls import CONTROLS, add_noise, blur, disturb, recompress, rescale, wreck


def picture(side: int = 96) -> Image.Image:
    return sample_scenes()[0][0].resize((side, side), Image.Resampling.BICUBIC)


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float64)


def detail(image: Image.Image) -> float:
    return float(np.abs(np.diff(array(image), axis=0)).mean() + np.abs(np.diff(array(image), axis=1)).mean())


def test_the_controls_are_those_of_the_design() -> None:
    assert list(CONTROLS) == [
        "noise 5", "noise 15", "blur 1", "blur 2", "jpeg 95", "jpeg 75", "jpeg 50", "resize 0.75", "resize 0.5",
    ]  # fmt: skip


@pytest.mark.parametrize("name", list(CONTROLS))
@pytest.mark.parametrize("size", [(64, 64), (101, 57)])
def test_every_control_changes_the_picture_and_keeps_its_size(name: str, size: tuple[int, int]) -> None:
    image = picture().resize(size)
    changed = CONTROLS[name](image, random.Random(0))
    assert changed.size == size and changed.mode == "RGB"
    assert not np.array_equal(array(changed), array(image))
    assert np.array_equal(array(changed), array(CONTROLS[name](image, random.Random(0))))


def test_noise_has_the_deviation_it_says() -> None:
    grey = Image.new("RGB", (128, 128), (128, 128, 128))
    assert array(add_noise(grey, 15, random.Random(1))).std() == pytest.approx(15, rel=0.02)


def test_stronger_blur_compression_and_reduction_leave_less_detail() -> None:
    image = picture()
    for milder, stronger in ((blur(image, 1), blur(image, 2)), (rescale(image, 0.75), rescale(image, 0.5))):
        assert detail(image) > detail(milder) > detail(stronger)
    errors = [np.abs(array(recompress(image, q)) - array(image)).mean() for q in (95, 75, 50)]
    assert errors == sorted(errors)


def test_disturbances_are_various_and_repeatable() -> None:
    image = picture(64)
    results = [array(disturb(image, random.Random(seed))) for seed in range(12)]
    assert len({result.tobytes() for result in results}) == 12
    assert np.array_equal(results[3], array(disturb(image, random.Random(3))))


@pytest.mark.parametrize("size", [(64, 64), (101, 57), (16, 16)])
def test_wrecks_of_every_kind_keep_the_size_and_are_far_from_the_picture(size: tuple[int, int]) -> None:
    image = picture().resize(size)
    results = [wreck(image, random.Random(seed)) for seed in range(30)]
    assert all(result.size == size and result.mode == "RGB" for result in results)
    distances = [np.abs(array(result) - array(image)).mean() for result in results]
    assert min(distances) > 5 and sorted(distances)[15] > 20
    assert len({array(result).tobytes() for result in results}) == 30
    assert np.array_equal(array(results[3]), array(wreck(image, random.Random(3))))
