"""commfor-384: Community Forensics, a ViT-S trained on thousands of generators (Park and Owens, CVPR 2025).

The published file is a timm `vit_small_patch16_384` with a head of one output, all keys under `vit.`: the logit that a
picture is generated. The score is its negative, the log-odds of real.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from nbench.errors import ScorerError
from nbench.scoring.network import NetworkScorer
from nbench.scoring.realism.detector import LOG_ODDS
from nbench.scoring.scorer import Metric, Score, ScorerCard
from nbench.scoring.weights import Source, load_tensors

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn

SOURCE = Source(
    repo="OwensLab/commfor-model-384",
    revision="6076002bf0d9dd37537f965ee2f06f826c333b61",
    files=("model.safetensors",),
)
#: sha256 of the published model.safetensors, and its size in bytes
PUBLISHED = ("b89f36275f3bf5e2b040eee36597a8f19db051bff9a473a9cf7b2466284fb387", 87_262_324)
ARCHITECTURE = "vit_small_patch16_384"
PREFIX = "vit."
SHORT_SIDE, CROP = 440, 384
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def prepare(images: list[Image.Image]) -> torch.Tensor:
    """Pictures as the network takes them, float32 [B, 3, 384, 384].

    Shorter side to 440 by PIL's bilinear filter, centre crop of 384, ImageNet mean and deviation: the test transform of
    the authors' repository.
    """
    import torch
    from torchvision.transforms.v2 import functional as F

    rows = []
    for image in images:
        ready = F.center_crop(F.resize(image.convert("RGB"), [SHORT_SIDE]), [CROP, CROP])
        rows.append(F.normalize(F.pil_to_tensor(ready).float() / 255, list(MEAN), list(STD)))
    return torch.stack(rows)


def build(arguments: Mapping[str, Any]) -> nn.Module:
    """The timm network with one output and random weights; [B, 3, 384, 384] to [B, 1]."""
    import timm

    net: nn.Module = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=1, **arguments)
    return net


class CommunityForensics(NetworkScorer):
    """The commfor-384 scorer; prompts are not read."""

    about = ScorerCard(
        name="commfor-384",
        kind="realism",
        version="1",
        metrics=(LOG_ODDS, Metric("logit_fake", "none", "the network's own output: log-odds that it is generated")),
        summary="Log-odds of real by Community Forensics' ViT-S, trained on pictures of thousands of generators.",
        uses_prompt=False,
        preprocessing="RGB; shorter side to 440 (PIL bilinear, up or down), centre crop 384, ImageNet mean and std; "
        "fp32",
        licence="MIT (weights and reference code), Apache-2.0 (this code)",
        source="OwensLab/commfor-model-384; Park and Owens 2025, arXiv 2411.04125",
    )
    sources = (SOURCE,)
    arguments: ClassVar[Mapping[str, Any]] = {}  # of timm's builder: a narrower network of the same layout

    @cached_property
    def _net(self) -> nn.Module:
        import torch

        path = SOURCE.path("model.safetensors")
        state = load_tensors(path)
        plain = {name.removeprefix(PREFIX): value.float() for name, value in state.items()}
        with torch.inference_mode(False):
            net = build(self.arguments)
            try:
                net.load_state_dict(plain)
            except RuntimeError as error:
                raise ScorerError(
                    f"{path} is not the Community Forensics checkpoint ({_short(error)}): fetch {SOURCE.repo} again."
                ) from error
        return net.eval().requires_grad_(False).to(self.device)

    def values(self, images: list[Image.Image], prompts: list[str]) -> list[Score]:
        """Log-odds of real, and the raw logit, per picture."""
        fake = self._net(prepare(images).to(self.device)).float().cpu()[:, 0].tolist()
        return [Score(values={"": -logit, "logit_fake": logit}) for logit in fake]

    def reward(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Log-odds of real as a differentiable function of the pixels; see `nbench.scoring.differentiable`.

        Tensors are resized by torch's antialiased bilinear filter, which differs from PIL's by rounding to bytes.
        """
        from torchvision.transforms.v2 import functional as F

        ready = F.resize(images.to(self.device).float(), [SHORT_SIDE], antialias=True)
        pixels = F.normalize(F.center_crop(ready, [CROP, CROP]), list(MEAN), list(STD))
        odds: torch.Tensor = -self._net(pixels)[:, 0].float()
        return odds


def _short(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 else lines[0])[:160]


def create(device: str) -> CommunityForensics:
    """Entry point of the scorer."""
    return CommunityForensics(device)
