"""A detector's folder: written, read back, scored, and refused when it is broken."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from nbench.errors import ScorerError
from nbench.scoring.conformance import check_scorer
from nbench.scoring.realism.detector import (
    CONFIG,
    WEIGHTS,
    DetectorConfig,
    detector_by_path,
    load_detector,
    read_config,
)
from nbench.scoring.realism.views import View
from nbench.scoring.registry import card_identity

NET = DetectorConfig("toy", "A toy.", View("crop", 32, grid=2), widths=(4, 8), licence="CC0", source="this test")


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, NET)
    return tmp_path


def write(folder: Path, config: DetectorConfig) -> None:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(config.as_json(figures={"auc": 0.9}))
    save_file({k: v.half() if v.is_floating_point() else v for k, v in config.build().state_dict().items()},
              folder / WEIGHTS)  # fmt: skip


def test_a_folder_says_what_was_written(folder: Path) -> None:
    assert read_config(folder) == replace(NET, arguments=None)
    card = load_detector(folder).card
    assert (card.name, card.kind, card.uses_prompt, card.licence) == ("toy", "realism", False, "CC0")
    assert card.preprocessing.startswith("RGB; no resizing: 2 x 2 cuts, log-odds averaged of 32 pixels")
    assert list(card.weights) == [WEIGHTS]


def test_log_odds_are_those_of_the_network_averaged_over_cuts(folder: Path) -> None:
    net = NET.build().eval()
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(folder / WEIGHTS).items()})
    image = picture(70, 50)
    cuts = [image.crop((x, y, x + 32, y + 32)) for y in (0, 18) for x in (0, 38)]
    with torch.no_grad():
        wanted = net(NET.view.tensor(cuts)).mean()
    (score,) = load_detector(folder).score([image], [""])
    assert score.values is not None
    assert score.values[""] == pytest.approx(float(wanted), abs=1e-6)


def test_a_picture_that_is_too_small_has_a_reason_and_the_others_have_scores(folder: Path) -> None:
    scores = load_detector(folder).score([picture(64, 64), picture(64, 20), picture(32, 32)], [""] * 3)
    assert [score.ok for score in scores] == [True, False, True]
    assert scores[1].reason == "the picture is 64x20, smaller than the 32 pixels that the detector looks at"


def test_an_untrained_detector_behaves_as_an_instrument(folder: Path) -> None:
    report = check_scorer(load_detector(folder))
    checks = {check.name: check.passed for check in report.checks if "canary" not in check.name}
    assert all(passed is not False for passed in checks.values()), checks


def test_the_identity_follows_weights_and_view_and_not_the_figures(folder: Path, tmp_path: Path) -> None:
    first = card_identity(load_detector(folder).card)
    (folder / CONFIG).write_text(NET.as_json(figures={"auc": 0.1}))
    assert card_identity(load_detector(folder).card) == first
    (folder / CONFIG).write_text(replace(NET, view=View("crop", 32, grid=1)).as_json())
    assert card_identity(load_detector(folder).card) != first
    (folder / CONFIG).write_text(NET.as_json())
    state = load_file(folder / WEIGHTS)
    state["head.4.bias"] += 1
    save_file(state, folder / WEIGHTS)
    assert card_identity(load_detector(folder).card) != first


@pytest.mark.parametrize(
    ("mode", "size", "exact"), [("crop", (70, 50), True), ("resize", (32, 40), True), ("resize", (64, 48), False)]
)
def test_the_reward_is_the_score_and_carries_a_gradient(
    tmp_path: Path, mode: str, size: tuple[int, int], exact: bool
) -> None:
    write(tmp_path, replace(NET, view=View("crop" if mode == "crop" else "resize", 32, grid=2)))
    scorer = load_detector(tmp_path)
    image = picture(8, 6).resize(size, Image.Resampling.BICUBIC)  # smooth, as two filters differ little on such
    pixels = (torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255).requires_grad_()
    reward = scorer.reward(pixels, [""])
    (score,) = scorer.score([image], [""])
    assert score.values is not None
    assert float(reward.detach()) == pytest.approx(score.values[""], abs=1e-5 if exact else 0.02)
    reward.sum().backward()
    assert pixels.grad is not None and float(pixels.grad.abs().sum()) > 0


def test_the_reward_of_pictures_that_are_too_small_is_refused(folder: Path) -> None:
    with pytest.raises(ScorerError, match="pictures of 40x20 are smaller than the 32 pixels"):
        load_detector(folder).reward(torch.zeros(1, 3, 20, 40), [""])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "holds no detector"),
        ("{", "is not JSON"),
        ("[]", "has format None"),
        ('{"format": 9}', "has format 9, this nbench reads format 1"),
        ('{"format": 1, "name": "x"}', "is incomplete"),
    ],
)
def test_a_broken_description_is_explained(folder: Path, text: str | None, said: str) -> None:
    (folder / CONFIG).unlink() if text is None else (folder / CONFIG).write_text(text)
    with pytest.raises(ScorerError, match=said):
        load_detector(folder)


def test_a_path_names_a_detector_and_its_identity_does_not_depend_on_the_path(folder: Path, tmp_path: Path) -> None:
    first = detector_by_path(f"realism@{folder}").card
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved, ignore=shutil.ignore_patterns("elsewhere"))
    second = detector_by_path(f"realism@{moved}").card
    assert first.name == second.name == "realism@toy"
    assert card_identity(first) == card_identity(second)
    assert load_detector(folder, name="my-detector").card.name == "my-detector"


def test_weights_of_another_detector_are_refused(folder: Path) -> None:
    (folder / CONFIG).write_text(replace(NET, widths=(4, 16)).as_json())
    with pytest.raises(ScorerError, match=r"does not fit detector\.json beside it"):
        load_detector(folder).score([picture(32, 32)], [""])
    (folder / WEIGHTS).unlink()
    with pytest.raises(ScorerError, match="cannot be read"):
        _ = load_detector(folder).card


def test_a_timm_backbone_is_part_of_the_folder(tmp_path: Path) -> None:
    config = DetectorConfig(
        "head", "A head.", View("resize", 32), architecture="vit_tiny_patch16_224",
        arguments={"img_size": 32, "depth": 1, "embed_dim": 16, "num_heads": 2},
    )  # fmt: skip
    write(tmp_path / "head", config)
    assert json.loads((tmp_path / "head" / CONFIG).read_text())["architecture"] == "vit_tiny_patch16_224"
    (score,) = load_detector(tmp_path / "head").score([picture(80, 40)], [""])
    assert score.ok
