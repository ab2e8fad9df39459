"""Ways to spoil a picture: training augmentation for the probe and pocket-clip, negatives for pocket-aesthetic.

Each spoiler is a function (image, strength, rng) -> image with `strength` in [0, 1]: 0 is the mildest that a person
can see at 64 pixels, 1 is bad. All draw from `rng` alone, so a seed gives the same picture again.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Spoiler = Callable[[Image.Image, float, random.Random], Image.Image]


def blur(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Gaussian blur, sigma 0.6 to 2.6 pixels."""
    return image.filter(ImageFilter.GaussianBlur(0.6 + 2.0 * strength))


def noise(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Gaussian noise, sigma 6 to 46 of 255."""
    draw = np.random.default_rng(rng.getrandbits(32)).standard_normal((image.height, image.width, 3), np.float32)
    return _picture(np.asarray(image, np.float32) + (6 + 40 * strength) * draw)


def compress(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """JPEG round trip, quality 60 down to 6."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=round(60 - 54 * strength))
    return Image.open(buffer).convert("RGB")


def pixelate(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Reduce by 1.4 to 5, and back up."""
    side = round(image.width / (1.4 + 3.6 * strength))
    how = rng.choice((Image.Resampling.NEAREST, Image.Resampling.BILINEAR))
    return image.resize((side, side), Image.Resampling.BOX).resize(image.size, how)


def oversaturate(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Saturation times 1.6 to 4.6."""
    return ImageEnhance.Color(image).enhance(1.6 + 3.0 * strength)


def desaturate(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Saturation times 0.5 down to 0."""
    return ImageEnhance.Color(image).enhance(0.5 * (1 - strength))


def harden(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Contrast times 1.5 to 4: clipped whites and blacks."""
    return ImageEnhance.Contrast(image).enhance(1.5 + 2.5 * strength)


def fade(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Contrast times 0.65 down to 0.15."""
    return ImageEnhance.Contrast(image).enhance(0.65 - 0.5 * strength)


def posterise(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """3, 2 or 1 bits per channel."""
    return ImageOps.posterize(image, 3 - min(2, int(3 * strength)))


def oversharpen(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Unsharp mask of 150 to 650 %: halos."""
    return image.filter(ImageFilter.UnsharpMask(radius=1.5, percent=round(150 + 500 * strength), threshold=0))


def shuffle(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Exchange tiles of a 4 x 4 grid: 1 pair up to 8 pairs."""
    tiles = np.asarray(image).copy()
    side = image.width // 4
    spots = [(y * side, x * side) for y in range(4) for x in range(4)]
    rng.shuffle(spots)
    for pair in range(1 + round(7 * strength)):
        (y, x), (v, u) = spots[2 * pair], spots[2 * pair + 1]
        first = tiles[y : y + side, x : x + side].copy()
        tiles[y : y + side, x : x + side] = tiles[v : v + side, u : u + side]
        tiles[v : v + side, u : u + side] = first
    return Image.fromarray(tiles)


def melt(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Bend the picture over a 4 x 4 mesh whose inner nodes move by up to 3 to 9 pixels (of 64)."""
    reach = (3 + 6 * strength) * image.width / 64
    side = image.width / 4
    nodes = [
        [
            (x * side, y * side)
            if x in (0, 4) or y in (0, 4)
            else (x * side + rng.uniform(-reach, reach), y * side + rng.uniform(-reach, reach))
            for x in range(5)
        ]
        for y in range(5)
    ]
    mesh = []
    for y in range(4):
        for x in range(4):
            box = (round(x * side), round(y * side), round((x + 1) * side), round((y + 1) * side))
            quad = (*nodes[y][x], *nodes[y + 1][x], *nodes[y + 1][x + 1], *nodes[y][x + 1])
            mesh.append((box, quad))
    return image.transform(image.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def misplace(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Bad composition: move the picture by 30 to 60 % of its side, so that the object is cut; edges are repeated."""
    reach = round((0.30 + 0.30 * strength) * image.width)
    dx, dy = rng.choice(((reach, 0), (-reach, 0), (0, reach), (0, -reach), (reach, reach), (-reach, -reach)))
    return shift(image, dx, dy)


def ghost(image: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Lay a moved, mirrored copy over the picture, at 25 to 50 %."""
    reach = image.width // 6
    copy = shift(ImageOps.mirror(image), rng.randint(-reach, reach), rng.randint(-reach, reach))
    return Image.blend(image, copy, 0.25 + 0.25 * strength)


SPOILERS: dict[str, Spoiler] = {
    spoiler.__name__: spoiler
    for spoiler in (
        blur,
        noise,
        compress,
        pixelate,
        oversaturate,
        desaturate,
        harden,
        fade,
        posterise,
        oversharpen,
        shuffle,
        melt,
        misplace,
        ghost,
    )
}


def shift(image: Image.Image, dx: int, dy: int) -> Image.Image:
    """Move by whole pixels to the right and down; the edge that opens repeats the last row or column."""
    pixels = np.pad(np.asarray(image), ((abs(dy), abs(dy)), (abs(dx), abs(dx)), (0, 0)), mode="edge")
    top, left = abs(dy) - dy, abs(dx) - dx
    return Image.fromarray(np.ascontiguousarray(pixels[top : top + image.height, left : left + image.width]))


def augment(image: Image.Image, rng: random.Random) -> Image.Image:
    """Spoil lightly, so that a reader of pictures is not brittle.

    Shifts by up to 3 pixels, then at random melts, changes saturation, contrast or brightness, blurs, reduces, adds
    noise and compresses.
    """
    image = shift(image, rng.randint(-3, 3), rng.randint(-3, 3))
    if rng.random() < 0.25:
        image = melt(image, rng.uniform(0, 0.3), rng)
    if rng.random() < 0.3:
        tone = rng.choice((ImageEnhance.Color, ImageEnhance.Contrast, ImageEnhance.Brightness))
        image = tone(image).enhance(rng.uniform(0.7, 1.4))
    for spoiler, chance in ((blur, 0.25), (pixelate, 0.1), (noise, 0.25), (compress, 0.2)):
        if rng.random() < chance:
            image = spoiler(image, rng.uniform(0, 0.4), rng)
    return image


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
