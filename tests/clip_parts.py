"""Pictures, prompts and tiny published folders for the tests of CLIP-like scorers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nbench.scoring.scorer import Scorer
from nbench.scoring.weights import load_tensors
from nbench.testing.clip_layout import ClipSizes
from nbench.testing.clip_weights import aesthetic_head, clip_folder, open_clip_checkpoint, processor_folder

GOLDEN = Path(__file__).parent / "golden" / "scorers"
QUICK = ClipSizes(activation="quick_gelu")


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Slanted triangle waves in integers, so that every platform draws the same bytes."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [np.abs((x * (3 + c + seed) + y * (5 + 2 * c) + (x * y) // (7 + seed)) % 510 - 255) for c in range(3)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


PICTURES = [picture(32, 32, seed) for seed in range(6)]
PROMPTS = [
    "a red cat on a green chair",
    "two lighthouses at dusk",
    "a bowl of 3 lemons, oil painting",
    "a street in the rain",
    "an owl with glasses reading a newspaper",
    "a paper boat",
]


def golden(name: str) -> tuple[list[Image.Image], list[str], dict[str, Any]]:
    """Pictures and prompts of a golden file, and the file; the pictures are the recorded ones to the byte."""
    content = json.loads((GOLDEN / f"{name}.json").read_text())
    images = [picture(*case["picture"]) for case in content["cases"]]
    for image, case in zip(images, content["cases"], strict=True):
        assert hashlib.sha256(image.tobytes()).hexdigest() == case["sha256"]
    return images, [case["prompt"] for case in content["cases"]], content


#: the file under $NBENCH_WEIGHTS whose random tensors a golden file was recorded with
FILES = {
    "pickscore-v1": "yuvalkirstain/PickScore_v1/model.safetensors",
    "clipscore-l14": "openai/clip-vit-large-patch14/pytorch_model.bin",
    "aesthetic-laion-v2": "christophschuhmann/improved-aesthetic-predictor/sac+logos+ava1-l14-linearMSE.pth",
    "hpsv2.0": "xswu/HPSv2/HPS_v2_compressed.pt",
    "hpsv2.1": "xswu/HPSv2/HPS_v2.1_compressed.pt",
}


def tensors_digest(path: Path) -> str:
    """sha256 over names and bytes of a file's tensors, whatever the file's format."""
    digest = hashlib.sha256()
    for name, one in sorted(load_tensors(path).items()):
        digest.update(name.encode() + one.numpy().tobytes())
    return digest.hexdigest()


def write_weights(root: Path) -> Path:
    """Every CLIP-like scorer's files under `root`, tiny, as in $NBENCH_WEIGHTS; the golden values are of these."""
    clip_folder(root / "yuvalkirstain/PickScore_v1", seed=1)
    processor_folder(root / "laion/CLIP-ViT-H-14-laion2B-s32B-b79K")
    clip_folder(root / "openai/clip-vit-large-patch14", QUICK, seed=2, old=True)
    aesthetic_head(root / FILES["aesthetic-laion-v2"], seed=3)
    open_clip_checkpoint(root / FILES["hpsv2.0"], seed=4)
    open_clip_checkpoint(root / FILES["hpsv2.1"], seed=5)
    return root


def values(scorer: Scorer, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
    """The numbers of a scorer of one metric; all must be there."""
    found = []
    for score in scorer.score(images, prompts):
        assert score.values is not None, score.reason
        found.append(score.values[""])
    return found


def tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures of one size as float [B, 3, H, W] in [0, 1]."""
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in images])
