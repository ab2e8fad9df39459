"""Which pixels a detector sees."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from nbench.scoring.realism.views import View


def ramp(width: int, height: int) -> Image.Image:
    """Red is x, green is y."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack((x % 256, y % 256, 0 * x), -1).astype(np.uint8))


def corner(image: Image.Image) -> tuple[int, ...]:
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel[:2]


def test_a_crop_keeps_pixels_as_they_are_and_takes_the_centre() -> None:
    (cut,) = View("crop", 32).cuts(ramp(100, 60))
    assert cut.size == (32, 32) and corner(cut) == (34, 14)


def test_a_grid_reaches_from_corner_to_corner() -> None:
    cuts = View("crop", 32, grid=3).cuts(ramp(100, 60))
    assert [corner(cut) for cut in cuts] == [(x, y) for y in (0, 14, 28) for x in (0, 34, 68)]


def test_a_picture_of_the_view_s_size_is_seen_whole_and_untouched() -> None:
    image = ramp(32, 32)
    for mode in ("crop", "resize"):
        (cut,) = View(mode, 32).cuts(image)  # type: ignore[arg-type]
        assert np.array_equal(np.asarray(cut), np.asarray(image))


@pytest.mark.parametrize("size", [(100, 60), (16, 20), (33, 500)])
def test_resizing_gives_a_square_of_every_picture(size: tuple[int, int]) -> None:
    view = View("resize", 32)
    assert view.refusal(ramp(*size)) is None
    assert [cut.size for cut in view.cuts(ramp(*size))] == [(32, 32)]


def test_a_crop_refuses_smaller_pictures_with_both_sizes() -> None:
    assert View("crop", 32).refusal(ramp(100, 31)) == (
        "the picture is 100x31, smaller than the 32 pixels that the detector looks at"
    )
    assert View("crop", 32).refusal(ramp(32, 32)) is None


def test_random_cuts_are_inside_and_reach_everywhere() -> None:
    rng, view = random.Random(0), View("crop", 32)
    seen = {corner(view.random_cut(ramp(35, 34), rng)) for _ in range(300)}
    assert seen == {(x, y) for x in range(4) for y in range(3)}


def test_the_tensor_is_normalised_per_channel() -> None:
    view = View("crop", 2, mean=(0.5, 0.0, 0.0), std=(0.5, 1.0, 2.0))
    tensor = view.tensor([Image.new("RGB", (2, 2), (255, 51, 255))])
    assert tensor.shape == (1, 3, 2, 2)
    assert torch.allclose(tensor[0, :, 0, 0], torch.tensor([1.0, 0.2, 0.5]))
