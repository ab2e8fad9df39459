"""Controls: harmless changes to a picture that must not make it look more real, and training's random ones.

Blurred, noisy and recompressed pictures hide what detectors look for, so many detectors call them real. A checkpoint
whose pictures merely got softer then seems more realistic. Strengths are those of the design note: noise, blur of sigma
1 and 2, JPEG 95, 75 and 50, and resizing to 0.75 and 0.5, each at the picture's own size in pixels.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

Control = Callable[["Image.Image", random.Random], "Image.Image"]


def add_noise(image: Image.Image, sigma: float, rng: random.Random) -> Image.Image:
    """Gaussian noise of `sigma` (of 255), drawn from `rng`; rounded and clipped to bytes."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(rng.getrandbits(32)).standard_normal((image.height, image.width, 3), np.float32)
    noisy = np.asarray(image.convert("RGB"), np.float32) + sigma * draw
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def blur(image: Image.Image, sigma: float) -> Image.Image:
    """Gaussian blur of `sigma` pixels."""
    from PIL import ImageFilter

    return image.convert("RGB").filter(ImageFilter.GaussianBlur(sigma))


def recompress(image: Image.Image, quality: int) -> Image.Image:
    """JPEG round trip at a libjpeg quality, 1 to 100."""
    from PIL import Image

    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def rescale(image: Image.Image, factor: float) -> Image.Image:
    """Reduce by `factor` and enlarge to the size it had, both bicubic: the detector sees the same field, less sharp."""
    from PIL import Image

    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    small = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    return small.resize(image.size, Image.Resampling.BICUBIC)


#: name -> control, as `nbench realism check` applies them
CONTROLS: Mapping[str, Control] = {
    "noise 5": lambda image, rng: add_noise(image, 5, rng),
    "noise 15": lambda image, rng: add_noise(image, 15, rng),
    "blur 1": lambda image, rng: blur(image, 1),
    "blur 2": lambda image, rng: blur(image, 2),
    "jpeg 95": lambda image, rng: recompress(image, 95),
    "jpeg 75": lambda image, rng: recompress(image, 75),
    "jpeg 50": lambda image, rng: recompress(image, 50),
    "resize 0.75": lambda image, rng: rescale(image, 0.75),
    "resize 0.5": lambda image, rng: rescale(image, 0.5),
}


def disturb(image: Image.Image, rng: random.Random) -> Image.Image:
    """One or two random disturbances of the kinds above, of random strength, in random order: for training."""
    kinds = rng.sample(("noise", "blur", "jpeg", "resize"), rng.choice((1, 1, 2)))
    for kind in kinds:
        if kind == "noise":
            image = add_noise(image, rng.uniform(1, 20), rng)
        elif kind == "blur":
            image = blur(image, rng.uniform(0.3, 2.2))
        elif kind == "jpeg":
            image = recompress(image, rng.randint(30, 98))
        else:
            image = rescale(image, rng.uniform(0.4, 0.95))
    return image


def wreck(image: Image.Image, rng: random.Random) -> Image.Image:
    """What no real picture looks like, of the same size: for training, always on the generated side.

    White or coarse noise, one colour, or the picture under heavy noise, heavy blur, or with its tiles exchanged.
    A detector that never saw such pictures may call them real: nothing on its generated side looks like them.
    """
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(rng.getrandbits(32))
    width, height = image.size
    kind = rng.choice(("white noise", "coarse noise", "colour", "heavy noise", "heavy blur", "tiles"))
    if kind == "white noise":
        return Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8))
    if kind == "coarse noise":
        side, filters = rng.randint(2, 16), (Image.Resampling.NEAREST, Image.Resampling.BILINEAR)
        return Image.fromarray(draw.integers(0, 256, (side, side, 3), np.uint8)).resize(image.size, rng.choice(filters))
    if kind == "colour":
        return Image.new("RGB", image.size, tuple(int(c) for c in draw.integers(0, 256, 3)))
    if kind == "heavy noise":
        return add_noise(image, rng.uniform(40, 120), rng)
    if kind == "heavy blur":
        return blur(image, rng.uniform(0.06, 0.15) * min(image.size))
    pixels, count = np.asarray(image.convert("RGB")), rng.choice((4, 8))
    high, wide = height // count, width // count
    tiles = [pixels[y * high : (y + 1) * high, x * wide : (x + 1) * wide] for y in range(count) for x in range(count)]
    rng.shuffle(tiles)
    rows = [np.concatenate(tiles[i : i + count], 1) for i in range(0, len(tiles), count)]
    return Image.fromarray(np.concatenate(rows)).resize(image.size)
