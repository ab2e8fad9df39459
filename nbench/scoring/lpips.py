"""LPIPS (Zhang et al. 2018, v0.1, AlexNet): perceptual distance of two pictures of one size.

At each of five ReLU outputs of ImageNet's AlexNet the channels of a position are scaled to unit length; the squared
differences are weighted per channel by the published linear layer, averaged over positions, and summed over the five.
Here each picture of a set goes through AlexNet once, not once per pair, and alone, so that neither the order nor the
number of the pictures moves a distance.

The linear layers are bundled (`lpips_weights`, 1,152 numbers, BSD-2-Clause, from lpips 0.1.4); the AlexNet is
torchvision's file, which every user of lpips has in torch's hub cache.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nbench.errors import InfrastructureError, ScorerError
from nbench.flow.weights import file_digest
from nbench.scoring.encoder import exact_float32
from nbench.scoring.weights import Source, load_tensors

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL import Image

#: pixels: with less, the last layers have no position
SMALLEST = 31
LINEAR = Path(__file__).parent / "lpips_weights" / "alex-v0.1.safetensors"
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pixels in [-1, 1]
BLOCKS = ((0, 2), (2, 5), (5, 8), (8, 10), (10, 12))  # slices of AlexNet's `features`, each ending in a ReLU
EPSILON = 1e-10


@dataclass(frozen=True)
class TorchHubFile(Source):
    """One file that torch.hub keeps by its name; the name ends in the first digits of its sha256."""

    def folder(self) -> Path:
        """$NBENCH_WEIGHTS/owner/name where it is there, else torch's hub cache.

        Raises:
            ScorerError: neither holds the file.
        """
        own = self._own_folder()
        cache = Path(os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch")
        cached = cache.expanduser() / "hub" / "checkpoints"
        if (own is None or not own.is_dir()) and (cached / self.files[0]).is_file():
            return cached
        return super().folder()

    def digests(self) -> dict[str, str]:
        """sha256 (hex) of the file.

        Raises:
            ScorerError: it cannot be had, or is not the file that its name says.
        """
        found = super().digests()
        wanted = Path(self.files[0]).stem.rpartition("-")[2]
        if not next(iter(found.values())).startswith(wanted):
            raise ScorerError(
                f"{self.path(self.files[0])} is corrupt or another file, as its sha256 does not begin with {wanted}: "
                f"get it again from {self.url}."
            )
        return found


ALEXNET = TorchHubFile(
    repo="pytorch/vision",
    revision=None,
    files=("alexnet-owt-7be5be79.pth",),
    url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
)


class Lpips:
    """LPIPS v0.1 with AlexNet, in fp32.

    Args:
        device: torch device string.
        source: torchvision's AlexNet, as published (`features.*` is read, `classifier.*` is not).
    """

    def __init__(self, device: str = "cpu", source: Source = ALEXNET) -> None:
        self.device = device
        self.source = source

    def digests(self) -> Mapping[str, str]:
        """sha256 (hex) of AlexNet and of the bundled linear layers.

        Raises:
            ScorerError: AlexNet cannot be had; says how to get it.
        """
        return {**self.source.digests(), LINEAR.name: file_digest(LINEAR)}

    @cached_property
    def _layers(self) -> list[tuple[torch.nn.Sequential, torch.Tensor]]:
        """The five blocks, each with its weight per channel, [1, C, 1, 1]."""
        import torch
        from torchvision.models import alexnet

        path = self.source.path(self.source.files[0])
        weights = load_tensors(path)
        own = {name.removeprefix("features."): value for name, value in weights.items() if name.startswith("features.")}
        with torch.device("meta"):
            features = alexnet(weights=None).features
        try:
            features.load_state_dict(own, strict=True, assign=True)
        except RuntimeError as error:
            raise ScorerError(
                f"{path} is not torchvision's AlexNet ({str(error).splitlines()[-1].strip()})."
            ) from error
        features = features.float().to(self.device).eval().requires_grad_(False)
        linear = load_tensors(LINEAR)
        return [
            (features[start:end], linear[f"lin{i}.model.1.weight"].to(self.device))
            for i, (start, end) in enumerate(BLOCKS)
        ]

    def refusal(self, images: Sequence[Image.Image]) -> str | None:
        """Why these pictures have no distances, None when they have."""
        sizes = sorted({image.size for image in images})
        if len(sizes) > 1:
            return f"LPIPS needs pictures of one size: here are {', '.join(f'{w}x{h}' for w, h in sizes)} pixels"
        if sizes and min(sizes[0]) < SMALLEST:
            return f"pictures of {sizes[0][0]}x{sizes[0][1]} pixels: at least {SMALLEST}x{SMALLEST} are needed"
        return None

    def distances(self, images: Sequence[Image.Image]) -> NDArray[np.float64]:
        """LPIPS of every pair at native size, [n, n], symmetric, 0 on the diagonal.

        Raises:
            InfrastructureError: the device has not enough memory for the pictures of one set.
        """
        import torch

        try:
            with torch.inference_mode(), exact_float32(self.device):
                return self._distances([self._pixels(image) for image in images])
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise InfrastructureError(
                f"{self.device} has not enough memory for LPIPS of {len(images)} pictures: free it, use another, or "
                "leave diversity-lpips out."
            ) from error

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        import torch

        pixels = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).to(self.device)
        pixels = pixels.permute(2, 0, 1)[None].float() / 255 * 2 - 1
        shift, scale = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (SHIFT, SCALE))
        return (pixels - shift) / scale

    def _distances(self, hidden: list[torch.Tensor]) -> NDArray[np.float64]:
        found = np.zeros((len(hidden), len(hidden)))
        for block, weight in self._layers:
            hidden = [block(one) for one in hidden]
            root, positions = weight.sqrt(), hidden[0][0, 0].numel()
            unit = [one / (one.square().sum(1, keepdim=True).sqrt() + EPSILON) * root for one in hidden]
            for i in range(len(unit)):
                for j in range(i):
                    found[i, j] += float((unit[i] - unit[j]).square_().sum()) / positions
        return found + found.T

    def close(self) -> None:
        """Let go of the network."""
        self.__dict__.pop("_layers", None)
