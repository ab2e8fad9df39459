"""Recipe of the `pocket` prompt set: `python -m nbench.pocket.recipes.prompts` writes `prompts/pocket.yaml`.

Every concept is asked for at least once, and styles, colours, counts and sizes in the shares below, each in every
combination of what is named. Same code, same file: a test holds the file against `render()`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TypeVar

from nbench.pocket.world import COLOURS, CONCEPTS, STYLES, Scene, caption
from nbench.resources import bundled

_T = TypeVar("_T")

SIZE = 204  # prompts
SEED = 20

#: tag of a concept's group -> its nouns
GROUPS: dict[str, str] = {
    "animal": "dog cat lion tiger horse cow pig rabbit mouse panda koala bear fox monkey elephant giraffe zebra "
    "penguin chick duck owl parrot flamingo turtle snake frog whale dolphin fish shark octopus crab "
    "snail butterfly bee ladybug",
    "plant": "rose sunflower tulip cactus tree palm mushroom",
    "food": "apple banana lemon tangerine strawberry cherry grape watermelon pineapple peach pear avocado "
    "tomato carrot corn eggplant broccoli croissant cheese egg pizza hamburger fries hotdog taco "
    "donut cookie cupcake icecream lollipop",
    "vehicle": "car bus truck tractor bicycle train airplane helicopter rocket sailboat",
    "place": "house castle tent",
    "sky": "sun moon star cloud rainbow fire snowman",
    "toy": "football basketball trophy balloon gift teddy",
    "tool": "key lock hammer scissors pencil book bulb clock camera phone candle magnet chair door bell",
    "music": "guitar trumpet drum",
    "clothing": "crown sunglasses shoe shirt dress backpack umbrella",
}

#: share of each count, in hundredths; and how often each fact is named
_COUNTS = {1: 56, 2: 22, 3: 22}
_NAMED = {"style": 0.55, "colour": 0.6, "size": 0.4}


def draw() -> list[dict[str, object]]:
    """The prompts: id, text and tags, in a fixed order."""
    rng = random.Random(SEED)
    groups = {noun: group for group, nouns in GROUPS.items() for noun in nouns.split()}
    order = rng.sample(range(len(CONCEPTS)), len(CONCEPTS))
    order += rng.sample(order, SIZE - len(order))
    counts = _deal(rng, {count: share / 100 for count, share in _COUNTS.items()})
    styles = _deal(rng, dict.fromkeys(range(len(STYLES)), 1 / len(STYLES)))
    colours = _deal(rng, dict.fromkeys(COLOURS, 1 / len(COLOURS)))
    sizes = _deal(rng, {"small": 0.5, "big": 0.5})
    named = {fact: _deal(rng, {True: share, False: 1 - share}) for fact, share in _NAMED.items()}
    prompts: dict[str, dict[str, object]] = {}
    for i, concept in enumerate(order):
        noun = CONCEPTS[concept].noun
        scene = Scene(concept, styles[i], colours[i], counts[i], sizes[i] if counts[i] == 1 else "")
        says = {"style": named["style"][i], "colour": named["colour"][i], "size": named["size"][i] and scene.size != ""}
        text = caption(scene, **says)
        if text in prompts:  # a concept's second prompt names all that its first one may have left out
            says = {"style": True, "colour": True, "size": scene.size != ""}
            text = caption(scene, **says)
        tags = [f"group:{groups[noun]}", f"concept:{noun}", f"count:{scene.count}"]
        tags += [f"style:{STYLES[scene.style]}"] if says["style"] else []
        tags += [f"colour:{scene.colour}"] if says["colour"] else []
        tags += [f"size:{scene.size}"] if says["size"] else []
        tags.append("names:" + ("+".join(fact for fact, said in says.items() if said) or "nothing"))
        prompts[text] = {"id": text.replace(" ", "-"), "text": text, "tags": tags}
    return list(prompts.values())


def _deal(rng: random.Random, shares: dict[_T, float]) -> list[_T]:
    """SIZE values in a random order, each as often as its share says."""
    ends = [round(SIZE * sum(list(shares.values())[: n + 1])) for n in range(len(shares))]
    values = [value for value, end, start in zip(shares, ends, [0, *ends], strict=False) for _ in range(end - start)]
    return rng.sample(values, len(values))


def render() -> str:
    """The text of `prompts/pocket.yaml`."""
    prompts = draw()
    lines = [
        "# Written by `python -m nbench.pocket.recipes.prompts`; change the recipe, not this file.",
        "name: pocket",
        "description: What the pocket checkpoints know; 124 concepts with style, background, count and size.",
        "source: nbench/pocket/recipes/prompts.py of nbench",
        "licence: CC0-1.0",
        f"count: {len(prompts)}",
        "prompts:",
    ]
    lines += [
        f"  - {{id: {prompt['id']}, text: {prompt['text']}, tags: {json.dumps(prompt['tags'])}}}" for prompt in prompts
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the file into the source tree."""
    path: Path = bundled("prompts") / "pocket.yaml"
    path.write_text(render(), encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
