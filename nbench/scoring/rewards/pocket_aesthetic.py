"""pocket-aesthetic: does a pocket picture look clean, whatever it shows? A small head on pocket-clip's image tower.

The head was trained to rank composed scenes above spoiled copies of them (blur, noise, melting, bad composition, ...).
Like the aesthetic heads on CLIP features that it stands for, it is easy to hack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nbench.scoring.rewards import pocket_clip
from nbench.scoring.rewards.weights import digests
from nbench.scoring.scorer import Metric, Score, ScorerCard

if TYPE_CHECKING:
    import torch
    from PIL import Image

FOLDER = pocket_clip.FOLDER.parent / "pocket-aesthetic"
HEAD = "head.safetensors"
RECIPE = "nbench.pocket.recipes.aesthetic"


def apply_head(head: Mapping[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Scores, float32 [B], of `OpenClip.stages` features [B, F].

    Args:
        head: mean and std [F] of clean scenes' features, hidden_weight [H, F], hidden_bias [H], out_weight [H],
            out_bias [].
        features: raw features.
    """
    import torch
    from torch.nn import functional as F

    normal = ((features - head["mean"]) / head["std"]).clamp(-10, 10)
    hidden = F.gelu(F.linear(normal, head["hidden_weight"], head["hidden_bias"]))
    return torch.mv(hidden, head["out_weight"]) + head["out_bias"]


class PocketAesthetic:
    """The pocket-aesthetic scorer; prompts are not read.

    Args:
        folder: the head, as the recipe exports it.
        clip_folder: the pocket-clip it was trained on.
        device: torch device string of the image tower.

    Raises:
        ScorerError: a weight file is missing.
    """

    def __init__(self, folder: Path = FOLDER, clip_folder: Path = pocket_clip.FOLDER, device: str = "cpu") -> None:
        tower = digests(clip_folder, pocket_clip.FILES[:2], pocket_clip.RECIPE)
        self._card = ScorerCard(
            name="pocket-aesthetic",
            kind="reward",
            version="1",
            metrics=(Metric("", "higher", "unbounded; clean scenes have mean 1, spoiled ones mean 0"),),
            summary="Prompt-free head on pocket-clip's image tower, trained to rank clean scenes above spoiled copies.",
            uses_prompt=False,
            weights=digests(folder, (HEAD,), RECIPE) | {f"pocket-clip/{name}": value for name, value in tower.items()},
            preprocessing="as pocket-clip; mean and deviation over space of the stem and the four stages; fp32",
            licence="MIT (weights), Apache-2.0 (code)",
            source=f"recipe {RECIPE}",
        )
        self._folder = folder
        self._clip = pocket_clip.OpenClip(clip_folder, device)

    @property
    def card(self) -> ScorerCard:
        """What the numbers are."""
        return self._card

    @cached_property
    def _head(self) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        return {name: tensor.float() for name, tensor in load_file(self._folder / HEAD).items()}

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        """One number per picture."""
        if not images:
            return []
        features = self._clip.stages(images)
        # row by row: a matrix product over the batch may round a row differently in other company
        return [Score.of(float(apply_head(self._head, row[None]))) for row in features]

    def reward(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """The same number as a differentiable function of the pixels; see `nbench.scoring.differentiable`."""
        features = self._clip.tensor_stages(images)
        return apply_head({name: tensor.to(features.device) for name, tensor in self._head.items()}, features)


def create(device: str) -> PocketAesthetic:
    """Entry point of the scorer."""
    return PocketAesthetic(device=device)
