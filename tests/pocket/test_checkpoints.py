"""The bundled pocket checkpoints do what their cards say. Thresholds are the project's, not fitted to the weights."""

import json
from pathlib import Path

import pytest

from nbench.flow.load import CheckpointSpec
from nbench.flow.sample import noise_seed
from nbench.pocket.recipes.evaluate import cases, following, generate, pixel_distance

WEIGHTS = Path(__file__).parents[2] / "nbench" / "pocket" / "weights"
BASES = ("pocket-sd3", "pocket-flux")


def test_all_pocket_weights_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) < 90 * 2**20


@pytest.mark.parametrize("name", BASES)
def test_a_base_is_a_standard_pipeline_folder_in_safetensors_with_a_card(name: str) -> None:
    folder = WEIGHTS / name
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == {"pocket-sd3": "StableDiffusion3Pipeline", "pocket-flux": "FluxPipeline"}[name]
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    assert not [path for path in folder.glob("*/config.json") if "_name_or_path" in json.loads(path.read_text())]
    card = (folder / "README.md").read_text()
    for word in ("MIT", "python -m nbench.pocket.recipes.flow", "Steps", "figure"):
        assert word in card


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_pictures_follow_their_prompts_at_full_steps_and_get_worse_at_few(name: str) -> None:
    wanted = cases(per_concept=1, seed=7)  # prompts that the card's figures did not use
    prompts = [case.prompt for case in wanted]
    seeds = [noise_seed(7, prompt, 0) for prompt in prompts]
    pictures, _ = generate(CheckpointSpec(name=name, base=name, device="cpu"), prompts, seeds, (2, 28), None)
    full, few = following(pictures[28], wanted), following(pictures[2], wanted)
    assert full["concept"] >= 0.6  # over 124 concepts
    assert full["colour"] >= 0.5  # chance 0.1
    assert full["count"] >= 0.6  # chance 0.33
    assert full["style"] >= 0.65  # chance 0.5
    assert few["concept"] < full["concept"]


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_seeds_of_a_prompt_differ_at_least_half_as_much_as_real_pictures_do(name: str) -> None:
    figures = json.loads((WEIGHTS / name / "figures.json").read_text())
    prompts = ["a cat", "a 3d bus", "two apples", "an owl on a blue background", "a big pizza", "three flat stars"]
    flat = [prompt for prompt in prompts for _ in range(4)]
    seeds = [noise_seed(3, prompt, i) for i, prompt in enumerate(flat)]
    made = generate(CheckpointSpec(name=name, base=name, device="cpu"), flat, seeds, (28,), None)[0][28]
    groups = [made[i : i + 4] for i in range(0, len(made), 4)]
    assert pixel_distance(groups) >= 0.5 * figures["mean_pixel_distance"]["real"]
