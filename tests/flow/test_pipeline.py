"""The generation-only fallback, on SD3, FLUX, and a family that has no adapter."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from nbench.errors import CheckpointError, UsageError
from nbench.flow.load import CheckpointSpec, load_any, load_model, load_pipeline
from nbench.flow.model import SigmaGrid
from nbench.flow.pipeline import PipelineModel
from nbench.flow.sample import sample
from nbench.testing import tiny_lumina2

PROMPTS = ["a photo of a red cube", "cat", "two dogs"]
SEEDS = [4, 5, 6]


@pytest.fixture(scope="module")
def lumina(tmp_path_factory: pytest.TempPathFactory) -> PipelineModel:
    folder = tiny_lumina2(tmp_path_factory.mktemp("tiny") / "lumina")
    return load_pipeline(CheckpointSpec("x", str(folder), device="cpu"))


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_pictures_and_norms_equal_the_adapters(family: str, sd3_folder: Path, flux_folder: Path) -> None:
    spec = CheckpointSpec("x", str({"sd3": sd3_folder, "flux": flux_folder}[family]), device="cpu")
    model, fallback = load_model(spec), load_pipeline(spec)
    assert fallback.weights_hash == model.weights_hash
    assert (fallback.resolution, fallback.size_multiple) == (model.resolution, model.size_multiple)
    assert fallback.default_guidance == model.default_guidance
    found = fallback.generate(PROMPTS, SEEDS, steps=3, guidance=4.0)
    sigmas = model.sigmas(3, height=32, width=32)
    noise = model.noise(SEEDS, height=32, width=32)
    wanted = sample(model, model.encode(PROMPTS, guidance=4.0), noise, sigmas, guidance=4.0)
    assert torch.equal(found.images, model.decode(wanted.latents))
    # FLUX's norms are summed over packed latents, in another order.
    torch.testing.assert_close(found.norms, wanted.norms, rtol=1e-6, atol=0)
    assert torch.equal(found.sigmas, sigmas)


def test_a_family_without_adapter_generates_and_tells_its_norms(lumina: PipelineModel) -> None:
    assert lumina.family == "Lumina2Pipeline"
    assert lumina.default_guidance == 4.0
    found = lumina.generate(PROMPTS, SEEDS, steps=3, height=32, width=32)
    assert found.images.shape == (3, 3, 32, 32)
    assert found.images.dtype == torch.float32
    assert 0 <= found.images.min() < found.images.max() <= 1
    assert found.norms.shape == (3, 3)
    assert (found.norms > 0).all()
    assert found.finite.all()
    assert found.sigmas[0] == 1
    assert found.sigmas[-1] == 0
    again = lumina.generate(PROMPTS, SEEDS, steps=3, height=32, width=32)
    assert torch.equal(again.images, found.images)
    assert torch.equal(again.norms, found.norms)


def test_pictures_belong_to_their_seed_prompt_guidance_and_steps(lumina: PipelineModel) -> None:
    base = lumina.generate(PROMPTS, SEEDS, steps=3, guidance=4.0)
    turned = lumina.generate(PROMPTS[::-1], SEEDS[::-1], steps=3, guidance=4.0)
    assert (turned.images.flip(0) - base.images).abs().max() < 1e-5
    for options in ({"steps": 4, "guidance": 4.0}, {"steps": 3, "guidance": 1.0}):
        assert (lumina.generate(PROMPTS, SEEDS, **options).images - base.images).abs().max() > 1e-4
    assert (lumina.generate(PROMPTS, [7, 8, 9], steps=3).images - base.images).abs().max() > 1e-3


def test_given_latents_are_used(sd3_folder: Path) -> None:
    fallback = load_pipeline(CheckpointSpec("x", str(sd3_folder), device="cpu"))
    latents = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    one, two = (fallback.generate(PROMPTS, seeds, steps=2, latents=latents) for seeds in (SEEDS, [0, 0, 0]))
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.images, fallback.generate(PROMPTS, SEEDS, steps=2).images)


def test_the_scheduler_is_its_own_again_afterwards(lumina: PipelineModel) -> None:
    lumina.generate(PROMPTS, SEEDS, steps=2)
    assert "step" not in vars(lumina.pipeline.scheduler)
    with pytest.raises(TypeError):
        lumina.generate([1, 2, 3], SEEDS, steps=2)
    assert "step" not in vars(lumina.pipeline.scheduler)


def test_bad_arguments_are_refused(lumina: PipelineModel) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        lumina.generate(PROMPTS, SEEDS, steps=0)
    with pytest.raises(UsageError, match="3 prompts and 1 seeds"):
        lumina.generate(PROMPTS, [1], steps=1)
    with pytest.raises(UsageError, match="multiples of 16"):
        lumina.generate(PROMPTS, SEEDS, steps=1, height=40, width=32)


def test_a_lora_is_refused(lumina: PipelineModel, sd3_folder: Path, sd3_lora: Path) -> None:
    with pytest.raises(CheckpointError, match="merge the LoRA into the base"):
        load_pipeline(CheckpointSpec("x", str(sd3_folder), lora=str(sd3_lora), device="cpu"))


def test_a_pipeline_that_needs_a_picture_is_refused(sd3_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sd3_folder, tmp_path / "inpaint"))
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusion3Pipeline", "StableDiffusion3NotThere"))
    with pytest.raises(CheckpointError, match=r"StableDiffusion3NotThere, which diffusers .* does not have"):
        load_pipeline(CheckpointSpec("x", str(folder), device="cpu"))


@pytest.mark.parametrize("grid", ["diffusers", "linspace"])
def test_the_grid_is_known_before_anything_is_generated(lumina: PipelineModel, grid: SigmaGrid) -> None:
    calls: list[object] = []
    handle = lumina.pipeline.transformer.register_forward_hook(lambda *_: calls.append(1))
    try:
        planned = lumina.sigmas(5, grid=grid, height=32, width=32)
    finally:
        handle.remove()
    assert not calls
    assert planned.shape == (6,)
    assert torch.equal(planned, lumina.generate(PROMPTS, SEEDS, steps=5, grid=grid, height=32, width=32).sigmas)


def test_load_any_takes_the_adapter_where_there_is_one(sd3_folder: Path, tmp_path: Path) -> None:
    assert load_any(CheckpointSpec("x", str(sd3_folder), device="cpu")).family == "sd3"
    other = load_any(CheckpointSpec("x", str(tiny_lumina2(tmp_path / "lumina")), device="cpu"))
    assert isinstance(other, PipelineModel)
