"""Known degradations at a severity from 0 (as it was) to 5: a judge must rate a picture lower, the worse it got.

The strengths are relative to the picture's size where that matters, so that 64 and 1024 pixels look equally bad.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

Degradation = Callable[["Image.Image", float, random.Random], "Image.Image"]
#: severities that `nbench judge check` uses, besides 0
SEVERITIES = (1, 2, 3, 4, 5)


def blur(image: Image.Image, severity: float, rng: random.Random) -> Image.Image:
    """Gaussian blur, sigma 0.75 % of the shorter side per severity."""
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur(0.0075 * severity * min(image.size)))


def noise(image: Image.Image, severity: float, rng: random.Random) -> Image.Image:
    """Gaussian noise, deviation 9 of 255 per severity."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(rng.getrandbits(32)).standard_normal((image.height, image.width, 3), np.float32)
    noisy = np.asarray(image, np.float32) + 9 * severity * draw
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, severity: float, rng: random.Random) -> Image.Image:
    """JPEG round trip, libjpeg quality 60, 35, 21, 12, 7 (60 / 1.7 ** (severity - 1)); none at 0."""
    from PIL import Image

    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=max(1, round(60 / 1.7 ** (severity - 1))))
    return Image.open(buffer).convert("RGB")


def oversharpen(image: Image.Image, severity: float, rng: random.Random) -> Image.Image:
    """Unsharp mask, radius 2 % of the shorter side, 90 % per severity: halos."""
    from PIL import ImageFilter

    return image.filter(ImageFilter.UnsharpMask(radius=0.02 * min(image.size), percent=round(90 * severity)))


def oversaturate(image: Image.Image, severity: float, rng: random.Random) -> Image.Image:
    """Saturation times 1 + 0.6 per severity."""
    from PIL import ImageEnhance

    return ImageEnhance.Color(image).enhance(1 + 0.6 * severity)


def grid(image: Image.Image, severity: float, rng: random.Random) -> Image.Image:
    """A lattice of lines every 1/8 of the shorter side, one 64th of it wide, 15 of 255 per severity darker."""
    import numpy as np
    from PIL import Image

    side = min(image.size)
    period, width = max(2, round(side / 8)), max(1, round(side / 64))
    start = rng.randrange(period)
    rows, columns = ((np.arange(length) + start) % period < width for length in (image.height, image.width))
    lines = rows[:, None] | columns[None, :]
    pixels = np.asarray(image, np.float32) - 15 * severity * lines[..., None]
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


#: name, which is also that of the item that asks about it -> degradation
DEGRADATIONS: Mapping[str, Degradation] = {
    "blur": blur,
    "noise": noise,
    "jpeg": jpeg,
    "over_sharpening": oversharpen,
    "over_saturation": oversaturate,
    "grid": grid,
}


def degrade(image: Image.Image, kind: str, severity: float, rng: random.Random) -> Image.Image:
    """`image` in RGB with a degradation of `DEGRADATIONS`; at severity 0 as it was.

    Args:
        image: any mode.
        kind: of degradation.
        severity: 0 to 5, any number.
        rng: of those that draw.
    """
    plain = image.convert("RGB")
    return DEGRADATIONS[kind](plain, severity, rng) if severity > 0 else plain


def wrong_prompt(prompt: str, other: str, severity: float, rng: random.Random) -> str:
    """`prompt` with severity/5 of its words replaced by those of another prompt; at 5 it is the other one.

    Args:
        prompt: that fits.
        other: that does not.
        severity: 0 to 5.
        rng: chooses the words.
    """
    words, foreign = prompt.split(), other.split()
    if severity >= 5 or not foreign:
        return other
    count = round(len(words) * severity / 5)
    for place in rng.sample(range(len(words)), count):
        words[place] = foreign[min(len(foreign) - 1, place * len(foreign) // len(words))]
    return " ".join(words)
