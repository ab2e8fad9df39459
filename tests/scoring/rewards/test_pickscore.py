"""PickScore against the recipe of its model card, and as reinforcement learning uses it."""

from pathlib import Path

import pytest
import torch
from clip_parts import PROMPTS, golden, picture, values
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from nbench.scoring.rewards.pickscore import PROCESSOR, WEIGHTS, create
from nbench.scoring.variants import in_variant

IMAGES = [picture(70 + 10 * seed, 64, seed) for seed in range(len(PROMPTS))]


def test_it_is_the_recipe_of_the_model_card(published: Path) -> None:
    model = CLIPModel.from_pretrained(published / WEIGHTS.repo).eval()
    prepare = CLIPImageProcessorPil.from_pretrained(published / PROCESSOR.repo)
    tokenize = CLIPTokenizer.from_pretrained(published / PROCESSOR.repo)
    settings = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}
    with torch.inference_mode():
        pictures = model.get_image_features(**prepare(IMAGES, return_tensors="pt")).pooler_output
        texts = model.get_text_features(**tokenize(PROMPTS, **settings)).pooler_output
        pictures, texts = (one / one.norm(dim=-1, keepdim=True) for one in (pictures, texts))
        wanted = (model.logit_scale.exp() * (texts @ pictures.T)).diag()
    assert float(wanted.std()) > 1
    assert values(create("cpu"), IMAGES, PROMPTS) == pytest.approx(wanted.tolist(), abs=1e-4)


@pytest.mark.usefixtures("published")
def test_over_26_is_within_1e_4_of_the_reference_implementation() -> None:  # self-check 20 of the methods page
    images, prompts, recorded = golden("pickscore-v1")
    scorer = in_variant(create("cpu"), "over-26")
    wanted = [case["value"] / 26 for case in recorded["cases"]]
    assert scorer.card.name == "pickscore-v1:over-26"
    assert values(scorer, images, prompts) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.usefixtures("published")
def test_a_variant_beside_the_score_costs_no_second_network() -> None:
    plain, reward = create("cpu"), create("cpu")
    assert plain.backbone is reward.backbone
    assert plain.scale == pytest.approx(99.484, abs=1e-3)  # exp(4.6), as in the file
