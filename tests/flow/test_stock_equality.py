"""The adapters' pictures equal the stock diffusers pipelines': max abs difference 0, float32 (and bfloat16), CPU."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from nbench.flow.load import CheckpointSpec, load_model
from nbench.flow.sample import sample, sweep

PROMPTS = ["a photo of a red cube", "cat", "two dogs of a photo"]
SEEDS = [11, 12, 13]


@lru_cache(maxsize=4)
def _stock(folder: Path, lora: Path | None, dtype: str, scale: float = 1.0) -> Any:
    index = diffusers.DiffusionPipeline.load_config(folder)
    absent = {name: None for name, entry in index.items() if isinstance(entry, list) and entry[1] is None}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=getattr(torch, dtype), **absent)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(str(lora), weight_name="pytorch_lora_weights.safetensors", adapter_name="x")
        pipeline.set_adapters(["x"], [scale])
    return pipeline


@lru_cache(maxsize=4)
def _ours(folder: Path, lora: Path | None, dtype: str, scale: float = 1.0) -> Any:
    path = None if lora is None else str(lora)
    return load_model(CheckpointSpec("x", str(folder), lora=path, lora_scale=scale, dtype=dtype, device="cpu"))


def _stock_pictures(
    pipeline: Any, noise: torch.Tensor, *, steps: int, guidance: float, grid: str = "diffusers", **options: Any
) -> torch.Tensor:
    height, width = 2 * noise.shape[2], 2 * noise.shape[3]
    if isinstance(pipeline, diffusers.FluxPipeline):
        noise = pipeline._pack_latents(noise, *noise.shape)
    if grid == "linspace":
        options["sigmas"] = np.linspace(1.0, 1 / steps, steps).tolist()
    images = pipeline(
        PROMPTS,
        latents=noise,
        num_inference_steps=steps,
        guidance_scale=guidance,
        height=height,
        width=width,
        output_type="pt",
        **options,
    ).images
    return images.float()


def _check(
    folder: Path,
    lora: Path | None,
    *,
    guidance: float,
    steps: int,
    grid: str = "diffusers",
    dtype: str = "float32",
    size: tuple[int, int] = (32, 32),
    scale: float = 1.0,
) -> None:
    model, pipeline = _ours(folder, lora, dtype, scale), _stock(folder, lora, dtype, scale)
    noise = model.noise(SEEDS, height=size[0], width=size[1])
    wanted = _stock_pictures(pipeline, noise, steps=steps, guidance=guidance, grid=grid)
    sigmas = model.sigmas(steps, grid=grid, height=size[0], width=size[1])
    trajectory = sample(model, model.encode(PROMPTS, guidance=guidance), noise, sigmas, guidance=guidance)
    found = model.decode(trajectory.latents)
    assert found.shape == wanted.shape == (3, 3, *size)
    assert wanted.std() > 0.05  # pictures of something
    assert (found - wanted).abs().max().item() == 0


@pytest.mark.parametrize("grid", ["diffusers", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("with_lora", [False, True], ids=["base", "lora"])
def test_sd3_pictures_equal_the_stock_pipeline(
    with_lora: bool, guidance: float, steps: int, grid: str, sd3_folder: Path, sd3_lora: Path
) -> None:
    _check(sd3_folder, sd3_lora if with_lora else None, guidance=guidance, steps=steps, grid=grid)


@pytest.mark.parametrize("grid", ["diffusers", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("with_lora", [False, True], ids=["base", "lora"])
def test_flux_pictures_equal_the_stock_pipeline(
    with_lora: bool, steps: int, grid: str, flux_folder: Path, flux_lora: Path
) -> None:
    _check(flux_folder, flux_lora if with_lora else None, guidance=3.5, steps=steps, grid=grid)


def test_28_steps_equal_the_stock_pipelines(sd3_folder: Path, flux_folder: Path) -> None:
    _check(sd3_folder, None, guidance=4.5, steps=28)
    _check(flux_folder, None, guidance=3.5, steps=28)


def test_sizes_off_square_equal_the_stock_pipelines(sd3_folder: Path, flux_folder: Path) -> None:
    _check(sd3_folder, None, guidance=4.5, steps=2, size=(32, 48))
    _check(flux_folder, None, guidance=3.5, steps=2, size=(48, 32))


def test_a_scaled_lora_equals_the_stock_pipelines(
    sd3_folder: Path, sd3_lora: Path, flux_folder: Path, flux_lora: Path
) -> None:
    _check(sd3_folder, sd3_lora, guidance=4.5, steps=3, scale=0.3)
    _check(flux_folder, flux_lora, guidance=3.5, steps=3, scale=0.3)


def test_sd3_with_t5_equals_the_stock_pipeline(sd3_t5_folder: Path) -> None:
    _check(sd3_t5_folder, None, guidance=4.5, steps=3)


def test_flux_without_guidance_input_equals_the_stock_pipeline(tmp_path: Path) -> None:
    from nbench.testing import tiny_flux

    folder = tiny_flux(tmp_path / "schnell", guidance_embeds=False)
    _check(folder, None, guidance=0.0, steps=4)


@pytest.mark.parametrize("steps", [2, 5])
def test_bfloat16_equals_the_stock_pipelines(steps: int, sd3_folder: Path, flux_folder: Path, flux_lora: Path) -> None:
    _check(sd3_folder, None, guidance=4.5, steps=steps, dtype="bfloat16")
    _check(flux_folder, flux_lora, guidance=3.5, steps=steps, dtype="bfloat16")


def test_text_length_is_the_users(sd3_t5_folder: Path) -> None:
    model = load_model(CheckpointSpec("x", str(sd3_t5_folder), max_sequence_length=16, device="cpu"))
    noise = model.noise(SEEDS, height=32, width=32)
    pipeline = _stock(sd3_t5_folder, None, "float32")
    wanted = _stock_pictures(pipeline, noise, steps=2, guidance=4.5, max_sequence_length=16)
    cond = model.encode(PROMPTS, guidance=4.5)
    assert cond.tensors["prompt_embeds"].shape[1] == 77 + 16
    found = sample(model, cond, noise, model.sigmas(2, height=32, width=32), guidance=4.5)
    assert (model.decode(found.latents) - wanted).abs().max().item() == 0
    other = _stock_pictures(pipeline, noise, steps=2, guidance=4.5)
    assert (other - wanted).abs().max().item() > 0


def test_a_negative_prompt_equals_the_stock_pipeline(sd3_folder: Path) -> None:
    model = _ours(sd3_folder, None, "float32")
    noise = model.noise(SEEDS, height=32, width=32)
    wanted = _stock_pictures(
        _stock(sd3_folder, None, "float32"), noise, steps=3, guidance=4.5, negative_prompt=["red cat"] * 3
    )
    cond = model.encode(PROMPTS, guidance=4.5, negative="red cat")
    found = sample(model, cond, noise, model.sigmas(3, height=32, width=32), guidance=4.5)
    assert (model.decode(found.latents) - wanted).abs().max().item() == 0


def test_a_sweep_equals_the_stock_pipeline_at_every_step_count(sd3_folder: Path, flux_folder: Path) -> None:
    for folder in (sd3_folder, flux_folder):
        model, pipeline = _ours(folder, None, "float32"), _stock(folder, None, "float32")
        noise = model.noise(SEEDS, height=32, width=32)
        grids = {steps: model.sigmas(steps, height=32, width=32) for steps in (2, 3, 6)}
        found = sweep(model, model.encode(PROMPTS, guidance=3.5), noise, grids, guidance=3.5)
        for steps, trajectory in found.items():
            wanted = _stock_pictures(pipeline, noise, steps=steps, guidance=3.5)
            assert (model.decode(trajectory.latents) - wanted).abs().max().item() == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_pictures_equal_the_stock_pipelines_on_cuda(
    dtype: str, sd3_folder: Path, flux_folder: Path, flux_lora: Path
) -> None:
    for folder, lora, guidance in ((sd3_folder, None, 4.5), (flux_folder, flux_lora, 3.5)):
        path = None if lora is None else str(lora)
        model = load_model(CheckpointSpec("x", str(folder), lora=path, dtype=dtype, device="cuda"))
        pipeline = _stock.__wrapped__(folder, lora, dtype).to("cuda")
        noise = model.noise(SEEDS, height=32, width=32)
        wanted = _stock_pictures(pipeline, noise, steps=5, guidance=guidance).cpu()
        sigmas = model.sigmas(5, height=32, width=32)
        found = sample(model, model.encode(PROMPTS, guidance=guidance), noise, sigmas, guidance=guidance)
        assert (model.decode(found.latents) - wanted).abs().max().item() == 0
