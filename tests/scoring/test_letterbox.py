"""The letter-box of HPS: sizes, antialiasing, no clamping."""

import pytest
import torch
from clip_parts import picture, tensor
from torchvision.transforms.v2 import functional as F

from nbench.scoring.letterbox import letter_box


def frame(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is not padding, for an all-white picture."""
    boxed = letter_box(torch.ones(1, 3, height, width), size)
    assert boxed.shape == (1, 3, size, size)
    rows, columns = boxed[0, 0].any(1).nonzero().flatten(), boxed[0, 0].any(0).nonzero().flatten()
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    assert torch.allclose(boxed[..., top:bottom, left:right], torch.ones(()), atol=1e-5)
    return left, top, right, bottom


@pytest.mark.parametrize(
    ("width", "height", "wanted"),
    [
        (512, 768, (37, 0, 186, 224)),  # 149.33 columns: 149, 37 before and 38 after
        (768, 512, (0, 37, 224, 186)),
        (1024, 1024, (0, 0, 224, 224)),
        (224, 224, (0, 0, 224, 224)),
        (224, 100, (0, 62, 224, 162)),  # no resize, yet padded
        (64, 32, (0, 56, 224, 168)),
        (1000, 999, (0, 0, 224, 224)),
        (300, 1, (0, 111, 224, 112)),  # less than a row is a row
    ],
)
def test_the_whole_picture_is_centred_in_the_square(width: int, height: int, wanted: tuple[int, ...]) -> None:
    assert frame(width, height, 224) == wanted


def test_a_square_of_the_right_size_keeps_its_bits() -> None:
    image = tensor([picture(224, 224, 1)])
    assert torch.equal(letter_box(image, 224), image)


def test_the_resize_is_antialiased_whatever_torchvision_does_unasked() -> None:
    image = tensor([picture(512, 512, 60)])
    smooth, rough = (F.resize(image, [224, 224], F.InterpolationMode.BICUBIC, antialias=on) for on in (True, False))
    assert torch.equal(letter_box(image, 224), smooth)
    assert 255 * (smooth - rough).abs().mean() > 5  # grey levels: the choice is no detail


def test_overshoot_is_not_clamped() -> None:
    image = torch.zeros(1, 3, 64, 64)
    image[..., 32:] = 1
    boxed = letter_box(image, 224)
    assert boxed.min() < -0.01 and boxed.max() > 1.01


def test_it_passes_gradients_on() -> None:
    image = torch.rand(1, 3, 48, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    letter_box(image, 24).sum().backward()
    assert image.grad is not None and (image.grad != 0).all()
