"""Ratio statistics: identities of GRPO-Guard's log-ratio, the published scales, gradients against autograd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nbench.errors import UsageError
from nbench.flow.load import CheckpointSpec, load_model
from nbench.flow.model import Conditioning
from nbench.normguard.analysis.ratios import ratio_statistics, step_scales, summarise_ratios
from nbench.normguard.guards.ratio_norm import ratio_norm
from nbench.normguard.losses.grpo import clipped_surrogate, sde_log_prob, sde_moments, sde_step
from nbench.prompts import Prompt
from nbench.testing import FakeFlowModel

PROMPTS = tuple(Prompt(f"p{i}", f"prompt {i}") for i in range(8))
SD3_10 = [1, 0.9601, 0.9133, 0.8577, 0.7904, 0.7073, 0.6022, 0.4649, 0.2780, 0.0089, 0]


class Shifted(FakeFlowModel):
    """The fake's velocity plus a constant."""

    shift = 0.05

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning, *, guidance: float) -> torch.Tensor:
        return super().velocity(x, sigma, cond, guidance=guidance) + self.shift


def _ratios(policy: FakeFlowModel, **options: object):  # type: ignore[no-untyped-def]
    asked = {"steps": 6, "seeds": 8, "guidance": 1.0, **options}
    return ratio_statistics(policy, FakeFlowModel("m"), PROMPTS, **asked)  # type: ignore[arg-type]


def test_the_old_policy_against_itself_has_log_ratio_0_exactly() -> None:
    found = _ratios(FakeFlowModel("m"))
    assert found.raw.shape == found.normalised.shape == (64, 5)
    assert not found.raw.any() and not found.normalised.any()
    for line in summarise_ratios(found):
        assert (line.mean.mean, line.std, line.outside) == (0, 0, 0)


def test_raw_and_normalised_have_the_mean_and_spread_of_the_theory() -> None:
    found = _ratios(Shifted("m"))
    elements = 4 * 4 * 4
    dmu = found.gain * Shifted.shift  # the same in every element
    shift = -(dmu**2) / (2 * found.std**2)
    error = 4 / np.sqrt(len(found.raw))  # 4 standard errors, in units of the spread
    spread = dmu / np.sqrt(elements)
    assert (np.abs(found.normalised.mean(0)) < error * spread).all()
    assert (np.abs(found.raw.mean(0) - shift) < error * spread / found.std).all()
    np.testing.assert_allclose(found.normalised.std(0), spread, rtol=0.36)
    # sample by sample: log rho = log rho^ / s - MSE / (2 s^2)
    np.testing.assert_allclose(found.raw, found.normalised / found.std + shift, atol=1e-6)


def test_step_scales_are_the_published_ones() -> None:
    std, dt, gain = step_scales(torch.tensor(SD3_10), eta=0.7)
    np.testing.assert_allclose(std, [0.7000, 0.7428, 0.5357, 0.4458, 0.3919, 0.3528, 0.3191, 0.2821, 0.2253], atol=5e-4)
    np.testing.assert_allclose(
        gain, [0.0399, 0.0583, 0.0692, 0.0838, 0.1035, 0.1308, 0.1709, 0.2327, 0.3350], atol=1e-4
    )
    np.testing.assert_allclose(dt, -np.diff(SD3_10)[:-1], rtol=1e-6)


def test_gradient_scales_are_those_of_the_losses() -> None:
    grid, step, eta, rows = torch.tensor(SD3_10), 4, 0.7, 3
    generator = torch.Generator().manual_seed(0)
    x, v, z = (torch.randn(rows, 4, 4, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    t, t_next = grid[step], grid[step + 1]
    taken = sde_step(x, v, t, t_next, eta=eta, sigma_first=grid[1], noise=z)
    advantage = torch.ones(rows, dtype=torch.float64)
    scale = z.flatten(1).square().mean(1).sqrt() / z[0].numel() ** 0.5  # norm of A z / D

    def gradient(normalised: bool) -> torch.Tensor:
        theta = v.clone().requires_grad_()
        mean, std = sde_moments(x, theta, t, t_next, eta=eta, sigma_first=grid[1])
        new, old = sde_log_prob(taken.x_next, mean, std), sde_log_prob(taken.x_next, taken.mean, std)
        ratio, weight = ratio_norm(new, old, mean, taken.mean, std, t_next - t)
        loss = weight * clipped_surrogate(ratio, advantage, clip=1.0) if normalised else None
        loss = clipped_surrogate(new - old, advantage, clip=1.0) if loss is None else loss
        return torch.autograd.grad(loss.sum(), theta)[0].flatten(1).norm(dim=1)

    std, dt, gain = step_scales(grid, eta=eta)
    torch.testing.assert_close(gradient(False), scale * float(gain[step] / std[step]))
    torch.testing.assert_close(gradient(True), scale * float(gain[step] / dt[step]))


def test_the_share_outside_the_clip_counts_ratios() -> None:
    found = _ratios(Shifted("m"))
    clip = float(np.median(np.abs(np.expm1(found.raw))))
    lines = summarise_ratios(found, clip=clip, clip_normalised=1e9)
    assert lines[0].kind == "raw" and lines[0].outside == pytest.approx(0.5, abs=0.01)
    steps = [line.outside for line in lines if line.kind == "raw" and line.step is not None]
    assert np.mean(steps) == pytest.approx(lines[0].outside)
    assert all(line.outside == 0 for line in lines if line.kind == "normalised")


def test_a_broken_sample_is_left_out_and_counted() -> None:
    old = FakeFlowModel("m", nan_prompts=["prompt 2"])
    found = ratio_statistics(Shifted("m"), old, PROMPTS, steps=6, seeds=8, guidance=1.0)
    lines, whole = summarise_ratios(found), summarise_ratios(_ratios(Shifted("m")))
    assert {line.failed for line in lines} == {8} and {line.failed for line in whole} == {0}
    assert all(line.mean.values == 56 and line.std > 0 for line in lines)
    found.raw[:] = np.nan
    with pytest.raises(UsageError, match="no sample"):
        summarise_ratios(found)


@pytest.mark.parametrize(("options", "message"), [({"steps": 1}, "at least 2"), ({"eta": 0.0}, "eta is 0")])
def test_what_has_no_ratio_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _ratios(FakeFlowModel("m"), **options)


def test_a_real_transformer_with_a_lora(sd3_folder: Path, sd3_lora: Path) -> None:
    model = load_model(CheckpointSpec("m", str(sd3_folder), lora=str(sd3_lora), device="cpu"))
    base = model.reference_view()  # type: ignore[attr-defined]
    found = ratio_statistics(model, base, PROMPTS[:3], steps=3, seeds=1, guidance=1.0, batch_size=2)
    assert np.isfinite(found.raw).all() and (found.raw != 0).all() and (found.normalised != 0).all()
    itself = ratio_statistics(base, base, PROMPTS[:3], steps=3, seeds=1, guidance=1.0, batch_size=2)
    assert not itself.raw.any()
