"""pickscore-v1: which of two pictures people preferred for a prompt (Pick-a-Pic), a CLIP ViT-H/14 fine-tuned on pairs.

exp(logit_scale) x cosine of picture and prompt (Kirstain et al. 2023, arXiv 2305.01569, section 4), each picture with
its own prompt only.
"""

from __future__ import annotations

from functools import cached_property

from nbench.scoring.backbones import shared_clip
from nbench.scoring.encoder import Backbone
from nbench.scoring.rewards.clip_cosine import CosineScorer
from nbench.scoring.scorer import Metric, ScorerCard, Variant
from nbench.scoring.weights import Source

WEIGHTS = Source(
    "yuvalkirstain/PickScore_v1",
    "a4e4367c6dfa7288a00c550414478f865b875800",
    ("config.json", "model.safetensors|pytorch_model.bin"),
)
PROCESSOR = Source(
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "1c2b8495b28150b8a4922ee1c8edee224c284c0c",
    ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"),
)


class PickScore(CosineScorer):
    """The pickscore-v1 scorer."""

    about = ScorerCard(
        name="pickscore-v1",
        kind="reward",
        version="1",
        metrics=(
            Metric("", "higher", "exp(logit_scale) x cosine; about 100 x cosine, 18 to 25 on generated pictures"),
        ),
        summary="Preference model of Pick-a-Pic: scaled cosine of picture and prompt, fine-tuned CLIP ViT-H/14.",
        uses_prompt=True,
        preprocessing="PIL: shorter side to 224 (bicubic), centre crop, CLIP mean and std; first 77 tokens; fp32 "
        "without TF32",
        licence="code of the reference: permissive; weights: no licence text on their page, ask before passing them on",
        source="yuvalkirstain/PickScore_v1; arXiv 2305.01569",
        variants=(
            Variant(
                "over-26",
                1 / 26,
                "pickscore / 26, about 0.75 to 0.95",
                "the rewards of Flow-GRPO, DiffusionNFT, AWM, UniRL and verl-omni; tables in papers are not divided",
            ),
        ),
    )
    sources = (WEIGHTS, PROCESSOR)

    @cached_property
    def backbone(self) -> Backbone:
        """What encodes; loaded at first use."""
        return shared_clip(WEIGHTS, self.device, PROCESSOR)

    @property
    def scale(self) -> float:
        """The learned temperature."""
        return self.backbone.logit_scale


def create(device: str) -> PickScore:
    """Entry point of the scorer."""
    return PickScore(device)
