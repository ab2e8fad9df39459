"""CLIPScore is a cosine; what others call CLIPScore are named scales of it."""

from pathlib import Path

import pytest
import torch
from clip_parts import PICTURES, PROMPTS, tensor, values
from transformers import CLIPModel

from nbench.scoring.backbones import CLIP_L14
from nbench.scoring.rewards.clipscore import ClipScore, create
from nbench.scoring.variants import in_variant

VARIANTS = {variant.name: variant for variant in ClipScore.about.variants}


def test_it_is_logits_per_image_over_the_temperature(published: Path) -> None:
    scorer = create("cpu")
    model = CLIPModel.from_pretrained(published / CLIP_L14.repo).eval()
    with torch.inference_mode():
        output = model(
            input_ids=scorer.backbone.tokens(PROMPTS), pixel_values=scorer.backbone.pixels(PICTURES), return_dict=True
        )
    wanted = output.logits_per_image.diag() / model.logit_scale.exp()
    assert values(scorer, PICTURES, PROMPTS) == pytest.approx(wanted.tolist(), abs=1e-6)


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("name", "factor", "floored"),
    [("x100", 100, False), ("torchmetrics", 100, True), ("over-30", 100 / 30, False), ("hessel-2.5", 2.5, True)],
)
def test_each_variant_is_its_formula(name: str, factor: float, floored: bool) -> None:
    images = PICTURES * 6
    prompts = [prompt for prompt in PROMPTS for _ in PICTURES]
    cosines = values(create("cpu"), images, prompts)
    assert min(cosines) < -0.01 < 0.01 < max(cosines)
    wanted = [factor * (max(cosine, 0) if floored else cosine) for cosine in cosines]
    scorer = in_variant(create("cpu"), name)
    assert values(scorer, images, prompts) == pytest.approx(wanted, rel=1e-12)
    reward = scorer.reward(tensor(images), prompts)  # type: ignore[attr-defined]
    assert reward.tolist() == pytest.approx(wanted, abs=2e-6 * factor)


def test_every_variant_says_whose_it_is_and_its_range() -> None:
    assert set(VARIANTS) == {"x100", "torchmetrics", "over-30", "hessel-2.5"}
    assert all(variant.source and variant.unit for variant in VARIANTS.values())
    assert "ViT-B/32" in VARIANTS["hessel-2.5"].source and "not theirs" in VARIANTS["hessel-2.5"].source
