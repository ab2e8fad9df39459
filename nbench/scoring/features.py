"""Image features in which the pictures of a set are told apart: DINOv2, CLIP, and the bundled pocket-clip.

Features are one unit row per picture, in fp32. Every forward has the same number of rows (a short one is filled up by
repeating its last picture), so that a row's bits do not depend on how many others came with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbench.errors import InfrastructureError, ScorerError, first_line
from nbench.scoring.backbones import CLIP_L14, HuggingFaceClip, shared_clip
from nbench.scoring.encoder import ROWS, exact_float32, refuse_shape
from nbench.scoring.rewards import pocket_clip
from nbench.scoring.rewards.weights import digests
from nbench.scoring.weights import Source

if TYPE_CHECKING:
    import torch
    from PIL import Image

#: pixels: a shorter side shows nothing that these networks could tell apart
SMALLEST = 16

DINOV2_BASE = Source(
    repo="facebook/dinov2-base",
    revision="f9e44c814b77203eaa57a6bdbbd535f21ede1415",
    files=("config.json", "preprocessor_config.json", "model.safetensors"),
)


class ImageFeatures(ABC):
    """Rows of features of pictures.

    Args:
        device: torch device string.

    Attributes:
        rows_per_forward: pictures per forward; halved when the device runs out of memory.
    """

    rows_per_forward: int = 4  # as many as the seeds of a prompt often are

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @abstractmethod
    def digests(self) -> Mapping[str, str]:
        """sha256 (hex) of every file that is read, by name.

        Raises:
            ScorerError: one cannot be had; says how to get it.
        """

    def refusal(self, image: Image.Image) -> str | None:
        """Why a picture has no features, None when it has."""
        if min(image.size) < SMALLEST:
            return f"picture of {image.width}x{image.height} pixels: at least {SMALLEST}x{SMALLEST} are needed"
        return refuse_shape(image.width, image.height)

    @abstractmethod
    def forward(self, images: list[Image.Image]) -> torch.Tensor:
        """Features [rows, D] of RGB pictures, on any device and of any length; called under torch.inference_mode."""

    def rows(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Unit rows, float32 [n, D] on the CPU.

        Raises:
            InfrastructureError: the device has not enough memory for one picture.
        """
        import torch

        done: list[torch.Tensor] = []
        start = 0
        while start < len(images):
            part = [image.convert("RGB") for image in images[start : start + self.rows_per_forward]]
            filled = part + part[-1:] * (self.rows_per_forward - len(part))
            try:
                with torch.inference_mode(), exact_float32(self.device):
                    found = self.forward(filled)[: len(part)].float()
            except (torch.OutOfMemoryError, MemoryError) as error:
                self._use_less_memory(error)
                continue
            done.append(torch.nn.functional.normalize(found, dim=1).cpu())
            start += len(part)
        return torch.cat(done)

    def _use_less_memory(self, error: BaseException) -> None:
        if self.rows_per_forward == 1:
            raise InfrastructureError(
                f"{self.device} has not enough memory for the features of one picture: free it, use another, or leave "
                "the diversity scorers out."
            ) from error
        self.rows_per_forward //= 2

    def close(self) -> None:
        """Let go of the network: whatever a `cached_property` holds."""
        for name in list(vars(self)):
            if isinstance(getattr(type(self), name, None), cached_property):
                del self.__dict__[name]


class DinoV2(ImageFeatures):
    """The [CLS] token of a DINOv2 ViT after its last layer norm (transformers' `pooler_output`), 768 numbers for base.

    Oquab et al. 2023. The processor is the checkpoint's own, on PIL: shorter side to 256 bicubic, centre crop 224,
    ImageNet mean and deviation.

    Args:
        device: torch device string.
        source: a transformers folder of `Dinov2Model`; its config says the sizes.
    """

    def __init__(self, device: str = "cpu", source: Source = DINOV2_BASE) -> None:
        super().__init__(device)
        self.source = source

    def digests(self) -> Mapping[str, str]:
        """sha256 of weights and configs."""
        return self.source.digests()

    @cached_property
    def _network(self) -> tuple[Any, Any]:
        from transformers import Dinov2Model

        folder = self.source.folder()
        return _strictly(Dinov2Model, folder).to(self.device), _processor(folder)

    def forward(self, images: list[Image.Image]) -> torch.Tensor:
        """Layer-normed [CLS] tokens, [rows, D]."""
        model, processor = self._network
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        tokens: torch.Tensor = model(pixel_values=pixels.to(self.device)).pooler_output
        return tokens


class ClipFeatures(ImageFeatures):
    """Image embeddings of a transformers CLIP, whose network and features other scorers on it share.

    Args:
        device: torch device string.
        source: holds the model, the preprocessing and the tokenizer.
    """

    rows_per_forward = ROWS  # what the other scorers on this network use: it fixes the bits

    def __init__(self, device: str = "cpu", source: Source = CLIP_L14) -> None:
        super().__init__(device)
        self.source = source

    def digests(self) -> Mapping[str, str]:
        """sha256 of weights and configs."""
        return self.source.digests()

    @cached_property
    def _clip(self) -> HuggingFaceClip:
        return shared_clip(self.source, self.device)

    def forward(self, images: list[Image.Image]) -> torch.Tensor:
        """Image embeddings, [rows, D]."""
        return self._clip.image_features(images, rows=self.rows_per_forward)


class PocketFeatures(ImageFeatures):
    """The image tower of pocket-clip, 64 pixels a side; bundled.

    Args:
        device: torch device string.
        folder: the model, as the recipe exports it.
    """

    rows_per_forward = pocket_clip.CHUNK

    def __init__(self, device: str = "cpu", folder: Path = pocket_clip.FOLDER) -> None:
        super().__init__(device)
        self._folder = folder

    def digests(self) -> Mapping[str, str]:
        """sha256 of the image tower's files; the tokenizer is not read."""
        return digests(self._folder, pocket_clip.FILES[:2], pocket_clip.RECIPE)

    @cached_property
    def _clip(self) -> pocket_clip.OpenClip:
        return pocket_clip.OpenClip(self._folder, self.device)

    def forward(self, images: list[Image.Image]) -> torch.Tensor:
        """Image embeddings, [rows, D]."""
        return self._clip.image_features(images)


def _strictly(model_class: Any, folder: Path) -> Any:
    """A transformers model in fp32 from a folder, each of its weights from the file and each of the file's used.

    Raises:
        ScorerError: the folder cannot be loaded, or lacks a weight (transformers would draw it at random).
    """
    import torch
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with torch.inference_mode(False):
            model, report = model_class.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
            )
    except Exception as error:  # transformers, safetensors and torch raise many kinds
        said = first_line(error)
        raise ScorerError(f"{model_class.__name__} cannot be loaded from {folder} ({said}): fetch it again.") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    for what, names in (("are missing", report["missing_keys"]), ("are unknown", report["unexpected_keys"])):
        if names:
            raise ScorerError(
                f"the weights in {folder} do not fit {model_class.__name__}: {len(names)} tensors {what} (first: "
                f"{min(names)}). Are they the right files?"
            )
    return model.eval()


def _processor(folder: Path) -> Any:
    """The folder's image processor on PIL, which is what the references were made with."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    except Exception as error:
        said = first_line(error)
        raise ScorerError(f"the image processor in {folder} cannot be loaded ({said}): fetch it again.") from error
