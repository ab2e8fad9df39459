"""clipscore-l14: plain cosine of picture and prompt under OpenAI's CLIP ViT-L/14, and the scales that others give it.

The field means at least five different numbers by "CLIPScore". Here the cosine is the number, and the others are named
variants of it. One difference is not a scale and so is no variant: DiffusionNFT's and Flow-GRPO's own code resizes a
tensor with bilinear interpolation, where CLIP's preprocessing, and ours, is bicubic through PIL.
"""

from __future__ import annotations

from functools import cached_property

from nbench.scoring.backbones import CLIP_L14, shared_clip
from nbench.scoring.encoder import Backbone
from nbench.scoring.rewards.clip_cosine import CosineScorer
from nbench.scoring.scorer import Metric, ScorerCard, Variant


class ClipScore(CosineScorer):
    """The clipscore-l14 scorer."""

    about = ScorerCard(
        name="clipscore-l14",
        kind="reward",
        version="1",
        metrics=(Metric("", "higher", "cosine, -1 to 1; 0.2 to 0.35 on generated pictures"),),
        summary="Cosine of picture and prompt under OpenAI's CLIP ViT-L/14; weak on counts and relations.",
        uses_prompt=True,
        preprocessing="PIL: shorter side to 224 (bicubic), centre crop, CLIP mean and std; first 77 tokens; fp32 "
        "without TF32",
        licence="MIT (code and weights of the reference)",
        source="openai/clip-vit-large-patch14; arXiv 2103.00020",
        variants=(
            Variant(
                "x100",
                100.0,
                "100 x cosine, -100 to 100",
                "tables that print CLIP as 20 to 35, such as GARDO's",
            ),
            Variant(
                "torchmetrics",
                100.0,
                "max(100 x cosine, 0), 0 to 100",
                "torchmetrics' CLIPScore with openai/clip-vit-large-patch14, per picture",
                floor=0.0,
            ),
            Variant(
                "over-30",
                100 / 30,
                "100 x cosine / 30, about 0.8 to 1",
                "RealGen, GARDO and versions of Flow-GRPO (logits_per_image / 30, some with a bilinear resize)",
            ),
            Variant(
                "hessel-2.5",
                2.5,
                "2.5 x max(cosine, 0), 0 to 2.5",
                "the formula of Hessel et al. 2021 (arXiv 2104.08718), who use ViT-B/32 and put 'A photo depicts' "
                "before the text; neither is done here, so the numbers are not theirs",
                floor=0.0,
            ),
        ),
    )
    sources = (CLIP_L14,)

    @cached_property
    def backbone(self) -> Backbone:
        """What encodes; shared with other scorers on it."""
        return shared_clip(CLIP_L14, self.device)


def create(device: str) -> ClipScore:
    """Entry point of the scorer."""
    return ClipScore(device)
