"""Rollouts: what was rewarded is what is stored, and nothing random depends on batches or on what came before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from train_parts import PROMPTS, SIZE, bank_of, change, members, policy_of

from nbench.flow.model import Conditioning, FlowModel
from nbench.flow.sample import euler_step, sample
from nbench.normguard.config import GrpoConfig
from nbench.normguard.losses import cps_step, sde_moments, sde_step
from nbench.normguard.rollout import PromptBank, Rollout, Sample, decode, roll_out
from nbench.prompts import Prompt
from nbench.runs.generate import to_pixels
from nbench.testing import FakeFlowModel

SDE, CPS = GrpoConfig(eta=0.7), GrpoConfig(sampler="cps", eta=0.8, skip_last=1)


@pytest.fixture(scope="module", params=["sd3", "flux"])
def view(request: pytest.FixtureRequest, sd3_folder: Path, flux_folder: Path) -> FlowModel:
    policy = policy_of({"sd3": sd3_folder, "flux": flux_folder}[request.param], ())
    change(policy)
    return policy.view("policy")


def rolled(model: FlowModel, samples: Sequence[Sample] | None = None, **options: Any) -> Rollout:
    settings: dict[str, Any] = {"steps": 4, "guidance": 1.0, "size": SIZE, "batch_size": 6, "seed": 3}
    settings.update(options)
    return roll_out(model, bank_of(model, settings["guidance"]), samples or members(), **settings)


def pixels(images: Sequence[Any]) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(image) for image in images]).astype(int)


# What is rewarded.


@pytest.mark.parametrize("stochastic", [None, SDE, CPS], ids=["ode", "sde", "cps"])
def test_the_rewarded_picture_is_the_decoded_clean_latent(view: FlowModel, stochastic: GrpoConfig | None) -> None:
    made = rolled(view, stochastic=stochastic, batch_size=3)
    again = [image for start in (0, 3) for image in decode(view, made.clean[start : start + 3])]
    assert abs(pixels(again) - pixels(made.images)).max() == 0
    direct = to_pixels(view.decode(made.clean[:3]))
    assert abs(direct.astype(int) - pixels(made.images[:3])).max() == 0
    assert pixels(made.images).std(axis=0).max() > 1  # pictures differ
    if made.paths is not None:
        assert torch.equal(made.paths.states[-1], made.clean)


def test_a_low_precision_model_is_rewarded_for_what_is_stored(sd3_folder: Path) -> None:
    view = policy_of(sd3_folder, (), dtype="bfloat16").view("policy")
    for stochastic in (None, SDE):
        made = rolled(view, stochastic=stochastic)
        assert made.clean.dtype == torch.float32
        assert abs(pixels(decode(view, made.clean)) - pixels(made.images)).max() == 0


def test_rollouts_of_the_ode_equal_the_sampler(view: FlowModel) -> None:
    guidance = 4.0 if view.family == "sd3" else 3.5
    samples = members()
    made = rolled(view, samples, guidance=guidance)
    noise = view.noise([one.seed(3, "noise") for one in samples], height=SIZE[0], width=SIZE[1])
    cond = bank_of(view, guidance).get([one.prompt.text for one in samples])
    sigmas = view.sigmas(4, height=SIZE[0], width=SIZE[1])
    assert torch.equal(made.clean, sample(view, cond, noise, sigmas, guidance=guidance).latents)
    assert made.paths is None
    assert made.samples == samples


# In float32 on a CPU a row depends on what else is in its batch by rounding only: velocities of size 1 by about 1e-6,
# which a few steps add up and 8-bit pictures do not show but where a value is next to a half.
@pytest.mark.parametrize("stochastic", [None, SDE, CPS], ids=["ode", "sde", "cps"])
def test_pictures_do_not_depend_on_the_batch_size(view: FlowModel, stochastic: GrpoConfig | None) -> None:
    one, some, whole = (rolled(view, stochastic=stochastic, batch_size=size) for size in (1, 4, 6))
    for other in (one, some):
        assert (other.clean - whole.clean).abs().max() < 2e-5
        assert abs(pixels(other.images) - pixels(whole.images)).max() <= 1
        if whole.paths is not None and other.paths is not None:
            assert other.paths.states.shape == whole.paths.states.shape
            assert (other.paths.velocities - whole.paths.velocities).abs().max() < 2e-5
            assert torch.equal(other.paths.states[0], whole.paths.states[0])


@pytest.mark.parametrize("stochastic", [None, SDE, CPS], ids=["ode", "sde", "cps"])
def test_a_model_without_rounding_gives_the_same_bits_in_every_batch_and_order(stochastic: GrpoConfig | None) -> None:
    model, samples = FakeFlowModel(), members(3, 3)
    whole = rolled(model, samples, stochastic=stochastic, batch_size=9)
    for size in (1, 2, 5):
        assert torch.equal(rolled(model, samples, stochastic=stochastic, batch_size=size).clean, whole.clean)
    backwards = rolled(model, samples[::-1], stochastic=stochastic, batch_size=2)
    assert torch.equal(backwards.clean.flip(0), whole.clean)
    share = rolled(model, samples[3:6], stochastic=stochastic, batch_size=9)  # as a second process has it
    assert torch.equal(share.clean, whole.clean[3:6])


def test_progress_counts_every_picture_once() -> None:
    told: list[int] = []
    rolled(FakeFlowModel(), members(2, 5), batch_size=4, advance=told.append)
    assert told == [4, 4, 2]


# What is drawn.


def test_draws_differ_by_purpose_epoch_prompt_and_member_and_by_nothing_else() -> None:
    one = Sample(0, 0, 0, PROMPTS[0])
    others = [
        Sample(1, 0, 0, PROMPTS[0]),
        Sample(0, 0, 1, PROMPTS[0]),
        Sample(0, 0, -1, PROMPTS[0]),
        Sample(0, 0, 0, PROMPTS[1]),
    ]
    seeds = {one.seed(0, "noise"), one.seed(1, "noise"), one.seed(0, "times"), *(s.seed(0, "noise") for s in others)}
    assert len(seeds) == 7
    assert Sample(0, 5, 0, Prompt("cube", "another text")).seed(0, "noise") == one.seed(0, "noise")
    torch.manual_seed(1)
    first = one.normal(0, "eps/0", (2, 3))
    torch.manual_seed(2)
    assert torch.equal(one.normal(0, "eps/0", (2, 3)), first)
    assert first.dtype == torch.float32


def test_members_of_a_group_and_epochs_start_from_noise_of_their_own() -> None:
    made = rolled(FakeFlowModel(), [*members(2, 2), *members(2, 2, epoch=1)], stochastic=SDE)
    assert made.paths is not None
    starts = made.paths.states[0]
    assert len({tuple(start.flatten().tolist()) for start in starts}) == 8


# Stochastic trajectories.


def noises(samples: Sequence[Sample], step: int, shape: Sequence[int]) -> Tensor:
    return torch.stack([one.normal(3, f"step/{step}", shape) for one in samples])


@pytest.mark.parametrize("skip_last", [0, 1, 3])
def test_sde_trajectories_are_mean_plus_std_times_the_drawn_noise(view: FlowModel, skip_last: int) -> None:
    config, samples = GrpoConfig(eta=0.7, skip_last=skip_last), members()
    paths = rolled(view, samples, stochastic=config).paths
    assert paths is not None
    assert paths.noisy == 4 - skip_last
    assert paths.states.shape == (5, 6, *view.latent_shape(*SIZE))
    assert paths.velocities.shape == (4, 6, *view.latent_shape(*SIZE))
    sigmas = paths.sigmas
    cond = bank_of(view).get([one.prompt.text for one in samples])
    for step in range(4):
        x, v, after = paths.states[step], paths.velocities[step], paths.states[step + 1]
        with torch.no_grad():
            assert torch.equal(view.velocity(x, sigmas[step], cond, guidance=1.0), v)
        mean, std = sde_moments(x, v, sigmas[step], sigmas[step + 1], eta=0.7, sigma_first=sigmas[1])
        z = noises(samples, step, x.shape[1:])
        if step < paths.noisy:
            assert std.min() > 0
            torch.testing.assert_close(after, (mean.double() + std.view(-1, 1, 1, 1) * z).float(), rtol=0, atol=2e-6)
            # and so the noise can be read off: of unit size, and the member's own
            read = (after - mean) / std.view(-1, 1, 1, 1).float()
            torch.testing.assert_close(read, z, rtol=0, atol=2e-3)
        else:
            assert torch.equal(after, euler_step(x, v, sigmas[step], sigmas[step + 1]))


def test_the_first_step_has_noise_of_size_eta() -> None:
    samples = members(3, 8)
    paths = rolled(FakeFlowModel(), samples, stochastic=SDE, batch_size=24).paths
    assert paths is not None
    x, v, after = paths.states[0], paths.velocities[0], paths.states[1]
    mean, std = sde_moments(x, v, paths.sigmas[0], paths.sigmas[1], eta=0.7, sigma_first=paths.sigmas[1])
    torch.testing.assert_close(std, torch.full_like(std, 0.7), rtol=1e-6, atol=0)
    assert float((after - mean).std()) == pytest.approx(0.7, rel=0.15)


def test_cps_trajectories_follow_their_step() -> None:
    samples = members()
    paths = rolled(FakeFlowModel(), samples, stochastic=CPS).paths
    assert paths is not None
    assert paths.noisy == 3
    for step in range(3):
        x, v = paths.states[step], paths.velocities[step]
        z = noises(samples, step, x.shape[1:])
        wanted = cps_step(x, v, paths.sigmas[step], paths.sigmas[step + 1], eta=0.8, noise=z).x_next
        assert torch.equal(paths.states[step + 1], wanted)
    last = euler_step(paths.states[3], paths.velocities[3], paths.sigmas[3], paths.sigmas[4])
    assert torch.equal(paths.states[4], last)


def test_without_a_noisy_step_the_trajectory_is_the_odes(view: FlowModel) -> None:
    made = rolled(view, stochastic=GrpoConfig(skip_last=4))
    assert made.paths is not None and made.paths.noisy == 0
    assert torch.equal(made.clean, rolled(view).clean)


def test_trajectories_of_a_low_precision_model_are_kept_in_float32(sd3_folder: Path) -> None:
    view = policy_of(sd3_folder, (), dtype="bfloat16").view("policy")
    paths = rolled(view, stochastic=SDE).paths
    assert paths is not None
    assert paths.states.dtype == paths.velocities.dtype == torch.float32
    step = sde_step(
        paths.states[0], paths.velocities[0], paths.sigmas[0], paths.sigmas[1], eta=0.7, sigma_first=paths.sigmas[1],
        noise=noises(members(), 0, paths.states.shape[2:]),
    )  # fmt: skip
    assert torch.equal(paths.states[1], step.x_next)
    assert not torch.equal(paths.states[1], paths.states[1].bfloat16().float())


# Latents that are not finite.


def test_a_latent_that_is_not_finite_is_black_and_spoils_no_other() -> None:
    sound, bad = PROMPTS[0], PROMPTS[1]
    model = FakeFlowModel(nan_prompts=[bad.text])
    made = rolled(model, [Sample(0, 0, 0, sound), Sample(0, 1, 0, bad), Sample(0, 0, 1, sound)])
    assert made.clean.isfinite().flatten(1).all(1).tolist() == [True, False, True]
    assert pixels(made.images[1:2]).max() == 0
    alone = rolled(FakeFlowModel(), [Sample(0, 0, 0, sound), Sample(0, 0, 1, sound)])
    assert torch.equal(made.clean[[0, 2]], alone.clean)
    assert abs(pixels([made.images[0], made.images[2]]) - pixels(alone.images)).max() == 0


# Embeddings.


def test_a_prompt_is_encoded_once_and_by_itself() -> None:
    model = FakeFlowModel()
    bank = bank_of(model)
    bank.prepare(["a", "b", "a"])
    cond = bank.get(["b", "a", "b"])
    assert model.encoded == ["a", "b"]
    wanted = model.encode(["b", "a", "b"], guidance=1.0)
    assert torch.equal(cond.tensors["code"], wanted.tensors["code"])
    assert cond.negative is None


def test_negatives_are_there_when_guidance_needs_them(sd3_folder: Path) -> None:
    model = policy_of(sd3_folder, ()).model
    texts = [prompt.text for prompt in PROMPTS]
    found, wanted = bank_of(model, 4.0).get(texts), model.encode(texts, guidance=4.0)
    for one, other in [(found.tensors, wanted.tensors), (found.negative, wanted.negative)]:
        assert one is not None and other is not None
        assert one.keys() == other.keys()
        for name in one:  # encoded one by one and in a batch: rounding only
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_forgetting_never_loses_a_prompt_that_is_asked_for(keep: int) -> None:
    model = FakeFlowModel()
    bank = PromptBank(model, guidance=1.0, offload=False, keep=keep)
    for texts in (["a", "b"], ["a", "c"], ["c", "a", "d"], ["b", "a"], ["a", "b", "c", "d"], ["d"]):
        wanted = FakeFlowModel().encode(texts, guidance=1.0)
        assert torch.equal(bank.get(texts).tensors["code"], wanted.tensors["code"])
        assert len(bank._known) <= max(keep, len(texts))


def test_what_was_asked_for_longest_ago_is_forgotten_first() -> None:
    model = FakeFlowModel()
    bank = PromptBank(model, guidance=1.0, offload=False, keep=2)
    for texts in (["a"], ["b"], ["a"], ["c"], ["a"], ["b"]):
        bank.get(texts)
    assert model.encoded == ["a", "b", "c", "b"]


def test_text_encoders_leave_after_encoding_only() -> None:
    class Counting(FakeFlowModel):
        offloaded = 0

        def offload_text_encoders(self) -> None:
            self.offloaded += 1

    model = Counting()
    bank = PromptBank(model, guidance=1.0, offload=True)
    bank.prepare(["a", "b"])
    bank.get(["a"])
    assert model.offloaded == 1
    stays = Counting()
    PromptBank(stays, guidance=1.0, offload=False).get(["a"])
    assert stays.offloaded == 0


def test_conditioning_is_kept_on_the_cpu() -> None:
    bank = bank_of(FakeFlowModel())
    bank.prepare(["a"])
    (kept,) = bank._known.values()
    assert isinstance(kept, Conditioning)
    assert all(tensor.device.type == "cpu" for tensor in kept.tensors.values())
    assert math.isclose(float(bank.get(["a"]).tensors["code"].sum()), float(kept.tensors["code"].sum()))
