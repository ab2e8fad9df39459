from nbench.pocket.scenes import sample_scenes
from nbench.pocket.world import COLOURS, CONCEPTS, COUNTS, STYLES


def test_sixteen_different_scenes_that_cover_the_facts() -> None:
    pictures = sample_scenes()
    assert len({image.tobytes() for image, _ in pictures}) == 16
    assert all(image.size == (64, 64) and image.mode == "RGB" for image, _ in pictures)
    words = [set(text.split()) for _, text in pictures]
    nouns = {concept.noun for concept in CONCEPTS} | {concept.plural for concept in CONCEPTS}
    assert len({next(iter(named & nouns)) for named in words}) == 16
    for fact in (STYLES, COLOURS, tuple(COUNTS.values()), ("small", "big")):
        assert all(any(word in named for named in words) for word in fact)
