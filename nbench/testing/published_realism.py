"""Community Forensics and OmniAID with random weights in their published files."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from nbench.testing.random_tensors import random_tensors

COMMFOR = "OwensLab/commfor-model-384"
OMNIAID = "Yunncheng/OmniAID"
OMNIAID_FILE = "ckpt/checkpoint_omniaid_v2.pth"

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class CommforSize:
    """Widths of the ViT; the default is the published one.

    Attributes:
        width, layers: of the transformer.
        image, patch: pixels a side of the picture and of a patch.
    """

    width: int = 384
    layers: int = 12
    image: int = 384
    patch: int = 16


def commfor_tensors(size: CommforSize = CommforSize()) -> Shapes:  # frozen
    """Names and shapes in model.safetensors."""
    width = size.width
    shapes: Shapes = {
        "vit.cls_token": (1, 1, width),
        "vit.pos_embed": (1, (size.image // size.patch) ** 2 + 1, width),
        "vit.patch_embed.proj.weight": (width, 3, size.patch, size.patch),
        "vit.patch_embed.proj.bias": (width,),
    }
    for at in (f"vit.blocks.{i}" for i in range(size.layers)):
        for name, out, into in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            shapes[f"{at}.{name}.weight"], shapes[f"{at}.{name}.bias"] = (out, into), (out,)
        for name in ("norm1", "norm2"):
            shapes[f"{at}.{name}.weight"] = shapes[f"{at}.{name}.bias"] = (width,)
    shapes["vit.norm.weight"] = shapes["vit.norm.bias"] = (width,)
    shapes["vit.head.weight"], shapes["vit.head.bias"] = (1, width), (1,)
    return shapes


def commfor_folder(root: Path, size: CommforSize = CommforSize(), *, seed: int = 0) -> Path:
    """Write the published file under `root`, a folder for $NBENCH_WEIGHTS; returns the file."""
    from safetensors.torch import save_file

    path = root / COMMFOR / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(random_tensors(commfor_tensors(size), seed), path)
    return path


@dataclass(frozen=True)
class OmniAidSize:
    """Widths of OmniAID; the default is the published one of v2 on CLIP.

    Attributes:
        width, layers, mlp: of both towers; attention heads are 64 wide.
        image, patch: pixels a side of the picture and of a patch.
        experts, rank: of the experts, the one for artefacts included.
        router: hidden width of the router.
    """

    width: int = 1024
    layers: int = 24
    mlp: int = 4096
    image: int = 336
    patch: int = 14
    experts: int = 6
    rank: int = 1
    router: int = 256


OMNIAID_FULL = OmniAidSize()
OMNIAID_TINY = OmniAidSize(128, 2, 256, 56, 14, 4, 1, 16)


def omniaid_tensors(size: OmniAidSize = OMNIAID_TINY) -> Shapes:
    """Names and shapes under "model" in the checkpoint."""
    shapes: Shapes = {}
    width = size.width

    def linear(name: str, into: int, out: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    def embeddings(name: str) -> None:
        shapes[f"{name}.class_embedding"] = (width,)
        shapes[f"{name}.patch_embedding.weight"] = (width, 3, size.patch, size.patch)
        shapes[f"{name}.position_embedding.weight"] = ((size.image // size.patch) ** 2 + 1, width)

    def rest_of_layer(name: str) -> None:
        norm(f"{name}.layer_norm1")
        linear(f"{name}.mlp.fc1", width, size.mlp)
        linear(f"{name}.mlp.fc2", size.mlp, width)
        norm(f"{name}.layer_norm2")

    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    embeddings("feature_extractor.embeddings")
    norm("feature_extractor.pre_layrnorm")
    for at in (f"feature_extractor.encoder.layers.{i}" for i in range(size.layers)):
        for projection in projections:
            linear(f"{at}.self_attn.{projection}", width, width)
        rest_of_layer(at)
    norm("feature_extractor.post_layernorm")
    embeddings("embeddings")
    norm("ln_pre")
    for at in (f"encoder_layers.{i}" for i in range(size.layers)):
        for name in (f"{at}.self_attn.{projection}" for projection in projections):
            shapes[f"{name}.weight_main"] = (width, width)
            shapes[f"{name}.U_r"], shapes[f"{name}.V_r"] = (width, width - size.rank), (width - size.rank, width)
            shapes[f"{name}.weight_original_fnorm"] = ()
            shapes[f"{name}.bias"] = (width,)
            for expert in range(size.experts):
                shapes[f"{name}.U_experts.{expert}"] = (width, size.rank)
                shapes[f"{name}.S_experts.{expert}"] = (size.rank,)
                shapes[f"{name}.V_experts.{expert}"] = (size.rank, width)
        rest_of_layer(at)
    norm("ln_post")
    linear("gating_network.network.0", width, size.router)
    linear("gating_network.network.2", size.router, size.experts - 1)
    linear("head", width, 2)
    return shapes


def omniaid_folder(root: Path, size: OmniAidSize = OMNIAID_TINY, *, seed: int = 0) -> Path:
    """Write the published training checkpoint under `root`, a folder for $NBENCH_WEIGHTS; returns the file."""
    import torch

    path = root / OMNIAID / OMNIAID_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = {
        "model": random_tensors(omniaid_tensors(size), seed),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "epoch": 1,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(batch_size=32, output_dir="out"),
    }
    torch.save(checkpoint, path)
    return path
