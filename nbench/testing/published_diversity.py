"""DINOv2 and AlexNet with random weights in their published files: what the full-size diversity scorers read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from nbench.testing.random_tensors import random_tensors

DINOV2 = "facebook/dinov2-base"
ALEXNET = "pytorch/vision"
ALEXNET_FILE = "alexnet-owt-7be5be79.pth"


@dataclass(frozen=True)
class DinoV2Size:
    """Widths of a DINOv2 ViT; the default is the published base model.

    Attributes:
        hidden, layers, heads: of the transformer.
        image: pixels a side that the position embeddings were made for.
        patch: pixels a side of a patch.
    """

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    image: int = 518
    patch: int = 14


FULL = DinoV2Size()
TINY = DinoV2Size(hidden=24, layers=2, heads=2, image=56)


def dinov2_tensors(size: DinoV2Size = TINY) -> dict[str, tuple[int, ...]]:
    """Names and shapes in model.safetensors, as transformers 4.31 gave them when the model was published."""
    width = size.hidden
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.position_embeddings": (1, (size.image // size.patch) ** 2 + 1, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, size.patch, size.patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
        "layernorm.weight": (width,),
        "layernorm.bias": (width,),
    }
    linears = {f"attention.attention.{part}": (width, width) for part in ("query", "key", "value")}
    linears |= {"attention.output.dense": (width, width), "mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    for layer in range(size.layers):
        stem = f"encoder.layer.{layer}"
        for norm in ("norm1", "norm2"):
            shapes |= {f"{stem}.{norm}.weight": (width,), f"{stem}.{norm}.bias": (width,)}
        for name, shape in linears.items():
            shapes |= {f"{stem}.{name}.weight": shape, f"{stem}.{name}.bias": shape[:1]}
        shapes |= {f"{stem}.layer_scale1.lambda1": (width,), f"{stem}.layer_scale2.lambda1": (width,)}
    return shapes


def dinov2_config(size: DinoV2Size = TINY) -> dict[str, object]:
    """config.json."""
    return {
        "architectures": ["Dinov2Model"],
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": size.hidden,
        "image_size": size.image,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-06,
        "layerscale_value": 1.0,
        "mlp_ratio": 4,
        "model_type": "dinov2",
        "num_attention_heads": size.heads,
        "num_channels": 3,
        "num_hidden_layers": size.layers,
        "patch_size": size.patch,
        "qkv_bias": True,
        "torch_dtype": "float32",
        "use_swiglu_ffn": False,
    }


def dinov2_processor() -> dict[str, object]:
    """preprocessor_config.json."""
    return {
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_processor_type": "BitImageProcessor",
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 256},
    }


def published_dinov2(root: Path, size: DinoV2Size = TINY, *, seed: int = 0) -> Path:
    """Write the folder facebook/dinov2-base under `root`.

    Args:
        root: what NBENCH_WEIGHTS is to name.
        size: widths; FULL takes 0.35 GB of disk.
        seed: of the random weights.

    Returns:
        `root`.
    """
    from safetensors.torch import save_file

    folder = root / DINOV2
    folder.mkdir(parents=True, exist_ok=True)
    save_file(random_tensors(dinov2_tensors(size), seed), folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in (("config.json", dinov2_config(size)), ("preprocessor_config.json", dinov2_processor())):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return root


def alexnet_tensors() -> dict[str, tuple[int, ...]]:
    """Names and shapes in torchvision's AlexNet file."""
    kernels = {
        "features.0": (64, 3, 11, 11),
        "features.3": (192, 64, 5, 5),
        "features.6": (384, 192, 3, 3),
        "features.8": (256, 384, 3, 3),
        "features.10": (256, 256, 3, 3),
        "classifier.1": (4096, 9216),
        "classifier.4": (4096, 4096),
        "classifier.6": (1000, 4096),
    }
    return {
        f"{name}.{part}": shape if part == "weight" else shape[:1]
        for name, shape in kernels.items()
        for part in ("weight", "bias")
    }


def published_alexnet(root: Path, *, seed: int = 0) -> Path:
    """Write pytorch/vision/alexnet-owt-7be5be79.pth under `root`; its sha256 is, of course, not the published one.

    The classifier, which no scorer reads, has its shapes but one number per tensor, so the file has 10 MB.

    Args:
        root: what NBENCH_WEIGHTS is to name.
        seed: of the random weights.

    Returns:
        `root`.
    """
    import torch

    shapes = alexnet_tensors()
    read = {name: shape for name, shape in shapes.items() if name.startswith("features")}
    tensors = {**random_tensors(read, seed)}
    tensors |= {name: torch.zeros(1).expand(shape) for name, shape in shapes.items() if name not in read}
    folder = root / ALEXNET
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / ALEXNET_FILE)
    return root
