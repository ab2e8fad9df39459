import random

import pytest

from nbench.pocket.world import COLOURS, CONCEPT_INDEX, CONCEPTS, STYLES, Scene, caption, random_caption, vocabulary


def scene(noun: str, *, style: int = 0, colour: str = "blue", count: int = 1, size: str = "") -> Scene:
    return Scene(CONCEPT_INDEX[noun], style, colour, count, size)


@pytest.mark.parametrize(
    ("facts", "named", "text"),
    [
        (scene("apple"), {}, "a 3d apple on a blue background"),
        (scene("apple"), {"style": False}, "an apple on a blue background"),
        (scene("apple", colour="orange"), {"style": False}, "an apple on an orange background"),
        (scene("mouse", count=3, style=1), {"colour": False}, "three flat mice"),
        (scene("cat", size="small"), {"style": False, "colour": False}, "a small cat"),
        (scene("cat", size="small"), {"style": False, "colour": False, "size": False}, "a cat"),
    ],
)
def test_caption_names_just_the_facts_asked_for(facts: Scene, named: dict[str, bool], text: str) -> None:
    assert caption(facts, **named) == text


def test_concepts_are_distinct() -> None:
    assert len(CONCEPTS) >= 100
    assert len(CONCEPT_INDEX) == len(CONCEPTS) == len({concept.label for concept in CONCEPTS})


def test_random_captions_leave_facts_out_but_always_name_concept_and_count() -> None:
    rng = random.Random(0)
    facts = scene("dog", count=2, style=1, colour="red")
    captions = {random_caption(facts, rng) for _ in range(100)}
    assert captions == {
        "two dogs",
        "two flat dogs",
        "two dogs on a red background",
        "two flat dogs on a red background",
    }


def test_vocabulary_holds_every_word_of_every_caption() -> None:
    rng = random.Random(1)
    words = set(vocabulary())
    for concept in range(len(CONCEPTS)):
        for count in (1, 2, 3):
            facts = Scene(concept, rng.randrange(len(STYLES)), rng.choice(list(COLOURS)), count, "small" * (count == 1))
            assert set(caption(facts).split()) <= words
