"""Adjoint sensitivity against a closed form and against central finite differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from nbench.errors import ScorerError, UsageError
from nbench.flow.load import CheckpointSpec, load_model
from nbench.flow.model import Conditioning, FlowModel
from nbench.normguard.analysis.adjoint import adjoint_sensitivity, sample_scaled
from nbench.normguard.analysis.rows import Samples, Sampling
from nbench.prompts import Prompt, load_prompt_set
from nbench.scoring.differentiable import DifferentiableReward, get_differentiable
from nbench.scoring.scorer import ScorerCard
from nbench.testing import FakeFlowModel, FakeScorer

PROMPTS = tuple(Prompt(f"p{i}", f"prompt {i}") for i in range(3))


class Linear:
    """R = < w, pixels > / pixels, w fixed: smooth, and the same for every prompt."""

    def __init__(self, height: int = 32, width: int = 32) -> None:
        self.w = torch.randn(3, height, width, generator=torch.Generator().manual_seed(7))

    @property
    def card(self) -> ScorerCard:
        return FakeScorer("linear").card

    def reward(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        assert len(images) == len(prompts)
        return (images * self.w).flatten(1).mean(1)


class Decay(FakeFlowModel):
    """v = b x, whose latents are its pictures."""

    b = 0.7

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning, *, guidance: float) -> torch.Tensor:
        return self.b * x

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3]


def _differences(
    model: FlowModel, reward: DifferentiableReward, prompts: Sequence[Prompt], steps: int, h: float, guidance: float
) -> np.ndarray:
    """Central differences of the reward in log a_k, [samples, steps], one seed per prompt."""
    batch = next(Samples(model, prompts, Sampling(steps, 1, guidance, batch_size=len(prompts))).batches())
    texts = [prompt.text for prompt in prompts]

    def at(step: int, log_scale: float) -> torch.Tensor:
        scales = [1.0] * steps
        scales[step] = float(np.exp(log_scale))
        latents = sample_scaled(model, batch.cond, batch.noise, batch.sigmas, scales, guidance=guidance)
        with torch.no_grad():
            return reward.reward(model.decode(latents), texts).double()

    return torch.stack([(at(step, h) - at(step, -h)) / (2 * h) for step in range(steps)], 1).numpy()


def test_a_linear_flow_has_its_closed_form() -> None:
    model, reward = Decay("m"), Linear(4, 4)
    found = adjoint_sensitivity(model, reward, PROMPTS, steps=5, seeds=2, guidance=1.0)
    dt = np.diff(model.sigmas(5, height=32, width=32).numpy())
    # x_K = prod (1 + dt b) x_0 and R is linear in it, so dR / d log a_k = R dt_k b / (1 + dt_k b)
    wanted = found.rewards[:, None] * (dt * model.b / (1 + dt * model.b))
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(found.values, wanted, rtol=2e-5, atol=1e-7)
    assert found.prompt_ids == ("p0", "p0", "p1", "p1", "p2", "p2") and found.seeds == (0, 1) * 3


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_nonlinear_flow_agrees_with_finite_differences(guidance: float) -> None:
    model, reward = FakeFlowModel("m", lora="nft"), Linear()
    found = adjoint_sensitivity(model, reward, PROMPTS, steps=4, seeds=1, guidance=guidance)
    h = 1e-2  # truncation about h^2, float32 rounding about 1e-7 / h
    wanted = _differences(model, reward, PROMPTS, 4, h, guidance)
    assert np.abs(wanted).min() > 1e-6
    assert np.abs(found.values - wanted).max() < 2e-3 * np.abs(wanted).max()


def test_pocket_sd3_agrees_with_finite_differences() -> None:
    model = load_model(CheckpointSpec("m", "pocket-sd3", device="cpu"))
    reward, prompts = Linear(64, 64), load_prompt_set("pocket", 2).prompts
    found = adjoint_sensitivity(model, reward, prompts, steps=3, seeds=1, guidance=1.0)
    wanted = _differences(model, reward, prompts, 3, 1e-2, 1.0)
    # Without the decoder's clamp to [0, 1] this is 1e-3 in float64; pixels that cross the clamp make kinks of 1 %.
    assert np.abs(found.values - wanted).max() < 0.03 * np.abs(wanted).max()
    assert np.sign(found.values[:, :2]).tolist() == np.sign(wanted[:, :2]).tolist()


def test_a_sample_does_not_depend_on_its_batch() -> None:
    model, reward = FakeFlowModel("m"), Linear()
    one = adjoint_sensitivity(model, reward, PROMPTS, steps=3, seeds=2, guidance=1.0, batch_size=1)
    all_of_them = adjoint_sensitivity(model, reward, PROMPTS, steps=3, seeds=2, guidance=1.0, batch_size=6)
    np.testing.assert_allclose(one.values, all_of_them.values, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(one.controls, all_of_them.controls, rtol=1e-5, atol=1e-9)


def test_controls_have_the_size_of_a_random_direction_of_the_same_norm() -> None:
    model, reward = Decay("m"), Linear(4, 4)
    found = adjoint_sensitivity(model, reward, PROMPTS, steps=3, seeds=1, guidance=1.0, controls=400)
    sigmas = model.sigmas(3, height=32, width=32)
    batch = next(Samples(model, PROMPTS, Sampling(3, 1, 1.0)).batches())
    x = batch.noise  # at the first step; g_1 = w / pixels times what the later steps do to it
    dt = torch.diff(sigmas)
    later = float(torch.prod(1 + dt[1:] * model.b))
    g = torch.cat([reward.w, torch.zeros(1, 4, 4)]).flatten() / reward.w.numel() * later
    wanted = abs(float(dt[0])) * model.b * x.flatten(1).square().mean(1).sqrt() * g.norm()
    measured = found.controls[:, :, 0]
    np.testing.assert_allclose(measured.std(0), wanted, rtol=0.15)  # 400 draws: 4 standard errors
    assert (np.abs(measured.mean(0)) < 4 * wanted.numpy() / 20).all()


def test_no_gradient_is_an_error_not_a_zero() -> None:
    class Closed(FakeFlowModel):
        @torch.no_grad()
        def decode(self, x: torch.Tensor) -> torch.Tensor:
            return super().decode(x)

    with pytest.raises(UsageError, match="no gradient of linear reaches the latents"):
        adjoint_sensitivity(Closed("m"), Linear(), PROMPTS, steps=2, seeds=1, guidance=1.0)


def test_a_prompt_without_a_score_is_named() -> None:
    prompts = [Prompt("a", "quantum chromodynamics lecture")]
    with pytest.raises(ScorerError, match="quantum chromodynamics lecture"):
        adjoint_sensitivity(
            FakeFlowModel("m"), get_differentiable("pocket-clip"), prompts, steps=2, seeds=1, guidance=1.0
        )


def test_a_sample_that_is_not_finite_spoils_no_other() -> None:
    reward = Linear()
    broken = adjoint_sensitivity(
        FakeFlowModel("m", nan_prompts=["prompt 1"]), reward, PROMPTS, steps=3, seeds=1, guidance=1.0
    )
    whole = adjoint_sensitivity(FakeFlowModel("m"), reward, PROMPTS, steps=3, seeds=1, guidance=1.0)
    assert np.isnan(broken.values[1]).all() and np.isnan(broken.rewards[1]) and np.isnan(broken.controls[:, 1]).all()
    np.testing.assert_allclose(broken.values[[0, 2]], whole.values[[0, 2]], rtol=1e-6)
