"""Letter-box: the whole picture in a square, black around it. How HPS looks at pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def letter_box(images: torch.Tensor, size: int) -> torch.Tensor:
    """Longer side to `size`, then zeros on both sides of the shorter.

    Bicubic on the tensor with antialiasing, which torchvision does unasked from 0.17 on and did not before; values
    overshoot [0, 1] by a little and are left so. The odd row or column of padding goes below or to the right.

    Args:
        images: float [..., 3, H, W] in [0, 1].
        size: pixels a side of the square.

    Returns:
        float [..., 3, size, size]; differentiable.

    Source: HPSv2, `ResizeMaxSize` on tensors.
    """
    from torchvision.transforms.v2 import functional as F

    height, width = images.shape[-2:]
    scale = size / max(height, width)
    new = [max(1, round(height * scale)), max(1, round(width * scale))]
    if new != [height, width]:
        images = F.resize(images, new, interpolation=F.InterpolationMode.BICUBIC, antialias=True)
    down, right = size - new[0], size - new[1]
    boxed: torch.Tensor = F.pad(images, [right // 2, down // 2, right - right // 2, down - down // 2])
    return boxed
