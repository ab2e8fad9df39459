"""The pocket world: what the pocket checkpoints know, and how its pictures are captioned.

A pocket picture is a scene: 1-3 copies of one concept, in one style, on one background colour. Its
caption names a random subset of these facts, so a prompt is under-determined and two seeds of it
should differ. Recipes draw scenes from here, and the `pocket` prompt set is written in its words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

#: word in a caption -> mean RGB (0-255) of the background
COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "gray": (150, 150, 155),
    "black": (30, 30, 34),
    "red": (205, 60, 55),
    "orange": (240, 150, 60),
    "yellow": (245, 215, 85),
    "green": (95, 175, 95),
    "blue": (80, 140, 215),
    "purple": (145, 95, 190),
    "pink": (240, 165, 195),
}

#: styles a caption can name; each is one family of source pictures
STYLES: tuple[str, ...] = ("3d", "flat")

COUNTS: dict[int, str] = {1: "a", 2: "two", 3: "three"}
SIZES: tuple[str, ...] = ("small", "big")

# CLDR label of the source emoji | caption noun | plural. One line a group.
_CONCEPTS = """
dog|dog|dogs; cat|cat|cats; lion|lion|lions; tiger face|tiger|tigers; horse|horse|horses; cow|cow|cows; pig|pig|pigs
rabbit|rabbit|rabbits; mouse face|mouse|mice; panda|panda|pandas; koala|koala|koalas; bear|bear|bears; fox|fox|foxes
monkey face|monkey|monkeys; elephant|elephant|elephants; giraffe|giraffe|giraffes; zebra|zebra|zebras
penguin|penguin|penguins; baby chick|chick|chicks; duck|duck|ducks; owl|owl|owls; parrot|parrot|parrots
flamingo|flamingo|flamingos; turtle|turtle|turtles; snake|snake|snakes; frog|frog|frogs; whale|whale|whales
dolphin|dolphin|dolphins; tropical fish|fish|fish; shark|shark|sharks; octopus|octopus|octopuses; crab|crab|crabs
snail|snail|snails; butterfly|butterfly|butterflies; honeybee|bee|bees; lady beetle|ladybug|ladybugs
rose|rose|roses; sunflower|sunflower|sunflowers; tulip|tulip|tulips; cactus|cactus|cactuses
deciduous tree|tree|trees; palm tree|palm|palms; mushroom|mushroom|mushrooms
red apple|apple|apples; banana|banana|bananas; lemon|lemon|lemons; tangerine|tangerine|tangerines
strawberry|strawberry|strawberries; cherries|cherry|cherries; grapes|grape|grapes; watermelon|watermelon|watermelons
pineapple|pineapple|pineapples; peach|peach|peaches; pear|pear|pears; avocado|avocado|avocados; tomato|tomato|tomatoes
carrot|carrot|carrots; ear of corn|corn|corns; eggplant|eggplant|eggplants; broccoli|broccoli|broccolis
croissant|croissant|croissants; cheese wedge|cheese|cheeses; egg|egg|eggs; pizza|pizza|pizzas
hamburger|hamburger|hamburgers; french fries|fries|fries; hot dog|hotdog|hotdogs; taco|taco|tacos
doughnut|donut|donuts; cookie|cookie|cookies; cupcake|cupcake|cupcakes; soft ice cream|icecream|icecreams
lollipop|lollipop|lollipops; automobile|car|cars; bus|bus|buses; delivery truck|truck|trucks; tractor|tractor|tractors
bicycle|bicycle|bicycles; locomotive|train|trains; airplane|airplane|airplanes; helicopter|helicopter|helicopters
rocket|rocket|rockets; sailboat|sailboat|sailboats; house|house|houses; castle|castle|castles; tent|tent|tents
sun|sun|suns; crescent moon|moon|moons; star|star|stars; cloud|cloud|clouds; rainbow|rainbow|rainbows; fire|fire|fires
snowman|snowman|snowmen; umbrella|umbrella|umbrellas; soccer ball|football|footballs; basketball|basketball|basketballs
trophy|trophy|trophies; balloon|balloon|balloons; wrapped gift|gift|gifts; teddy bear|teddy|teddies; key|key|keys
locked|lock|locks; hammer|hammer|hammers; scissors|scissors|scissors; pencil|pencil|pencils; closed book|book|books
light bulb|bulb|bulbs; alarm clock|clock|clocks; camera|camera|cameras; mobile phone|phone|phones; guitar|guitar|guitars
trumpet|trumpet|trumpets; drum|drum|drums; bell|bell|bells; crown|crown|crowns; sunglasses|sunglasses|sunglasses
running shoe|shoe|shoes; t-shirt|shirt|shirts; dress|dress|dresses; chair|chair|chairs; door|door|doors
candle|candle|candles; backpack|backpack|backpacks; magnet|magnet|magnets
"""


@dataclass(frozen=True)
class Concept:
    """One nameable thing.

    Attributes:
        label: the CLDR label of the emoji it is drawn from.
        noun: its singular in captions (also its class name).
        plural: its plural in captions.
    """

    label: str
    noun: str
    plural: str


CONCEPTS: tuple[Concept, ...] = tuple(
    Concept(*(part.strip() for part in entry.split("|")))
    for line in _CONCEPTS.strip().splitlines()
    for entry in line.split(";")
)
CONCEPT_INDEX: dict[str, int] = {concept.noun: i for i, concept in enumerate(CONCEPTS)}


@dataclass(frozen=True)
class Scene:
    """The facts of one picture, all of them exact ground truth.

    Attributes:
        concept: index into `CONCEPTS`.
        style: index into `STYLES`.
        colour: background colour, a key of `COLOURS`.
        count: 1, 2 or 3 copies.
        size: "small", "big" or "" (neither).
    """

    concept: int
    style: int
    colour: str
    count: int
    size: str


def caption(scene: Scene, *, style: bool = True, colour: bool = True, size: bool = True, count: bool = True) -> str:
    """Say a scene in words, naming only the facts asked for.

    `count=False` says "a" whatever the count, so only scenes of one copy should leave it out.
    """
    concept = CONCEPTS[scene.concept]
    number = scene.count if count else 1
    words = [COUNTS[number]]
    if size and scene.size:
        words.append(scene.size)
    if style:
        words.append(STYLES[scene.style])
    words.append(concept.noun if number == 1 else concept.plural)
    if colour:
        words += ["on", "a", scene.colour, "background"]
    for i, (word, following) in enumerate(pairwise(words)):
        if word == "a" and following[0] in "aeiou":
            words[i] = "an"
    return " ".join(words)


def random_caption(scene: Scene, rng: random.Random) -> str:
    """A caption that names a random subset of a scene's facts; the concept and count are always named."""
    return caption(
        scene,
        style=rng.random() < 0.5,
        colour=rng.random() < 0.5,
        size=rng.random() < 0.6,
    )


def vocabulary() -> list[str]:
    """Every word a pocket caption can hold, sorted."""
    words = {"a", "an", "on", "background", *COUNTS.values(), *SIZES, *COLOURS, *STYLES}
    for concept in CONCEPTS:
        words.update((concept.noun, concept.plural))
    return sorted(words)
