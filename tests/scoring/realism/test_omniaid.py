"""OmniAID: the published layout, its experts against a stock CLIP with merged matrices, loading without code."""

import argparse
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nbench.errors import ScorerError
from nbench.scoring.realism import omniaid
from nbench.scoring.realism.omniaid_network import PUBLISHED, OmniAidSizes, load_omniaid, published_keys
from nbench.scoring.weights import WEIGHTS_FOLDER
from nbench.testing.published_realism import OMNIAID_FULL, OMNIAID_TINY, omniaid_folder, omniaid_tensors
from nbench.testing.random_tensors import random_tensors

TINY = OMNIAID_TINY


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    return tmp_path


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    return random_tensors(omniaid_tensors(), seed)


def test_the_loader_expects_every_tensor_of_the_published_layout_at_full_size() -> None:
    wanted = {name: torch.Size(shape) for name, shape in omniaid_tensors(OMNIAID_FULL).items()}
    assert published_keys(PUBLISHED) == wanted
    assert len(wanted) == 2804


def test_sizes_are_read_off_the_tensors() -> None:
    sizes = OmniAidSizes.read(state())
    assert (sizes.width, sizes.layers, sizes.mlp, sizes.experts) == (TINY.width, TINY.layers, TINY.mlp, TINY.experts)
    assert (sizes.rank, sizes.router, sizes.image, sizes.patch) == (TINY.rank, TINY.router, TINY.image, TINY.patch)


def test_the_network_is_a_stock_clip_tower_whose_matrices_were_merged_for_the_picture() -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    weights = state(3)
    net = load_omniaid(weights).eval()
    for seed in range(4):
        pixels = torch.randn(1, 3, TINY.image, TINY.image, generator=torch.Generator().manual_seed(seed))
        config = CLIPVisionConfig(
            hidden_size=TINY.width, intermediate_size=TINY.mlp, num_hidden_layers=TINY.layers, num_attention_heads=2,
            image_size=TINY.image, patch_size=TINY.patch, hidden_act="quick_gelu",
        )  # fmt: skip
        tower = CLIPVisionModel(config).eval()
        prefix = "feature_extractor."
        tower.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        with torch.no_grad():
            features = tower(pixels).pooler_output
            first, second = (
                (weights[f"gating_network.network.{i}.weight"], weights[f"gating_network.network.{i}.bias"])
                for i in (0, 2)
            )
            hidden = torch.relu(features @ first[0].T + first[1])
            logits = (hidden @ second[0].T + second[1])[0]
            best = logits.argsort(descending=True)[:2]
            gates = {int(i): float(g) for i, g in zip(best, logits[best].softmax(0), strict=True)}
            gates[TINY.experts - 1] = 1.0  # the expert for artefacts
            tower.load_state_dict(merged(weights, gates))
            pooled = tower(pixels).pooler_output
            wanted = pooled @ weights["head.weight"].T + weights["head.bias"]
            found = net(pixels)
        assert torch.allclose(found, wanted, atol=2e-5), (found, wanted)
        assert not torch.allclose(wanted, features @ weights["head.weight"].T + weights["head.bias"], atol=1e-2)


def merged(weights: dict[str, torch.Tensor], gates: dict[int, float]) -> dict[str, torch.Tensor]:
    """A stock tower's state dict: W0 + sum of gate * U diag(S) V."""
    found = {f"embeddings.{n}": weights[f"embeddings.{n}"] for n in
             ("class_embedding", "patch_embedding.weight", "position_embedding.weight")}  # fmt: skip
    for name, ours in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post")):
        for part in ("weight", "bias"):
            found[f"{name}.{part}"] = weights[f"{ours}.{part}"]
    for layer in range(TINY.layers):
        mine, theirs = f"encoder_layers.{layer}", f"encoder.layers.{layer}"
        for name in ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"):
            for part in ("weight", "bias"):
                found[f"{theirs}.{name}.{part}"] = weights[f"{mine}.{name}.{part}"]
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            at = f"{mine}.self_attn.{name}"
            matrix = weights[f"{at}.weight_main"].clone()
            for expert, gate in gates.items():
                u, s, v = (weights[f"{at}.{x}_experts.{expert}"] for x in "USV")
                matrix += gate * u @ torch.diag(s) @ v
            found[f"{theirs}.self_attn.{name}.weight"] = matrix
            found[f"{theirs}.self_attn.{name}.bias"] = weights[f"{at}.bias"]
    return found


