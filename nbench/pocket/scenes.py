"""A few real pocket scenes with captions, bundled: canaries and golden values need pictures that no model made."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent / "pictures"
SIDE = 64

Picture = tuple[Image.Image, str]


def sample_scenes() -> list[Picture]:
    """16 scenes of 16 concepts, RGB 64x64, each with a caption that names every fact of it.

    They are composed by `nbench.pocket.recipes.scenes` from emoji pictures (MIT), with a seed that no training draws.
    """
    captions: list[str] = json.loads((FOLDER / "scenes.json").read_text())["captions"]
    with Image.open(FOLDER / "scenes.png") as sheet:
        strip = sheet.convert("RGB")
    return [(strip.crop((SIDE * i, 0, SIDE * (i + 1), SIDE)), caption) for i, caption in enumerate(captions)]
