"""HPSv2: the whole picture counts, the logit scale does not, and the two versions are two scorers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from clip_parts import PICTURES, PROMPTS, picture, values

from nbench.scoring.rewards.hps import Hps20, Hps21, create_v20, create_v21
from nbench.scoring.variants import in_variant

pytestmark = pytest.mark.usefixtures("published")


def test_the_two_versions_read_their_own_files_and_have_their_own_scales() -> None:
    assert Hps20.sources[0].files == ("HPS_v2_compressed.pt",) and Hps21.sources[0].files == ("HPS_v2.1_compressed.pt",)
    old, new = create_v20("cpu"), create_v21("cpu")
    assert not set(old.card.weights.values()) & set(new.card.weights.values())
    assert "not on the scale of hpsv2.0" in new.card.metrics[0].unit
    assert values(old, PICTURES, PROMPTS) != values(new, PICTURES, PROMPTS)


def test_the_logit_scale_is_not_in_the_score() -> None:
    scorer = create_v21("cpu")
    assert scorer.backbone.logit_scale > 99
    assert all(-1 <= value <= 1 for value in values(scorer, PICTURES, PROMPTS))
    assert values(in_variant(create_v21("cpu"), "x100"), PICTURES, PROMPTS) == pytest.approx(
        [100 * value for value in values(scorer, PICTURES, PROMPTS)]
    )


def test_the_edges_of_an_oblong_picture_count() -> None:
    image = picture(96, 32, 2)
    spoiled = image.copy()
    spoiled.paste((255, 0, 0), (0, 0, 30, 32))  # a centre crop would not see it
    one, other = values(create_v21("cpu"), [image, spoiled], PROMPTS[:1] * 2)
    assert abs(one - other) > 1e-3


def test_the_card_says_that_antialiasing_is_pinned() -> None:
    assert "antialias=True" in Hps21.about.preprocessing and "letter-box" in Hps21.about.preprocessing


def test_sizes_come_from_open_clip_s_own_table(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbench.scoring.rewards.hps.Hps.architecture", "ViT-H-14")
    backbone = create_v21("cpu").backbone
    assert backbone.pixels([picture(512, 768, 0)]).shape == torch.Size([1, 3, 224, 224])
    assert backbone.tokens(["a cat"]).shape == (1, 77)
