"""Sampling and sweeps, on a model without networks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from nbench.errors import UsageError
from nbench.flow.load import CheckpointSpec, load_model
from nbench.flow.norms import NormRescale, rms
from nbench.flow.sample import Trajectory, euler_step, noise_seed, sample, sweep
from nbench.testing import FakeFlowModel

PROMPTS = ["a cat", "two dogs", "a red cube"]


def _batch(model: FakeFlowModel, *, guidance: float = 1.0) -> tuple:
    cond = model.encode(PROMPTS, guidance=guidance)
    noise = model.noise([1, 2, 3], height=32, width=32)
    return cond, noise, {steps: model.sigmas(steps, height=32, width=32) for steps in (1, 2, 4, 8)}


def _same(a: Trajectory, b: Trajectory) -> bool:
    ratios = (a.ratios is None and b.ratios is None) or torch.equal(a.ratios, b.ratios)
    return torch.equal(a.latents, b.latents) and torch.equal(a.norms, b.norms) and ratios


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_euler_steps_equal_the_diffusers_scheduler_bit_for_bit(dtype: torch.dtype) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(7)
    generator = torch.Generator().manual_seed(0)
    ours = stock = torch.randn(2, 4, 8, 8, generator=generator).to(dtype)
    for step, t in enumerate(scheduler.timesteps):
        v = torch.randn(2, 4, 8, 8, generator=generator).to(dtype)
        ours = euler_step(ours, v, scheduler.sigmas[step], scheduler.sigmas[step + 1])
        stock = scheduler.step(v, t, stock, return_dict=False)[0]
        assert ours.dtype == dtype
        assert torch.equal(ours, stock)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_sweep_equals_separate_samples(guidance: float) -> None:
    model = FakeFlowModel()
    cond, noise, grids = _batch(model, guidance=guidance)
    together = sweep(model, cond, noise, grids, guidance=guidance)
    assert list(together) == [1, 2, 4, 8]
    for steps, sigmas in grids.items():
        assert _same(together[steps], sample(model, cond, noise, sigmas, guidance=guidance))
    assert not torch.equal(together[2].latents, together[8].latents)


def test_a_sweep_computes_the_first_velocity_once() -> None:
    model = FakeFlowModel()
    cond, noise, grids = _batch(model)
    sweep(model, cond, noise, grids, guidance=1.0)
    assert model.velocity_calls == 1 + 2 + 4 + 8 - 3
    model.velocity_calls = 0
    sweep(model, cond, noise, grids, guidance=1.0, share_first=False)
    assert model.velocity_calls == 1 + 2 + 4 + 8


def test_a_sweep_shares_no_first_velocity_between_grids_that_start_elsewhere() -> None:
    model = FakeFlowModel()
    cond, noise, _ = _batch(model)
    grids = {2: torch.tensor([1.0, 0.5, 0.0]), 3: torch.tensor([0.9, 0.5, 0.2, 0.0])}
    found = sweep(model, cond, noise, grids, guidance=1.0)
    for steps, sigmas in grids.items():
        assert _same(found[steps], sample(model, cond, noise, sigmas, guidance=1.0))


def test_norms_are_the_rms_of_each_velocity_and_cost_no_forward() -> None:
    model = FakeFlowModel()
    cond, noise, grids = _batch(model)
    found = sample(model, cond, noise, grids[4], guidance=1.0)
    assert model.velocity_calls == 4
    assert found.norms.shape == (4, 3)
    assert found.norms.dtype == torch.float32
    assert found.ratios is None
    x = noise
    for step in range(4):
        v = model.velocity(x, grids[4][step], cond, guidance=1.0)
        assert torch.equal(found.norms[step], (v**2).mean((1, 2, 3)).sqrt())
        x = euler_step(x, v, grids[4][step], grids[4][step + 1])
    assert torch.equal(x, found.latents)


def test_ratios_compare_with_the_reference_at_the_same_state() -> None:
    model = FakeFlowModel(lora="longer", lora_scale=1.0)
    cond, noise, grids = _batch(model)
    reference = model.reference_view()
    found = sample(model, cond, noise, grids[4], guidance=1.0, reference=reference)
    assert reference.velocity_calls == 4
    assert found.ratios.shape == (4, 3)
    at_noise = rms(model.velocity(noise, grids[4][0], cond, guidance=1.0)) / rms(
        reference.velocity(noise, grids[4][0], cond, guidance=1.0)
    )
    assert torch.equal(found.ratios[0], at_noise)
    itself = sample(model, cond, noise, grids[4], guidance=1.0, reference=model)
    assert torch.equal(itself.ratios, torch.ones(4, 3))
    assert torch.equal(itself.latents, sample(model, cond, noise, grids[4], guidance=1.0).latents)


def test_a_sweep_with_a_reference_equals_separate_samples_and_shares_its_first_forward() -> None:
    model = FakeFlowModel(lora="longer")
    reference = model.reference_view()
    cond, noise, grids = _batch(model)
    together = sweep(model, cond, noise, grids, guidance=1.0, reference=reference, rescale=NormRescale())
    assert reference.velocity_calls == model.velocity_calls == 1 + 2 + 4 + 8 - 3
    for steps, sigmas in grids.items():
        alone = sample(model, cond, noise, sigmas, guidance=1.0, reference=reference, rescale=NormRescale())
        assert _same(together[steps], alone)


def test_full_rescale_follows_the_direction_of_the_model_with_the_norm_of_the_reference() -> None:
    model = FakeFlowModel(lora="longer")
    reference = model.reference_view()
    cond, noise, grids = _batch(model)
    found = sample(model, cond, noise, grids[1], guidance=1.0, reference=reference, rescale=NormRescale())
    moved = noise - found.latents  # one step from sigma 1 to 0 moves by -v
    torch.testing.assert_close(rms(moved), rms(reference.velocity(noise, grids[1][0], cond, guidance=1.0)))
    v = model.velocity(noise, grids[1][0], cond, guidance=1.0)
    assert torch.nn.functional.cosine_similarity(moved.flatten(1), v.flatten(1)).min() > 0.99999
    assert torch.equal(found.norms[0], rms(v))  # the norm that is told is the model's own


def test_a_nan_row_disturbs_no_other_row() -> None:
    sound, broken = FakeFlowModel(), FakeFlowModel(nan_prompts=["two dogs"])
    for model in (sound, broken):
        cond, noise, grids = _batch(model)
        found = sweep(model, cond, noise, grids, guidance=1.0, reference=model, rescale=NormRescale())
        if model is sound:
            wanted = found
    for steps, trajectory in found.items():
        assert trajectory.finite.tolist() == [True, False, True]
        assert wanted[steps].finite.all()
        for row in (0, 2):
            assert torch.equal(trajectory.latents[row], wanted[steps].latents[row])
            assert torch.equal(trajectory.norms[:, row], wanted[steps].norms[:, row])
        assert trajectory.norms[:, 1].isnan().all()


def test_a_nan_row_of_a_real_transformer_disturbs_no_other_row(sd3_folder: Path) -> None:
    model = load_model(CheckpointSpec("x", str(sd3_folder), device="cpu"))
    cond = model.encode(PROMPTS, guidance=4.0)
    noise = model.noise([1, 2, 3], height=32, width=32)
    sigmas = model.sigmas(3, height=32, width=32)
    wanted = sample(model, cond, noise, sigmas, guidance=4.0)
    noise[1, 0, 0, 0] = math.nan
    found = sample(model, cond, noise, sigmas, guidance=4.0)
    assert found.finite.tolist() == [True, False, True]
    for row in (0, 2):
        assert torch.equal(found.latents[row], wanted.latents[row])


def test_on_step_hears_of_every_step() -> None:
    model = FakeFlowModel()
    cond, noise, grids = _batch(model)
    heard: list[tuple[int, int]] = []
    sweep(model, cond, noise, {2: grids[2], 4: grids[4]}, guidance=1.0, on_step=lambda n, i: heard.append((n, i)))
    assert heard == [(2, 0), (2, 1), (4, 0), (4, 1), (4, 2), (4, 3)]
    states: list[torch.Tensor] = []
    found = sample(model, cond, noise, grids[2], guidance=1.0, on_step=lambda _, x: states.append(x))
    assert len(states) == 2
    assert torch.equal(states[-1], found.latents)


def test_sampling_tracks_no_gradients() -> None:
    model = FakeFlowModel()
    cond, noise, grids = _batch(model)
    assert not sample(model, cond, noise.requires_grad_(), grids[2], guidance=1.0).latents.requires_grad


@pytest.mark.parametrize("sigmas", [[1.0], [1.0, 1.0, 0.0], [0.0, 1.0], [[1.0, 0.0]]])
def test_a_grid_that_does_not_descend_is_refused(sigmas: list) -> None:
    model = FakeFlowModel()
    cond, noise, _ = _batch(model)
    with pytest.raises(UsageError, match="descending"):
        sample(model, cond, noise, torch.tensor(sigmas), guidance=1.0)


def test_batches_that_differ_and_a_rescale_without_reference_are_refused() -> None:
    model = FakeFlowModel()
    cond, noise, grids = _batch(model)
    with pytest.raises(UsageError, match="3 encoded prompts and 2 noises"):
        sample(model, cond, noise[:2], grids[2], guidance=1.0)
    with pytest.raises(UsageError, match="reference"):
        sweep(model, cond, noise, grids, guidance=1.0, rescale=NormRescale())


def test_noise_seeds_are_63_bits_stable_and_told_apart() -> None:
    assert noise_seed(0, "p1", 0) == 5525653949861620864
    seeds = {noise_seed(run, prompt, index) for run in range(4) for prompt in ("p1", "p10", "p2") for index in range(4)}
    assert len(seeds) == 48
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert noise_seed(0, "p1", 11) != noise_seed(0, "p11", 1)
    torch.Generator().manual_seed(max(seeds))
