"""What the adapters share: noise, text, decoding, independence of batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nbench.errors import UsageError
from nbench.flow.family import DiffusersFlowModel
from nbench.flow.load import CheckpointSpec, load_model
from nbench.flow.sample import noise_seed, sample

#: Largest difference of a pixel in [0, 1] between a picture made alone and in a batch of 8, float32 on a CPU.
#: Measured: 9.5e-7 (SD3), 1.4e-6 (FLUX); other prompts' pictures differ by 0.6 and more.
BATCH_TOLERANCE = 5e-6

PROMPTS = ["a photo of a red cube", "cat", "two dogs", "a cat of cubes", "red", "photo", "a red cat", "dogs of a cube"]


@pytest.fixture(scope="module", params=["sd3", "flux"])
def model(request: pytest.FixtureRequest, sd3_folder: Path, flux_folder: Path) -> DiffusersFlowModel:
    folder = {"sd3": sd3_folder, "flux": flux_folder}[request.param]
    return load_model(CheckpointSpec("x", str(folder), max_sequence_length=32, device="cpu"))


def _pictures(model: DiffusersFlowModel, rows: list[int], *, guidance: float = 4.0) -> torch.Tensor:
    prompts = [PROMPTS[row] for row in rows]
    noise = model.noise([noise_seed(0, prompt, 0) for prompt in prompts], height=32, width=32)
    sigmas = model.sigmas(4, height=32, width=32)
    found = sample(model, model.encode(prompts, guidance=guidance), noise, sigmas, guidance=guidance)
    return model.decode(found.latents)


def test_pictures_do_not_depend_on_the_batch_beyond_float_tolerance(model: DiffusersFlowModel) -> None:
    together = _pictures(model, list(range(8)))
    alone = torch.cat([_pictures(model, [row]) for row in range(8)])
    halves = torch.cat([_pictures(model, [5, 4, 6, 7]), _pictures(model, [3, 1, 2, 0])])
    assert (together - alone).abs().max() < BATCH_TOLERANCE
    assert (together[[5, 4, 6, 7, 3, 1, 2, 0]] - halves).abs().max() < BATCH_TOLERANCE
    between = (together[:, None] - together[None]).abs().amax((2, 3, 4))
    assert between[~torch.eye(8, dtype=bool)].min() > 1e5 * BATCH_TOLERANCE  # other pictures are far apart


def test_noise_belongs_to_its_seed_and_not_to_its_place(model: DiffusersFlowModel) -> None:
    noise = model.noise([5, 6, 7], height=32, width=32)
    assert noise.shape == (3, 4, 16, 16)
    assert torch.equal(noise[[2, 0]], model.noise([7, 5], height=32, width=32))
    assert torch.equal(noise[0], torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(5)))
    assert abs(model.noise(list(range(64)), height=32, width=32).std().item() - 1) < 0.01


def test_noise_is_the_same_in_every_dtype(sd3_folder: Path, model: DiffusersFlowModel) -> None:
    half = load_model(CheckpointSpec("x", str(sd3_folder), dtype="bfloat16", device="cpu"))
    assert torch.equal(half.noise([3], height=32, width=32), model.noise([3], height=32, width=32).bfloat16())


def test_chunked_text_equals_text_in_one_piece(model: DiffusersFlowModel) -> None:
    whole = model.encode(PROMPTS, guidance=4.0)
    model.text_chunk = 3
    chunked = model.encode(PROMPTS, guidance=4.0)
    model.text_chunk = 32
    assert len(whole) == len(chunked) == 8
    assert (whole.negative is not None) == (model.family == "sd3")
    for side in ("tensors", "negative"):
        if getattr(whole, side) is None:
            continue
        for name, tensor in getattr(whole, side).items():
            other = getattr(chunked, side)[name]
            assert tensor.shape == other.shape
            assert tensor.shape[0] == 8
            torch.testing.assert_close(other, tensor, rtol=0, atol=1e-5)


def test_selected_rows_of_a_prompt_set_make_the_same_pictures(model: DiffusersFlowModel) -> None:
    cond = model.encode(PROMPTS, guidance=4.0).select([1, 1, 6])
    noise = model.noise([1, 2, 3], height=32, width=32)
    sigmas = model.sigmas(2, height=32, width=32)
    found = model.decode(sample(model, cond, noise, sigmas, guidance=4.0).latents)
    direct = model.encode(["cat", "cat", "a red cat"], guidance=4.0)
    wanted = model.decode(sample(model, direct, noise, sigmas, guidance=4.0).latents)
    assert (found - wanted).abs().max() < BATCH_TOLERANCE


def test_negatives_come_only_with_guidance_and_sd3_says_when_they_lack(sd3_folder: Path) -> None:
    model = load_model(CheckpointSpec("x", str(sd3_folder), device="cpu"))
    cond = model.encode(["cat"], guidance=1.0)
    assert cond.negative is None
    noise, sigma = model.noise([1], height=32, width=32), torch.tensor(1.0)
    model.velocity(noise, sigma, cond, guidance=1.0)
    with pytest.raises(UsageError, match="encoded without negatives"):
        model.velocity(noise, sigma, cond, guidance=2.0)


def test_guidance_of_sd3_follows_the_formula(sd3_folder: Path) -> None:
    model = load_model(CheckpointSpec("x", str(sd3_folder), device="cpu"))
    noise, sigma = model.noise([1, 2], height=32, width=32), torch.tensor(0.6)
    cond = model.encode(["cat", "two dogs"], guidance=3.0)
    towards = model.velocity(noise, sigma, cond, guidance=1.0)
    away = model.velocity(noise, sigma, model.encode(["", ""], guidance=1.0), guidance=1.0)
    found = model.velocity(noise, sigma, cond, guidance=3.0)
    torch.testing.assert_close(found, away + 3.0 * (towards - away), rtol=0, atol=1e-5)


def test_another_conditioning_of_the_same_shape_is_not_mistaken_for_the_last(sd3_folder: Path) -> None:
    model = load_model(CheckpointSpec("x", str(sd3_folder), device="cpu"))
    noise, sigma = model.noise([1], height=32, width=32), torch.tensor(0.6)
    first, second = (model.encode([prompt], guidance=3.0) for prompt in ("cat", "two dogs"))
    wanted = model.velocity(noise, sigma, first, guidance=3.0)
    other = model.velocity(noise, sigma, second, guidance=3.0)
    assert not torch.equal(wanted, other)
    assert torch.equal(model.velocity(noise, sigma, first, guidance=3.0), wanted)


def test_guidance_is_an_input_of_flux(flux_folder: Path) -> None:
    model = load_model(CheckpointSpec("x", str(flux_folder), device="cpu"))
    noise, sigma = model.noise([1], height=32, width=32), torch.tensor(0.6)
    cond = model.encode(["cat"], guidance=3.5)
    assert cond.negative is None
    one, two = (model.velocity(noise, sigma, cond, guidance=guidance) for guidance in (1.0, 3.5))
    assert not torch.equal(one, two)


def test_velocity_takes_one_sigma_per_row(model: DiffusersFlowModel) -> None:
    noise = model.noise([1, 2], height=32, width=32)
    cond = model.encode(PROMPTS[:2], guidance=4.0)
    both = model.velocity(noise, torch.tensor([0.9, 0.3]), cond, guidance=4.0)
    for row, sigma in enumerate((0.9, 0.3)):
        wanted = model.velocity(noise, torch.tensor(sigma), cond, guidance=4.0)
        torch.testing.assert_close(both[row], wanted[row], rtol=0, atol=1e-5)
    assert both.shape == noise.shape


def test_velocity_is_differentiable(model: DiffusersFlowModel) -> None:
    noise = model.noise([1], height=32, width=32).requires_grad_()
    cond = model.encode(["cat"], guidance=4.0)
    model.velocity(noise, torch.tensor(0.5), cond, guidance=4.0).square().mean().backward()
    assert noise.grad.abs().max() > 0
    model.transformer.zero_grad()


def test_pictures_are_float32_between_zero_and_one(model: DiffusersFlowModel) -> None:
    pictures = model.decode(20 * model.noise([1, 2], height=32, width=48))
    assert pictures.shape == (2, 3, 32, 48)
    assert pictures.dtype == torch.float32
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert not pictures.requires_grad


def test_text_encoders_leave_and_come_back(model: DiffusersFlowModel) -> None:
    before = model.encode(["cat"], guidance=4.0)
    model.offload_text_encoders()
    assert model.pipeline.text_encoder.device == torch.device("cpu")
    after = model.encode(["cat"], guidance=4.0)
    assert torch.equal(before.tensors["prompt_embeds"], after.tensors["prompt_embeds"])


def test_no_prompts_are_refused(model: DiffusersFlowModel) -> None:
    with pytest.raises(UsageError, match="no prompts"):
        model.encode([], guidance=4.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_text_encoders_leave_the_device_and_come_back(sd3_folder: Path) -> None:
    model = load_model(CheckpointSpec("x", str(sd3_folder), device="cuda"))
    before = model.encode(["cat"], guidance=4.0)
    model.offload_text_encoders()
    assert model.pipeline.text_encoder.device.type == model.pipeline.text_encoder_2.device.type == "cpu"
    after = model.encode(["cat"], guidance=4.0)
    assert model.pipeline.text_encoder.device.type == "cuda"
    assert torch.equal(before.tensors["prompt_embeds"], after.tensors["prompt_embeds"])
