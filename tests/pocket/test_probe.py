from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from nbench.errors import ScorerError
from nbench.pocket.probe import CLASSES, Probe, load_probe, targets_of
from nbench.pocket.scenes import sample_scenes
from nbench.pocket.world import COLOURS, CONCEPTS, COUNTS, STYLES, Scene, caption


@pytest.fixture(scope="module")
def probe() -> Probe:
    return load_probe()


def said(probe: Probe, images: list[Image.Image]) -> list[str]:
    """The captions, without size, of what the probe sees."""
    found = probe.predict(images)
    facts = zip(found["concept"], found["style"], found["colour"], found["count"], strict=True)
    return [caption(Scene(c, s, list(COLOURS)[colour], int(n), "")) for c, s, colour, n in facts]


def without_size(text: str) -> str:
    return text.replace("small ", "").replace("big ", "")


def test_it_reads_every_fact_of_real_scenes(probe: Probe) -> None:
    pictures = sample_scenes()
    assert said(probe, [image for image, _ in pictures]) == [without_size(text) for _, text in pictures]


def test_it_is_not_brittle_under_a_light_blur_or_noise(probe: Probe) -> None:
    wanted = [without_size(text) for _, text in sample_scenes()]
    blurred = [image.filter(ImageFilter.GaussianBlur(1)) for image, _ in sample_scenes()]
    draw = np.random.default_rng(0)
    noisy = [
        Image.fromarray((np.asarray(image) + draw.normal(0, 10, (64, 64, 3))).clip(0, 255).astype(np.uint8))
        for image, _ in sample_scenes()
    ]
    for spoiled in (blurred, noisy):
        right = [a == b for a, b in zip(said(probe, spoiled), wanted, strict=True)]
        assert np.mean(right) >= 0.75


def test_size_and_batch_do_not_matter(probe: Probe) -> None:
    images = [image for image, _ in sample_scenes()]
    together = probe.probabilities(images)
    for index, image in enumerate(images):
        alone = probe.probabilities([image])
        for fact, values in together.items():
            np.testing.assert_allclose(alone[fact][0], values[index], atol=1e-5)
    enlarged = [image.resize((128, 128), Image.Resampling.BICUBIC) for image in images]
    assert (probe.predict(enlarged)["concept"] == probe.predict(images)["concept"]).all()


def test_probabilities_are_distributions_over_the_classes(probe: Probe) -> None:
    found = probe.probabilities([image for image, _ in sample_scenes()])
    assert set(found) == set(CLASSES)
    for fact, values in found.items():
        assert values.shape == (16, len(CLASSES[fact]))
        np.testing.assert_allclose(values.sum(1), 1, atol=1e-5)
    assert (len(CONCEPTS), len(STYLES), len(COLOURS), len(COUNTS)) == tuple(len(CLASSES[f]) for f in CLASSES)


def test_targets_are_in_the_units_of_predictions() -> None:
    targets = targets_of([Scene(7, 1, "black", 3, ""), Scene(0, 0, "white", 1, "big")])
    assert {fact: values.tolist() for fact, values in targets.items()} == {
        "concept": [7, 0],
        "style": [1, 0],
        "colour": [list(COLOURS).index("black"), 0],
        "count": [3, 1],
    }


def test_no_picture_gives_empty_arrays(probe: Probe) -> None:
    assert {fact: values.shape for fact, values in probe.predict([]).items()} == dict.fromkeys(CLASSES, (0,))


def test_a_missing_probe_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match=r"nbench\.pocket\.recipes\.probe"):
        load_probe(tmp_path / "nowhere")
