"""pocket-clip: picture-text cosine of an open_clip model that knows the pocket world.

The model is a folder that open_clip itself loads (`local-dir:`), so this file is the pattern of every CLIP-like scorer:
features in fp32, unit length, row-wise product, no logit scale.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nbench.errors import ScorerError
from nbench.scoring.rewards.weights import digests
from nbench.scoring.scorer import Metric, Score, ScorerCard

if TYPE_CHECKING:
    import torch
    from PIL import Image

T = TypeVar("T")

FOLDER = Path(__file__).parents[2] / "pocket" / "weights" / "pocket-clip"
FILES = ("open_clip_model.safetensors", "open_clip_config.json", "tokenizer.json", "tokenizer_config.json")
RECIPE = "nbench.pocket.recipes.clip"
CHUNK = 16  # rows of every forward; short ones are filled up, so that a row's bits do not depend on its company


class OpenClip:
    """An open_clip model from a local folder, in fp32, loaded at first use.

    Args:
        folder: holds open_clip_config.json, open_clip_model.safetensors and a tokenizer.
        device: torch device string.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.folder = folder
        self.device = device

    @cached_property
    def _loaded(self) -> tuple[Any, Callable[[Image.Image], torch.Tensor], Callable[[list[str]], torch.Tensor]]:
        import open_clip
        import torch

        name = f"local-dir:{self.folder}"
        try:
            with torch.inference_mode(False):  # weights made in inference mode could never carry a gradient
                model, preprocess = open_clip.create_model_from_pretrained(name, precision="fp32", device=self.device)
            return model.eval(), preprocess, open_clip.get_tokenizer(name)
        except (OSError, RuntimeError, ValueError) as error:
            raise ScorerError(f"open_clip cannot load {self.folder}: {error}") from error

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Preprocessed pictures, float32 [B, 3, size, size], through PIL."""
        import torch

        _, preprocess, _ = self._loaded
        return torch.stack([preprocess(image.convert("RGB")) for image in images])

    def image_features(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Unit rows, float32 [B, D], on the CPU."""
        model, _, _ = self._loaded
        return self._rows(images, lambda part: model.encode_image(self.pixels(part).to(self.device), normalize=True))

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit rows, float32 [B, D], on the CPU; each distinct text is encoded once."""
        model, _, tokenize = self._loaded
        row = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        rows = self._rows(list(row), lambda part: model.encode_text(tokenize(part).to(self.device), normalize=True))
        return rows[[row[text] for text in texts]]

    def stages(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Mean and standard deviation over space of the image tower's stem and stages, float32 [B, F], on the CPU."""
        return self._rows(images, lambda part: self._pooled_stages(self.pixels(part).to(self.device)))

    def _pooled_stages(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        model, _, _ = self._loaded
        maps = model.visual.forward_intermediates(pixels, intermediates_only=True)["image_intermediates"]
        return torch.cat([moment for m in maps for moment in (m.mean((2, 3)), m.std((2, 3)))], 1)

    # The same with gradients, from tensors instead of PIL pictures.

    def tensor_pixels(self, images: torch.Tensor) -> torch.Tensor:
        """Preprocessed pictures, float32 [B, 3, size, size], from [B, 3, H, W] in [0, 1]; differentiable.

        At the model's own size this is what `pixels` does. Elsewhere torch's bicubic filter stands for PIL's, without
        its rounding to bytes.
        """
        from torchvision.transforms.v2 import functional as F

        model, _, _ = self._loaded
        settings = model.visual.preprocess_cfg
        size = int(settings["size"] if isinstance(settings["size"], int) else settings["size"][0])
        images = images.to(device=self.device).float()
        if min(images.shape[-2:]) != size:
            images = F.resize(images, [size], interpolation=F.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        pixels: torch.Tensor = F.normalize(
            F.center_crop(images, [size, size]), list(settings["mean"]), list(settings["std"])
        )
        return pixels

    def tensor_image_features(self, images: torch.Tensor) -> torch.Tensor:
        """`image_features` of a tensor, on the model's device; differentiable."""
        features: torch.Tensor = self._loaded[0].encode_image(self.tensor_pixels(images), normalize=True)
        return features.float()

    def tensor_stages(self, images: torch.Tensor) -> torch.Tensor:
        """`stages` of a tensor, on the model's device; differentiable."""
        return self._pooled_stages(self.tensor_pixels(images)).float()

    @staticmethod
    def _rows(items: Sequence[T], forward: Callable[[list[T]], torch.Tensor]) -> torch.Tensor:
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(items), CHUNK):
                part = list(items[start : start + CHUNK])
                filled = part + part[-1:] * (CHUNK - len(part))
                parts.append(forward(filled)[: len(part)].float().cpu())
        return torch.cat(parts)


class PocketClip:
    """The pocket-clip scorer: cosine of picture and prompt.

    Args:
        folder: the model, as the recipe exports it.
        device: torch device string.

    Raises:
        ScorerError: a file of the model is missing.
    """

    def __init__(self, folder: Path = FOLDER, device: str = "cpu") -> None:
        self._card = ScorerCard(
            name="pocket-clip",
            kind="reward",
            version="1",
            metrics=(Metric("", "higher", "cosine, -1 to 1"),),
            summary="Cosine of picture and prompt under a small open_clip model trained on composed pocket scenes.",
            uses_prompt=True,
            weights=digests(folder, FILES, RECIPE),
            preprocessing="open_clip transform on PIL: shorter side to 64 (bicubic, antialiased), centre crop, mean "
            "and std 0.5; lower case, punctuation dropped, first 14 words; fp32. No score where fewer than half of the "
            "words are known.",
            licence="MIT (weights), Apache-2.0 (code)",
            source=f"recipe {RECIPE}",
        )
        self._clip = OpenClip(folder, device)

    @property
    def card(self) -> ScorerCard:
        """What the numbers are."""
        return self._card

    @cached_property
    def _words(self) -> frozenset[str]:
        vocabulary = json.loads((self._clip.folder / "tokenizer.json").read_text())["model"]["vocab"]
        return frozenset(word for word in vocabulary if not word.startswith("<"))

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        """Cosine per picture; a reason where the prompt is mostly outside the pocket world."""
        reasons = [self._stranger(prompt) for prompt in prompts]
        asked = [i for i, reason in enumerate(reasons) if reason is None]
        scores = [Score.failed(reason or "") for reason in reasons]
        if asked:
            pictures = self._clip.image_features([images[i] for i in asked])
            texts = self._clip.text_features([prompts[i] for i in asked])
            for i, cosine in zip(asked, (pictures * texts).sum(1).tolist(), strict=True):
                scores[i] = Score.of(cosine)
        return scores

    def reward(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """The same cosine as a differentiable function of the pixels; see `nbench.scoring.differentiable`."""
        for prompt in prompts:
            reason = self._stranger(prompt)
            if reason is not None:
                raise ScorerError(f"prompt {prompt!r} has no pocket-clip score: {reason}. Leave it out.")
        texts = self._clip.text_features(prompts).clone()  # made in inference mode, which autograd cannot save
        pictures = self._clip.tensor_image_features(images)
        return (pictures * texts.to(pictures.device)).sum(1)

    def _stranger(self, prompt: str) -> str | None:
        words = re.sub(r"[^\w\s]+", " ", prompt.lower()).split()
        known = sum(word in self._words for word in words)
        if known and 2 * known >= len(words):
            return None
        return f"pocket-clip knows {known} of the {len(words)} words of the prompt: it reads pocket prompts only"


def create(device: str) -> PocketClip:
    """Entry point of the scorer."""
    return PocketClip(device=device)
