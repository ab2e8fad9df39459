import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from nbench.pocket.scenes import sample_scenes
from nbench.scoring.rewards.image_stats import CARD, ImageStats

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "scorers" / "image-stats.json").read_text())


def picture(recipe: dict[str, Any]) -> Image.Image:
    height, width = recipe["size"]
    pixels = np.zeros((height, width, 3))
    if recipe["kind"] == "flat":
        pixels[:] = recipe["rgb"]
    elif recipe["kind"] == "checkerboard":
        odd = (np.arange(height)[:, None] + np.arange(width)) % 2
        pixels[:] = np.where(odd, recipe["high"], recipe["low"])[..., None]
    elif recipe["kind"] == "halves":
        pixels[:, : width // 2], pixels[:, width // 2 :] = recipe["left"], recipe["right"]
    elif recipe["kind"] == "waves":
        x = np.arange(width) / width
        waves = [size * np.cos(2 * np.pi * int(cycles) * x) for cycles, size in recipe["amplitudes"].items()]
        pixels += (128 + sum(waves))[None, :, None]
    else:
        raise AssertionError(recipe)
    return Image.fromarray(pixels.round().astype(np.uint8))


def stats(image: Image.Image) -> dict[str, float]:
    values = ImageStats().score([image], [""])[0].values
    assert values is not None
    return dict(values)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=[case["name"] for case in GOLDEN["cases"]])
def test_values_worked_out_by_hand(case: dict[str, Any]) -> None:
    found = stats(picture(case["picture"]))
    assert case["values"]
    for name, value in case["values"].items():
        assert found[name] == pytest.approx(value, rel=GOLDEN["tolerance"], abs=GOLDEN["tolerance"]), name


def test_every_metric_of_the_card_is_given_and_has_a_golden_value() -> None:
    names = {metric.name for metric in CARD.metrics}
    assert set(stats(Image.new("RGB", (8, 8)))) == names
    assert {name for case in GOLDEN["cases"] for name in case["values"]} == names


def test_statistics_move_the_way_that_hacking_moves_them() -> None:
    for image, _ in sample_scenes():
        plain = stats(image)
        blurred = stats(image.filter(ImageFilter.GaussianBlur(2)))
        assert blurred["laplacian_variance"] < plain["laplacian_variance"]
        assert blurred["high_frequency_share"] < plain["high_frequency_share"]
        vivid = stats(ImageEnhance.Color(image).enhance(2))
        assert vivid["saturation"] > plain["saturation"]
        assert vivid["clipped_share"] >= plain["clipped_share"]


def test_a_picture_too_small_for_a_laplacian_gets_a_reason_and_spares_its_neighbours() -> None:
    tiny, good = ImageStats().score([Image.new("RGB", (2, 9)), Image.new("RGB", (9, 9))], ["", ""])
    assert tiny.reason is not None and "2x9" in tiny.reason
    assert good.ok


def test_pictures_that_are_not_rgb_are_converted() -> None:
    assert stats(Image.new("L", (8, 8), 128)) == stats(Image.new("RGB", (8, 8), (128, 128, 128)))
