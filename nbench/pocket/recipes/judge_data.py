"""What pocket-judge is taught: composed scenes spoiled by known amounts, and questions whose answers follow from them.

A spoiled picture has kinds and amounts in 0..1; its worth is 4 when clean, 3.5 (1 - amount) when spoiled, the factors
of its kinds multiplied. Each scene is drawn twice, and the two are compared. The 16 concepts of the bundled scenes
(`nbench.pocket.scenes`) are in no training picture or caption, so that these scenes are held out for good; neither are
the kinds of `HELD_OUT_KINDS`, nor amounts within 0.03 of `LEVELS`.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from nbench.pocket.recipes.augment import SPOILERS, shift
from nbench.pocket.recipes.clip import Claim, altered, claim_of
from nbench.pocket.recipes.data import Composer
from nbench.pocket.recipes.judge_wording import ITEMS
from nbench.pocket.scenes import sample_scenes
from nbench.pocket.world import CONCEPTS, Scene

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # amounts that the figures are measured at
GAP = 0.03
HELD_OUT_CONCEPTS: frozenset[int] = frozenset(
    index
    for index, concept in enumerate(CONCEPTS)
    if any(noun in text.split() for _, text in sample_scenes() for noun in (concept.noun, concept.plural))
)
HELD_OUT_KINDS = ("pixelate", "posterise")
WORTH = 4.0  # of a clean picture, on a scale from 0

Degrade = Callable[[Image.Image, float, random.Random], Image.Image]


def between(low: float, high: float, amount: float) -> float:
    """`low` at amount 0, `high` at 1, in equal ratios."""
    return float(low * (high / low) ** amount)


def blur(image: Image.Image, amount: float, rng: random.Random) -> Image.Image:
    """Gaussian, sigma 0.4 to 3.2 pixels."""
    return image.filter(ImageFilter.GaussianBlur(between(0.4, 3.2, amount)))


def noise(image: Image.Image, amount: float, rng: random.Random) -> Image.Image:
    """Gaussian, sigma 4 to 64 of 255; the same in all channels in one picture of four."""
    channels = 1 if rng.random() < 0.25 else 3
    draw = np.random.default_rng(rng.getrandbits(32)).standard_normal((image.height, image.width, channels), np.float32)
    return _picture(np.asarray(image, np.float32) + between(4, 64, amount) * draw)


def jpeg(image: Image.Image, amount: float, rng: random.Random) -> Image.Image:
    """JPEG round trip, quality 70 down to 3."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=round(between(70, 3, amount)), subsampling=rng.choice((0, 2)))
    return Image.open(buffer).convert("RGB")


def oversharpen(image: Image.Image, amount: float, rng: random.Random) -> Image.Image:
    """Unsharp mask of 60 to 900 %, radius 0.8 to 2 pixels."""
    return image.filter(ImageFilter.UnsharpMask(rng.uniform(0.8, 2.0), round(between(60, 900, amount)), 0))


def oversaturate(image: Image.Image, amount: float, rng: random.Random) -> Image.Image:
    """Saturation times 1.3 to 6."""
    return ImageEnhance.Color(image).enhance(between(1.3, 6.0, amount))


def grid(image: Image.Image, amount: float, rng: random.Random) -> Image.Image:
    """A lattice of lines or waves every 2 to 8 pixels, 6 to 100 of 255 high."""
    period, phase = rng.randint(2, 8), rng.random()
    places = np.arange(image.width, dtype=np.float32) / period + phase
    form = rng.choice(("lines", "waves", "rows", "columns"))
    line = (places % 1 < 1 / period).astype(np.float32) if form != "waves" else np.cos(2 * np.pi * places)
    across = np.broadcast_to(line, (image.height, image.width))
    if form == "lines":
        pattern = np.maximum(across, across.T)
    elif form == "waves":
        pattern = across * across.T if rng.random() < 0.5 else (across + across.T) / 2
    else:
        pattern = across.T if form == "rows" else across
    height = between(6, 100, amount) * rng.choice((-1, 1))
    return _picture(np.asarray(image, np.float32) + height * pattern[..., None])


#: kinds that have a yes/no item
DEGRADATIONS: Mapping[str, Degrade] = {
    "blur": blur,
    "noise": noise,
    "jpeg": jpeg,
    "oversharpen": oversharpen,
    "oversaturate": oversaturate,
    "grid": grid,
}
#: kinds that lower the rating, and have no item
OTHERS: Mapping[str, Degrade] = {name: SPOILERS[name] for name in ("fade", "harden", "melt", "ghost", "shuffle")}
ALL: Mapping[str, Degrade] = {**DEGRADATIONS, **OTHERS, **{name: SPOILERS[name] for name in HELD_OUT_KINDS}}


