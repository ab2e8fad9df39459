"""What joint picture-text encoders share: unit features, fp32, the same bits in any company, nothing encoded twice."""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nbench.scoring.layout import check_layout

if TYPE_CHECKING:
    import torch
    from PIL import Image

K = TypeVar("K")

ROWS = 16  # pictures per forward, unless the scorer says otherwise
TEXT_ROWS = 4  # texts per forward: few are distinct, as a prompt has many pictures
KEPT_TEXTS = 4096
KEPT_PICTURES = 4096
WIDEST = 32  # ratio of the sides; beyond it a crop or letter-box shows nearly nothing of the picture


class Backbone(ABC):
    """Encodes pictures and texts into one space. Every forward has a fixed number of rows, short ones are filled up.

    The last features are kept, so that scorers of one batch on one backbone share the work.

    Args:
        device: torch device string.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._texts: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._pictures: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    @abstractmethod
    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Preprocessed pictures, float32 [B, 3, size, size], on the CPU."""

    @abstractmethod
    def tensor_pixels(self, images: torch.Tensor) -> torch.Tensor:
        """The same from float [B, 3, H, W] in [0, 1], on the backbone's device; differentiable."""

    @abstractmethod
    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids, int64 [B, length], cut to the text length."""

    @abstractmethod
    def truncated(self, text: str) -> bool:
        """Whether `tokens` cuts this text."""

    @property
    @abstractmethod
    def logit_scale(self) -> float:
        """The learned temperature: what cosines are multiplied by before a softmax."""

    @abstractmethod
    def _encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features [B, D] of `pixels`."""

    @abstractmethod
    def _encode_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Features [B, D] of `tokens`."""

    def image_features(self, images: Sequence[Image.Image], rows: int = ROWS) -> torch.Tensor:
        """Unit rows of RGB pictures.

        Args:
            images: B pictures.
            rows: of each forward; part of what fixes the bits, so scorers on one backbone should agree on it.

        Returns:
            float32 [B, D] on the CPU.
        """

        def encode(part: list[Image.Image]) -> torch.Tensor:
            return self._picture_rows(self.pixels(part).to(self.device))

        keys = [_picture_key(image) for image in images]
        by_key = dict(zip(keys, images, strict=True))

        def encode_new(new: list[bytes]) -> torch.Tensor:
            return _forwards([by_key[key] for key in new], encode, rows)

        return _recall(self._pictures, keys, encode_new, KEPT_PICTURES)

    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit rows of texts, float32 [B, D] on the CPU; a text is encoded once."""

        def encode(part: list[str]) -> torch.Tensor:
            with exact_float32(self.device):
                return _unit(self._encode_tokens(self.tokens(part).to(self.device)))

        return _recall(self._texts, list(texts), lambda new: _forwards(new, encode, TEXT_ROWS), KEPT_TEXTS)

    def forget(self) -> None:
        """Drop the features that were kept, for who wants to see the network work: checks and measurements."""
        self._texts.clear()
        self._pictures.clear()

    def tensor_image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Unit rows of float [B, 3, H, W] in [0, 1], float32 [B, D] on the backbone's device; differentiable."""
        return self._picture_rows(self.tensor_pixels(images.to(self.device).float()))

    def _picture_rows(self, pixels: torch.Tensor) -> torch.Tensor:
        with exact_float32(self.device):
            return _unit(self._encode_pixels(pixels))


def load_strictly(model: Any, tensors: Mapping[str, torch.Tensor], path: Path) -> Any:
    """Put a file's tensors into a model, as fp32, without gradients, in eval mode.

    Raises:
        ScorerError: a tensor is missing, left over, or of another shape; the file is named.
    """
    check_layout(path, tensors, model.state_dict())
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True, assign=True)
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def exact_float32(device: str) -> Iterator[None]:
    """No autocast and no TF32 inside: a GPU's default would round the patch convolution to 10 bits."""
    import torch

    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(torch.device(device).type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution


def refuse_shape(width: int, height: int) -> str | None:
    """Why a picture of this size is no use to a square encoder, None when it is."""
    if max(width, height) > WIDEST * min(width, height):
        return f"picture of {width}x{height} pixels: one side is over {WIDEST} times the other"
    return None


def _unit(features: torch.Tensor) -> torch.Tensor:
    features = features.float()
    unit: torch.Tensor = features / features.norm(dim=-1, keepdim=True)
    return unit


def _forwards(items: list[K], encode: Callable[[list[K]], torch.Tensor], rows: int) -> torch.Tensor:
    """`encode` over chunks of exactly `rows` items, short ones filled up with their last; rows on the CPU."""
    import torch

    parts = []
    with torch.inference_mode():
        for start in range(0, len(items), rows):
            part = items[start : start + rows]
            parts.append(encode(part + part[-1:] * (rows - len(part)))[: len(part)].cpu())
        return torch.cat(parts)


def _recall(
    kept: OrderedDict[K, torch.Tensor], keys: Sequence[K], make: Callable[[list[K]], torch.Tensor], most: int
) -> torch.Tensor:
    """One row per key, out of `kept` where it is there; new rows are made, and the oldest fall out."""
    import torch

    new = [key for key in dict.fromkeys(keys) if key not in kept]
    rows = dict(zip(new, make(new).unbind(0), strict=True)) if new else {}
    for key in keys:
        if key in kept:
            kept.move_to_end(key)
            rows[key] = kept[key]
        else:
            kept[key] = rows[key].clone()  # a view would keep the whole chunk
    result = torch.stack([rows[key] for key in keys])
    while len(kept) > most:
        kept.popitem(last=False)
    return result


def _picture_key(image: Image.Image) -> bytes:
    """By content: a PIL picture can be painted over, so its identity does not do."""
    return hashlib.blake2b(image.tobytes(), digest_size=16, salt=repr(image.size).encode()[:16]).digest()
