import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nbench.errors import ScorerError
from nbench.pocket.recipes.augment import SPOILERS
from nbench.pocket.scenes import sample_scenes
from nbench.scoring.rewards.pocket_aesthetic import PocketAesthetic, apply_head

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "scorers" / "pocket-aesthetic.json").read_text())
IMAGES = [image for image, _ in sample_scenes()]


@pytest.fixture(scope="module")
def scorer() -> PocketAesthetic:
    return PocketAesthetic()


def values(scorer: PocketAesthetic, images: list[Image.Image]) -> list[float]:
    found = []
    for score in scorer.score(images, [""] * len(images)):
        assert score.values is not None
        found.append(score.values[""])
    return found


def test_golden_values_of_the_bundled_weights(scorer: PocketAesthetic) -> None:
    assert GOLDEN["weights"] == scorer.card.weights["head.safetensors"]
    assert values(scorer, IMAGES) == pytest.approx(GOLDEN["values"], abs=GOLDEN["tolerance"])


def test_the_head_is_the_stated_formula() -> None:
    head = {
        "mean": torch.tensor([1.0, 0.0]),
        "std": torch.tensor([2.0, 1.0]),
        "hidden_weight": torch.tensor([[1.0, 1.0], [-1.0, 0.0]]),
        "hidden_bias": torch.tensor([0.0, 3.0]),
        "out_weight": torch.tensor([2.0, 1.0]),
        "out_bias": torch.tensor(0.5),
    }
    # normal = (1, -1): hidden = gelu(0, 2) = (0, 2 * Phi(2)); the second row's first feature is cut at 10
    found = apply_head(head, torch.tensor([[3.0, -1.0], [1e6, -100.0]]))
    assert found.tolist() == pytest.approx([0.5 + 2 * 0.9772499, 0.5], abs=1e-5)


def test_a_score_has_the_same_bits_in_any_batch(scorer: PocketAesthetic) -> None:
    together = values(scorer, IMAGES)
    assert [values(scorer, [image])[0] for image in IMAGES] == together
    assert values(scorer, IMAGES[::-1] + IMAGES)[16:] == together


@pytest.mark.parametrize("name", SPOILERS)
def test_real_scenes_beat_their_spoiled_copies(scorer: PocketAesthetic, name: str) -> None:
    rng = random.Random(0)
    clean = np.array(values(scorer, IMAGES))
    spoiled = np.array(values(scorer, [SPOILERS[name](image, 0.8, rng) for image in IMAGES]))
    assert (clean > spoiled).mean() >= 0.75
    # bent shapes are the head's known blind spot (model card): in the right order, but not far apart
    assert clean.mean() - spoiled.mean() > (0.25 if name != "melt" else 0)


def test_stronger_blur_is_worse(scorer: PocketAesthetic) -> None:
    rng = random.Random(0)
    means = [np.mean(values(scorer, [SPOILERS["blur"](image, s, rng) for image in IMAGES])) for s in (0.0, 0.3, 1.0)]
    assert means == sorted(means, reverse=True)


def test_the_prompt_is_not_read(scorer: PocketAesthetic) -> None:
    assert scorer.score(IMAGES[:2], ["a dog", "something else"]) == scorer.score(IMAGES[:2], ["", ""])
    assert not scorer.card.uses_prompt


def test_the_card_names_the_tower_it_stands_on(scorer: PocketAesthetic) -> None:
    assert "head.safetensors" in scorer.card.weights
    assert "pocket-clip/open_clip_model.safetensors" in scorer.card.weights


def test_missing_weights_name_the_file_and_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match=r"head\.safetensors.*nbench\.pocket\.recipes\.aesthetic"):
        PocketAesthetic(tmp_path)