@dataclass(frozen=True)
class Shown:
    """A picture and what is known of it.

    Attributes:
        image: RGB.
        scene: what it shows.
        damage: (kind, amount) of what was done to it, in turn.
    """

    image: Image.Image
    scene: Scene
    damage: tuple[tuple[str, float], ...]

    @property
    def worth(self) -> float:
        """Quality in 0..`WORTH`."""
        if not self.damage:
            return WORTH
        return 3.5 * float(np.prod([1 - amount for _, amount in self.damage]))

    def has(self, item: str) -> bool | None:
        """The answer to an item of `ITEMS`; None where it is not clear-cut."""
        kinds = {kind for kind, _ in self.damage}
        if item in kinds:
            return True
        if item in ("blur", "oversharpen") and len(kinds) > 1:
            return None  # what else was done hides or mimics it
        if item == "blur" and "melt" in kinds:
            return None
        return False


def training_amount(rng: random.Random) -> float:
    """An amount in 0..1 that is not near any of `LEVELS`."""
    while True:
        amount = rng.random()
        if all(abs(amount - level) >= GAP for level in LEVELS):
            return amount


def training_damage(rng: random.Random) -> tuple[tuple[str, float], ...]:
    """Nothing in one picture of four, else a kind with an item (two of them in one of eight), or another kind."""
    chance = rng.random()
    if chance < 0.25:
        return ()
    if chance < 0.37:
        return ((rng.choice(list(OTHERS)), training_amount(rng)),)
    count = 2 if chance > 0.92 else 1
    return tuple((kind, training_amount(rng)) for kind in rng.sample(list(DEGRADATIONS), count))


def show(image: Image.Image, scene: Scene, damage: tuple[tuple[str, float], ...], rng: random.Random) -> Shown:
    """The picture after `damage`."""
    for kind, amount in damage:
        image = ALL[kind](image, amount, rng)
    return Shown(image, scene, damage)


def couple(composer: Composer, rng: random.Random) -> tuple[Shown, Shown]:
    """Two pictures to compare: mostly of one scene and one kind in two amounts, else of anything."""
    scene = training_scene(composer, rng)
    clean = moved(composer.render(scene), rng)
    damage = training_damage(rng)
    first = show(clean, scene, damage, rng)
    chance = rng.random()
    if chance < 0.25:
        other = training_scene(composer, rng)
        return first, show(moved(composer.render(other), rng), other, training_damage(rng), rng)
    if chance < 0.75 and damage:
        damage = tuple((kind, training_amount(rng)) for kind, _ in damage)
    else:
        damage = training_damage(rng)
    return first, show(clean, scene, damage, rng)


def moved(image: Image.Image, rng: random.Random) -> Image.Image:
    """Harmless changes: shifted by up to 2 pixels, a little brighter or darker."""
    image = shift(image, rng.randint(-2, 2), rng.randint(-2, 2))
    return ImageEnhance.Brightness(image).enhance(rng.uniform(0.92, 1.08)) if rng.random() < 0.5 else image


def training_scene(composer: Composer, rng: random.Random) -> Scene:
    """A scene of a concept that is not held out."""
    return replace(composer.scene(), concept=rng.choice(TAUGHT))


TAUGHT: tuple[int, ...] = tuple(index for index in range(len(CONCEPTS)) if index not in HELD_OUT_CONCEPTS)


def false_claim(claim: Claim, rng: random.Random) -> Claim:
    """The claim with one fact changed, or another scene's; never one that names a held-out concept or is true."""
    while True:
        if rng.random() < 0.7:
            wrong = altered(claim, rng)
        else:
            other = replace(
                claim.scene,
                concept=rng.choice(TAUGHT),
                style=rng.randrange(2),
                count=rng.choice((1, 2, 3)),
                size="",
            )
            wrong = claim_of(other, rng)
        if wrong.scene.concept not in HELD_OUT_CONCEPTS and not wrong.is_true_of(claim.scene):
            return wrong


def items_for(shown: Shown, rng: random.Random, count: int) -> list[tuple[str, bool | None]]:
    """`count` different items and their answers; the first is most often one whose answer is yes."""
    names = list(ITEMS)
    rng.shuffle(names)
    present = [kind for kind, _ in shown.damage if kind in ITEMS]
    if present and rng.random() < 0.7:
        names.remove(present[0])
        names.insert(0, present[0])
    return [(name, shown.has(name)) for name in names[:count]]


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
