"""How a picture reaches a detector: which pixels, at what scale. The same in training and in scoring."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nbench.errors import ScorerError

if TYPE_CHECKING:
    import torch
    from PIL import Image


@dataclass(frozen=True)
class View:
    """Square cuts of a picture.

    Attributes:
        mode: "resize" brings the shorter side to `size` (Lanczos) and takes the centre, so that every size of picture
            can be scored but fine traces are lost; "crop" cuts without any scaling and refuses smaller pictures.
        size: side of a cut in pixels.
        grid: cuts per side, evenly spread; their log-odds are averaged. 1 is the centre alone.
        mean: subtracted per channel from values in [0, 1].
        std: divided by, per channel.
    """

    mode: Literal["resize", "crop"]
    size: int
    grid: int = 1
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def words(self) -> str:
        """The view as a card says it."""
        cuts = "the centre" if self.grid == 1 else f"{self.grid} x {self.grid} cuts, log-odds averaged"
        if self.mode == "resize":
            return f"RGB; shorter side to {self.size} (PIL Lanczos), then {cuts} of {self.size} pixels"
        return f"RGB; no resizing: {cuts} of {self.size} pixels"

    def refusal(self, image: Image.Image) -> str | None:
        """Why this picture cannot be seen, None when it can."""
        if self.mode == "crop" and min(image.size) < self.size:
            width, height = image.size
            return f"the picture is {width}x{height}, smaller than the {self.size} pixels that the detector looks at"
        return None

    def cuts(self, image: Image.Image) -> list[Image.Image]:
        """The grid x grid cuts that are scored, row by row."""
        ready = self._scaled(image)
        return [_cut(ready, left, top, self.size) for left, top in self._places(*ready.size)]

    def random_cut(self, image: Image.Image, rng: random.Random) -> Image.Image:
        """One cut at a random place, for training."""
        ready = self._scaled(image)
        left, top = rng.randint(0, ready.width - self.size), rng.randint(0, ready.height - self.size)
        return _cut(ready, left, top, self.size)

    def tensor(self, cuts: Sequence[Image.Image]) -> torch.Tensor:
        """Cuts as the network takes them, float32 [B, 3, size, size]."""
        import numpy as np
        import torch

        pixels = torch.from_numpy(np.stack([np.asarray(cut) for cut in cuts])).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(row)[:, None, None] for row in (self.mean, self.std))
        return (pixels - mean) / std

    def tensor_cuts(self, images: torch.Tensor) -> list[torch.Tensor]:
        """`tensor` of each place in the grid, from [B, 3, H, W] in [0, 1]; differentiable.

        Where pictures must be resized, torch's antialiased bicubic filter stands for PIL's Lanczos, without its
        rounding to bytes.

        Raises:
            ScorerError: the pictures are smaller than a cut.
        """
        import torch
        from torchvision.transforms.v2 import functional as F

        height, width = images.shape[-2:]
        if self.mode == "crop" and min(height, width) < self.size:
            raise ScorerError(f"pictures of {width}x{height} are smaller than the {self.size} pixels of the detector.")
        if self.mode == "resize" and min(height, width) != self.size:
            scale = self.size / min(height, width)
            height, width = max(self.size, round(height * scale)), max(self.size, round(width * scale))
            images = F.resize(images, [height, width], interpolation=F.InterpolationMode.BICUBIC, antialias=True).clamp(
                0, 1
            )
        mean, std = (torch.tensor(row, device=images.device)[:, None, None] for row in (self.mean, self.std))
        places = self._places(width, height)
        return [(images[..., y : y + self.size, x : x + self.size] - mean) / std for x, y in places]

    def _places(self, width: int, height: int) -> list[tuple[int, int]]:
        """Left and top of every cut, row by row."""
        room = width - self.size, height - self.size
        if self.grid == 1:
            return [(room[0] // 2, room[1] // 2)]
        steps = [i / (self.grid - 1) for i in range(self.grid)]
        return [(round(x * room[0]), round(y * room[1])) for y in steps for x in steps]

    def _scaled(self, image: Image.Image) -> Image.Image:
        from PIL import Image

        ready = image.convert("RGB")
        if self.mode == "crop" or min(ready.size) == self.size:
            return ready
        scale = self.size / min(ready.size)
        size = max(self.size, round(ready.width * scale)), max(self.size, round(ready.height * scale))
        return ready.resize(size, Image.Resampling.LANCZOS)


def _cut(image: Image.Image, left: int, top: int, side: int) -> Image.Image:
    return image if image.size == (side, side) else image.crop((left, top, left + side, top + side))