def test_the_published_checkpoint_loads_without_running_code_and_scores(folder: Path) -> None:
    omniaid_folder(folder)
    scorer = omniaid.create("cpu")
    images = [picture(80, 60, 1), picture(200, 56, 2), picture(56, 56, 3)]
    scores = scorer.score(images, ["", "", ""])
    for image, score in zip(images, scores, strict=True):
        assert score.values is not None
        assert score.values[""] == pytest.approx(score.values["logit_real"] - score.values["logit_fake"])
        (alone,) = scorer.score([image], [""])
        assert alone.values == pytest.approx(score.values, abs=1e-5)
    assert list(scorer.card.weights) == ["Yunncheng/OmniAID/ckpt/checkpoint_omniaid_v2.pth"]


def test_class_one_is_generated(folder: Path) -> None:
    path = omniaid_folder(folder)
    weights = state()
    weights["head.weight"], weights["head.bias"] = torch.zeros(2, TINY.width), torch.tensor([1.0, 4.0])
    torch.save({"model": weights, "args": argparse.Namespace()}, path)
    (score,) = omniaid.create("cpu").score([picture(56, 56)], [""])
    assert score.values == {"": -3.0, "logit_real": 1.0, "logit_fake": 4.0}


@pytest.mark.parametrize("size", [(512, 512), (1024, 768), (300, 700), (64, 64)])
def test_preprocessing_is_that_of_the_reference(size: tuple[int, int]) -> None:
    from torchvision import transforms

    reference = transforms.Compose(
        [
            transforms.Resize((336, 336)),
            transforms.ToTensor(),
            transforms.Normalize([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
        ]
    )
    image = picture(*size)
    assert torch.equal(omniaid.prepare([image], 336)[0], reference(image))


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_that_would_run_code_is_refused_and_can_be_converted(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = omniaid_folder(folder)
    torch.save({"model": state(), "args": Harmful(tmp_path / "owned")}, path)
    with pytest.raises(ScorerError, match=r"could run code.*safetensors\.torch\.save_file"):
        omniaid.create("cpu").score([picture(56, 56)], [""])
    assert not (tmp_path / "owned").exists()
    save_file(state(), path.with_suffix(".safetensors"))
    scorer = omniaid.create("cpu")
    assert scorer.score([picture(56, 56)], [""])[0].ok
    assert list(scorer.card.weights) == ["Yunncheng/OmniAID/ckpt/checkpoint_omniaid_v2.safetensors"]


@pytest.mark.parametrize("spoil", ["missing", "extra", "shape"])
def test_a_checkpoint_of_another_layout_is_refused(folder: Path, spoil: str) -> None:
    path = omniaid_folder(folder)
    weights = state()
    if spoil == "missing":
        del weights["encoder_layers.1.self_attn.v_proj.S_experts.2"]
    elif spoil == "extra":
        weights["encoder_layers.0.self_attn.q_proj.lora_A"] = torch.zeros(2)
    else:
        weights["ln_post.bias"] = torch.zeros(7)
    torch.save({"model": weights}, path)
    with pytest.raises(ScorerError, match="not an OmniAID CLIP checkpoint"):
        omniaid.create("cpu").score([picture(56, 56)], [""])


def test_a_torn_checkpoint_is_named(folder: Path) -> None:
    path = omniaid_folder(folder)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ScorerError, match=r"checkpoint_omniaid_v2\.pth"):
        omniaid.create("cpu").score([picture(56, 56)], [""])


def test_the_reward_is_the_score_of_pictures_that_need_no_resizing_and_carries_a_gradient(folder: Path) -> None:
    omniaid_folder(folder)
    scorer = omniaid.create("cpu")
    image = picture(TINY.image, TINY.image, 3)
    pixels = (torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255).requires_grad_()
    reward = scorer.reward(pixels, [""])
    (score,) = scorer.score([image], [""])
    assert score.values is not None
    assert float(reward.detach()) == pytest.approx(score.values[""], abs=1e-4)
    reward.sum().backward()
    assert pixels.grad is not None and float(pixels.grad.abs().sum()) > 0
