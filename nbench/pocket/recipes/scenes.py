"""Draw the bundled sample scenes, `nbench/pocket/pictures`: one strip of 16 scenes and their captions.

    python -m nbench.pocket.recipes.scenes --work WORK --out nbench/pocket/pictures

The strip is what `nbench.pocket.scenes.sample_scenes` gives.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from PIL import Image

from nbench.pocket.recipes.data import PACKAGES, SIZE, Composer, build_sprites
from nbench.pocket.world import COLOURS, CONCEPTS, STYLES, Scene, caption

COUNT = 16
SEED = 555_000_111  # far from any seed that a training draws


def scenes(rng: random.Random) -> list[Scene]:
    """COUNT scenes of distinct concepts, styles and counts in turn, every colour at least once."""
    colours = list(COLOURS)
    rng.shuffle(colours)
    found = []
    for index, concept in enumerate(rng.sample(range(len(CONCEPTS)), COUNT)):
        count = (1, 1, 2, 3)[index % 4]
        size = ("", "small", "big")[index % 3] if count == 1 else ""
        found.append(Scene(concept, index % len(STYLES), colours[index % len(colours)], count, size))
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of source packages")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    drawn = scenes(random.Random(SEED))
    composer = Composer(build_sprites(args.work), SEED)
    strip = Image.new("RGB", (SIZE * COUNT, SIZE))
    for index, scene in enumerate(drawn):
        strip.paste(composer.render(scene), (SIZE * index, 0))
    args.out.mkdir(parents=True, exist_ok=True)
    strip.save(args.out / "scenes.png", optimize=True)
    record = {
        "captions": [caption(scene) for scene in drawn],
        "licence": "MIT",
        "source": sorted(PACKAGES),
        "recipe": "python -m nbench.pocket.recipes.scenes",
    }
    (args.out / "scenes.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
