"""Differentiable rewards: the scorer's own value, with a gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from nbench.errors import ScorerError
from nbench.pocket.scenes import sample_scenes
from nbench.scoring.differentiable import DifferentiableReward, differentiable_scorers, get_differentiable
from nbench.scoring.registry import get_scorer

NAMES = ["pocket-aesthetic", "pocket-clip"]
IMAGES = [image for image, _ in sample_scenes()]
PROMPTS = [prompt for _, prompt in sample_scenes()]


def _tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in images])


def _scores(name: str, images: Sequence[Image.Image]) -> torch.Tensor:
    return torch.tensor([(score.values or {})[""] for score in get_scorer(name).score(images, PROMPTS)])


@pytest.mark.parametrize("name", NAMES)
def test_on_a_picture_of_the_model_s_size_it_is_the_scorer_s_value(name: str) -> None:
    found = get_differentiable(name).reward(_tensor(IMAGES), PROMPTS)
    assert found.dtype == torch.float32 and found.shape == (16,) and float(found.detach().std()) > 0.01
    assert (found.detach() - _scores(name, IMAGES)).abs().max() < 2e-5  # float rounding in other batches


@pytest.mark.parametrize(("name", "tolerance"), [("pocket-clip", 5e-3), ("pocket-aesthetic", 5e-2)])
@pytest.mark.parametrize("size", [(96, 96), (128, 80), (48, 64)])
def test_elsewhere_it_is_that_within_the_rounding_of_pil_s_filter(
    name: str, tolerance: float, size: tuple[int, int]
) -> None:
    images = [image.resize(size, Image.Resampling.BICUBIC) for image in IMAGES]
    found = get_differentiable(name).reward(_tensor(images), PROMPTS).detach()
    wanted = _scores(name, images)
    assert (found - wanted).abs().max() < tolerance < float(wanted.std())


@pytest.mark.parametrize("name", NAMES)
def test_each_picture_has_its_own_gradient_and_it_points_uphill(name: str) -> None:
    reward = get_differentiable(name)
    pixels = (0.1 + 0.8 * _tensor(IMAGES[:4])).requires_grad_()
    before = reward.reward(pixels, PROMPTS[:4])
    (gradient,) = torch.autograd.grad(before[1], pixels, retain_graph=True)
    assert gradient[1].any() and not gradient[[0, 2, 3]].any()
    (gradient,) = torch.autograd.grad(before.sum(), pixels)
    step = 1e-3 / gradient.flatten(1).norm(dim=1)
    after = reward.reward(pixels + step.view(-1, 1, 1, 1) * gradient, PROMPTS[:4])
    assert (after > before).all()


@pytest.mark.parametrize("name", NAMES)
def test_scoring_before_and_between_changes_nothing(name: str) -> None:
    reward = get_differentiable(name)
    reward.score(IMAGES, PROMPTS)  # type: ignore[attr-defined]  # loads all weights, in inference mode
    pixels = _tensor(IMAGES).requires_grad_()
    first = reward.reward(pixels, PROMPTS)
    first.sum().backward()
    reward.score(IMAGES, PROMPTS)  # type: ignore[attr-defined]
    assert torch.equal(first, reward.reward(pixels, PROMPTS)) and pixels.grad is not None


def test_a_prompt_without_a_score_is_an_error() -> None:
    with pytest.raises(ScorerError, match="'lattice gauge theory'"):
        get_differentiable("pocket-clip").reward(_tensor(IMAGES[:1]), ["lattice gauge theory"])


def test_others_are_refused_and_those_that_can_are_named() -> None:
    assert set(differentiable_scorers()) >= {*NAMES, "pocket-realism"}  # more where weights are
    named = r"'image-stats' cannot be differentiated.*pocket-aesthetic, pocket-clip, pocket-realism"
    with pytest.raises(ScorerError, match=named):
        get_differentiable("image-stats")
    with pytest.raises(ScorerError, match="unknown scorer"):
        get_differentiable("pocket-clop")
    assert isinstance(get_scorer("pocket-clip"), DifferentiableReward)
