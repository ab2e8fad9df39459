"""hpsv2.0 and hpsv2.1: human preference scores of Wu et al. 2023 (arXiv 2306.09341), open_clip ViT-H/14 fine-tunes.

The score is the plain cosine, without the logit scale; the authors' tables print 100 x it. The two versions' scales are
not comparable. Pictures are letter-boxed, never cropped, and on tensors, where antialiasing is on or off by torchvision
version: 12 to 17 grey levels of difference. It is pinned on, as everyone on torchvision 0.17 or newer has it.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

from nbench.scoring.backbones import shared_open_clip
from nbench.scoring.encoder import Backbone
from nbench.scoring.rewards.clip_cosine import CosineScorer
from nbench.scoring.scorer import Metric, ScorerCard, Variant
from nbench.scoring.weights import Source

REPO, REVISION = "xswu/HPSv2", "697403c78157020a1ae59d23f111aa58ced35b0a"


def _card(name: str, note: str) -> ScorerCard:
    return ScorerCard(
        name=name,
        kind="reward",
        version="1",
        metrics=(Metric("", "higher", f"cosine, -1 to 1; 0.2 to 0.35 on generated pictures; {note}"),),
        summary="Preference model of HPDv2: cosine of picture and prompt under a fine-tuned CLIP ViT-H/14; likes "
        "saturation and glow.",
        uses_prompt=True,
        preprocessing="letter-box on tensors: longer side to 224 (bicubic, antialias=True, not clamped), zeros around "
        "the rest, CLIP mean and std; first 77 tokens; fp32 without TF32 (the authors' script uses fp16 autocast)",
        licence="Apache-2.0",
        source=f"{REPO}; arXiv 2306.09341",
        variants=(Variant("x100", 100.0, "100 x cosine, -100 to 100", "the tables of the HPSv2 benchmark"),),
    )


class Hps(CosineScorer):
    """A scorer of the HPSv2 family.

    Attributes:
        architecture: open_clip model name, which gives the sizes.
    """

    architecture: ClassVar[str] = "ViT-H-14"

    @cached_property
    def backbone(self) -> Backbone:
        """What encodes; loaded at first use."""
        (source,) = self.sources
        (file,) = source.files
        return shared_open_clip(self.architecture, source.path(file), self.device)


class Hps20(Hps):
    """The hpsv2.0 scorer: what the hpsv2 package computes unless told otherwise."""

    about = _card("hpsv2.0", "not on the scale of hpsv2.1")
    sources = (Source(REPO, REVISION, ("HPS_v2_compressed.pt",)),)


class Hps21(Hps):
    """The hpsv2.1 scorer: what papers on RL mean by HPSv2."""

    about = _card("hpsv2.1", "not on the scale of hpsv2.0")
    sources = (Source(REPO, REVISION, ("HPS_v2.1_compressed.pt",)),)


def create_v20(device: str) -> Hps20:
    """Entry point of hpsv2.0."""
    return Hps20(device)


def create_v21(device: str) -> Hps21:
    """Entry point of hpsv2.1."""
    return Hps21(device)
