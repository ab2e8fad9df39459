import dataclasses
import hashlib
import json
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from nbench.errors import ScorerError
from nbench.pocket.scenes import sample_scenes
from nbench.scoring.registry import card_identity
from nbench.scoring.rewards.pocket_clip import CHUNK, FILES, FOLDER, PocketClip

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "scorers" / "pocket-clip.json").read_text())
IMAGES = [image for image, _ in sample_scenes()]
PROMPTS = [prompt for _, prompt in sample_scenes()]


@pytest.fixture(scope="module")
def scorer() -> PocketClip:
    return PocketClip()


def values(scorer: PocketClip, images: list[Image.Image], prompts: list[str]) -> list[float]:
    found = []
    for score in scorer.score(images, prompts):
        assert score.values is not None, score.reason
        found.append(score.values[""])
    return found


def test_golden_values_of_the_bundled_weights(scorer: PocketClip) -> None:
    assert GOLDEN["weights"] == scorer.card.weights["open_clip_model.safetensors"]
    assert values(scorer, IMAGES, PROMPTS) == pytest.approx(GOLDEN["values"], abs=GOLDEN["tolerance"])


def test_it_is_open_clip_s_own_cosine(scorer: PocketClip) -> None:
    import open_clip

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{FOLDER}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{FOLDER}")
    model.eval()
    with torch.inference_mode():
        pictures = model.encode_image(torch.stack([preprocess(image) for image in IMAGES]))
        texts = model.encode_text(tokenize(PROMPTS))
    cosines = torch.nn.functional.cosine_similarity(pictures, texts).tolist()
    assert values(scorer, IMAGES, PROMPTS) == pytest.approx(cosines, abs=1e-5)


def test_a_score_has_the_same_bits_in_any_batch(scorer: PocketClip) -> None:
    together = values(scorer, IMAGES, PROMPTS)
    assert [values(scorer, [image], [prompt])[0] for image, prompt in zip(IMAGES, PROMPTS, strict=True)] == together
    order = list(range(len(IMAGES))) * 2
    random.Random(0).shuffle(order)
    assert len(order) > CHUNK
    mixed = values(scorer, [IMAGES[i] for i in order], [PROMPTS[i] for i in order])
    assert mixed == [together[i] for i in order]


def test_a_picture_prefers_its_own_prompt_to_every_other_picture_s(scorer: PocketClip) -> None:
    for index, image in enumerate(IMAGES):
        found = values(scorer, [image] * len(PROMPTS), PROMPTS)
        assert found.index(max(found)) == index


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("cat", "dog"), ("blue", "red"), ("three", "two"), ("3d", "flat"), ("small", "big")],
)
def test_changing_one_fact_lowers_the_score_of_most_pictures(scorer: PocketClip, right: str, wrong: str) -> None:
    chosen = [(image, prompt) for image, prompt in sample_scenes() if right in prompt.split()]
    images = [image for image, _ in chosen]
    true = values(scorer, images, [prompt for _, prompt in chosen])
    false = values(scorer, images, [prompt.replace(right, wrong) for _, prompt in chosen])
    better = [a > b for a, b in zip(true, false, strict=True)]
    assert better and sum(better) / len(better) >= 0.75


def test_case_and_punctuation_of_a_prompt_do_not_matter(scorer: PocketClip) -> None:
    plain, loud = values(scorer, [IMAGES[0]] * 2, ["a cat on a pink background", "A CAT, on a pink background."])
    assert plain == loud


def test_a_prompt_from_elsewhere_gets_a_reason_and_its_neighbours_their_values(scorer: PocketClip) -> None:
    strange = "an oil painting of three lighthouses at dusk"
    first, second, third = scorer.score(IMAGES[:3], [PROMPTS[0], strange, PROMPTS[2]])
    assert second.reason is not None and "knows 2 of the 8 words" in second.reason
    assert [first, third] == scorer.score([IMAGES[0], IMAGES[2]], [PROMPTS[0], PROMPTS[2]])
    assert all(score.reason for score in scorer.score(IMAGES[:2], ["", "?!"]))


def test_larger_pictures_score_like_their_reduction(scorer: PocketClip) -> None:
    enlarged = [image.resize((128, 128), Image.Resampling.BICUBIC) for image in IMAGES]
    assert values(scorer, enlarged, PROMPTS) == pytest.approx(values(scorer, IMAGES, PROMPTS), abs=0.1)


def test_the_card_holds_the_digest_of_every_file_that_moves_a_score(scorer: PocketClip) -> None:
    assert set(scorer.card.weights) == set(FILES)
    for name, digest in scorer.card.weights.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest
    other = dataclasses.replace(scorer.card, weights=dict.fromkeys(FILES, "0"))
    assert card_identity(other) != card_identity(scorer.card)


def test_the_weights_stay_small_enough_for_the_repository() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8 * 2**20


def test_missing_weights_name_the_file_and_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match=r"open_clip_model\.safetensors.*nbench\.pocket\.recipes\.clip"):
        PocketClip(tmp_path)
