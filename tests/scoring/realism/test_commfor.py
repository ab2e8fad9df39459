"""Community Forensics: the published layout, the authors' preprocessing, the orientation."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from nbench.errors import ScorerError
from nbench.scoring.differentiable import DifferentiableReward
from nbench.scoring.realism import commfor
from nbench.scoring.weights import WEIGHTS_FOLDER
from nbench.testing.published_realism import CommforSize, commfor_folder, commfor_tensors

SMALL = CommforSize(width=64, layers=2)


class Small(commfor.CommunityForensics):
    """The scorer on a narrow ViT of the same layout."""

    arguments: ClassVar = {"embed_dim": SMALL.width, "depth": SMALL.layers, "num_heads": 4}
    rows_per_forward = 3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    return tmp_path


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise)


def test_the_published_layout_has_the_published_size_and_loads_strictly(folder: Path) -> None:
    path = commfor_folder(folder)
    assert len(commfor_tensors()) == 152
    assert path.stat().st_size == commfor.PUBLISHED[1]  # bytes of the file on the hub: names and shapes are right
    scorer = commfor.create("cpu")
    scorer.rows_per_forward = 1
    (score,) = scorer.score([picture(64, 64)], [""])
    assert score.values is not None and set(score.values) == {"", "logit_fake"}


def test_the_score_is_minus_the_published_logit(folder: Path) -> None:
    import timm
    from safetensors.torch import load_file

    path = commfor_folder(folder, SMALL)
    reference = timm.create_model(commfor.ARCHITECTURE, num_classes=1, **Small.arguments).eval()
    reference.load_state_dict({name.removeprefix("vit."): value for name, value in load_file(path).items()})
    images = [picture(512, 512, 1), picture(300, 700, 2)]
    with torch.no_grad():
        wanted = reference(torch.cat([reference_transform(image) for image in images]))[:, 0].tolist()
    for score, logit in zip(Small().score(images, ["", ""]), wanted, strict=True):
        assert score.values is not None
        assert score.values["logit_fake"] == pytest.approx(logit, abs=1e-5)
        assert score.values[""] == -score.values["logit_fake"]


def reference_transform(image: Image.Image) -> torch.Tensor:
    """The test transform of the authors' repository, as they write it."""
    from torchvision import transforms

    compose = transforms.Compose(
        [
            transforms.Resize(440),
            transforms.CenterCrop(384),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    pixels: torch.Tensor = compose(image)[None]
    return pixels


@pytest.mark.parametrize("size", [(512, 512), (1024, 768), (300, 700), (384, 384), (64, 64), (441, 440)])
def test_preprocessing_is_that_of_the_reference(size: tuple[int, int]) -> None:
    image = picture(*size)
    assert torch.equal(commfor.prepare([image]), reference_transform(image))


def test_a_head_that_says_generated_gives_low_log_odds_of_real(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = commfor_folder(folder, SMALL)
    state = load_file(path)
    state["vit.head.weight"], state["vit.head.bias"] = torch.zeros(1, SMALL.width), torch.tensor([4.0])
    save_file(state, path)
    (score,) = Small().score([picture(400, 400)], [""])
    assert score.values == {"": -4.0, "logit_fake": 4.0}


def test_rows_do_not_depend_on_their_company(folder: Path) -> None:
    commfor_folder(folder, SMALL)
    images = [picture(100 + 50 * i, 200, i) for i in range(5)]
    scorer = Small()
    for image, together in zip(images, scorer.score(images, [""] * 5), strict=True):
        (alone,) = scorer.score([image], [""])
        assert alone.values == pytest.approx(together.values, abs=1e-5)


def test_the_reward_is_the_score_of_pictures_that_need_no_resizing_and_carries_a_gradient(folder: Path) -> None:
    commfor_folder(folder, SMALL)
    scorer = Small()
    assert isinstance(scorer, DifferentiableReward)
    image = picture(440, 500, 3)
    pixels = (torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255).requires_grad_()
    reward = scorer.reward(pixels, [""])
    (score,) = scorer.score([image], [""])
    assert score.values is not None
    assert float(reward.detach()) == pytest.approx(score.values[""], abs=1e-4)
    reward.sum().backward()
    assert pixels.grad is not None and float(pixels.grad.abs().sum()) > 0


def test_another_checkpoint_is_refused_by_name(folder: Path) -> None:
    commfor_folder(folder, CommforSize(width=32, layers=2))
    with pytest.raises(ScorerError, match="not the Community Forensics checkpoint"):
        Small().score([picture(64, 64)], [""])


def test_missing_weights_say_how_to_get_them(folder: Path) -> None:
    with pytest.raises(ScorerError, match="hf download OwensLab/commfor-model-384 --revision 6076002bf0d9"):
        _ = commfor.create("cpu").card
    assert commfor.create("cpu").about.kind == "realism"
