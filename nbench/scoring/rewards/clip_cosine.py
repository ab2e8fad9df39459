"""What PickScore, HPS and CLIPScore share: scale x cosine of picture and prompt, for pictures and for tensors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbench.errors import ScorerError
from nbench.scoring.encoder import Backbone, refuse_shape
from nbench.scoring.network import NetworkScorer
from nbench.scoring.scorer import Score

if TYPE_CHECKING:
    import torch
    from PIL import Image


class CosineScorer(NetworkScorer):
    """A scorer of one number: `scale` times the cosine of picture and prompt, row by row."""

    @property
    @abstractmethod
    def backbone(self) -> Backbone:
        """What encodes; loaded at first use."""

    @property
    def scale(self) -> float:
        """Factor of the cosine."""
        return 1.0

    def refusal(self, image: Image.Image, prompt: str) -> str | None:
        """No score for an empty prompt, and for a picture that is a mere strip."""
        return super().refusal(image, prompt) or refuse_shape(*image.size)

    def values(self, images: list[Image.Image], prompts: list[str]) -> list[Score]:
        """One number per picture, and whether its prompt was cut."""
        pictures = self.backbone.image_features(images, self.rows_per_forward)
        texts = self.backbone.text_features(prompts)
        cosines = (pictures * texts).sum(1).tolist()
        return [
            Score.of(self.scale * cosine, truncated=self.backbone.truncated(prompt))
            for cosine, prompt in zip(cosines, prompts, strict=True)
        ]

    def forget(self) -> None:
        """Encode pictures and prompts anew from here on, even those that were just scored."""
        self.backbone.forget()

    def reward(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """The same number as a differentiable function of the pixels; see `nbench.scoring.differentiable`."""
        require_sound(self.about.name, images, prompts)
        texts = self.backbone.text_features(prompts)
        pictures = self.backbone.tensor_image_features(images)
        return self.scale * (pictures * texts.to(pictures.device)).sum(1)


def require_sound(scorer: str, images: torch.Tensor, prompts: Sequence[str] = ()) -> None:
    """What `refusal` is for pictures, for the tensors of `reward`.

    Raises:
        ScorerError: a prompt is empty, the counts differ, or the pictures are strips.
    """
    if prompts and len(prompts) != len(images):
        raise ScorerError(f"{scorer}: {len(images)} pictures and {len(prompts)} prompts: give one prompt per picture.")
    for row, prompt in enumerate(prompts):
        if not prompt.strip():
            raise ScorerError(f"{scorer}: the prompt of row {row} is empty, so it has no score. Leave it out.")
    reason = refuse_shape(images.shape[-1], images.shape[-2])
    if reason is not None:
        raise ScorerError(f"{scorer}: {reason}. Leave it out.")
