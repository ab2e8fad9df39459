"""The fakes keep the promises that tests build on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from nbench.errors import UsageError
from nbench.flow.load import CheckpointSpec, reference_view, swap_lora
from nbench.flow.model import FlowModel
from nbench.flow.sample import sample
from nbench.scoring.scorer import Scorer
from nbench.testing import FakeFlowModel, FakeScorer, fake_loader


def _pictures(model: FlowModel, prompts: list[str], *, steps: int = 4, guidance: float = 1.0) -> torch.Tensor:
    noise = model.noise(list(range(len(prompts))), height=32, width=32)
    sigmas = model.sigmas(steps, height=32, width=32)
    cond = model.encode(prompts, guidance=guidance)
    return model.decode(sample(model, cond, noise, sigmas, guidance=guidance).latents)


def test_the_fake_model_is_deterministic_and_independent_of_batch() -> None:
    together = _pictures(FakeFlowModel(), ["a", "b", "c"])
    assert together.shape == (3, 3, 32, 32)
    assert torch.equal(together, _pictures(FakeFlowModel(), ["a", "b", "c"]))
    assert torch.equal(together[:1], _pictures(FakeFlowModel(), ["a"]))


def test_everything_that_should_change_the_fake_pictures_does() -> None:
    pictures = [
        _pictures(FakeFlowModel(), ["a"]),
        _pictures(FakeFlowModel(), ["b"]),
        _pictures(FakeFlowModel(), ["a"], steps=2),
        _pictures(FakeFlowModel(), ["a"], guidance=4.0),
        _pictures(FakeFlowModel("other"), ["a"]),
        _pictures(FakeFlowModel(lora="x"), ["a"]),
        _pictures(FakeFlowModel(lora="y"), ["a"]),
        _pictures(FakeFlowModel(lora="x", lora_scale=0.5), ["a"]),
    ]
    for i, one in enumerate(pictures):
        assert all((one - other).abs().max() > 1e-3 for other in pictures[:i])


def test_the_fake_model_swaps_loras_like_a_real_one() -> None:
    model = fake_loader(CheckpointSpec("x", "org/base", lora="x"))
    fresh = fake_loader(CheckpointSpec("y", "org/base"))
    assert model.weights_hash != fresh.weights_hash
    assert reference_view(model).weights_hash == fresh.weights_hash
    swap_lora(model, None)
    assert model.weights_hash == fresh.weights_hash
    assert torch.equal(_pictures(model, ["a"]), _pictures(fresh, ["a"]))
    assert model.swaps == [None]


def test_the_fake_model_refuses_what_a_real_one_does() -> None:
    with pytest.raises(UsageError, match="not divisible"):
        FakeFlowModel().noise([1], height=33, width=32)
    with pytest.raises(UsageError, match="at least 1"):
        FakeFlowModel().sigmas(0, height=32, width=32)


def test_the_fake_scorer_scores_fails_and_raises_as_told() -> None:
    scorer: Scorer = FakeScorer(fail_prompts=["bad"], raise_prompts=["worse"])
    grey = Image.fromarray(np.full((8, 8, 3), 51, dtype=np.uint8))
    good, bad = scorer.score([grey, grey], ["good", "bad"])
    assert 0.2 <= good.values[""] <= 0.21
    assert not bad.ok
    with pytest.raises(RuntimeError, match="worse"):
        scorer.score([grey, grey], ["good", "worse"])
