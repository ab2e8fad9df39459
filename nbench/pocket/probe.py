"""The pocket probe: an independent classifier that reads a pocket picture's facts back.

It is trained on composed scenes only, never on generated pictures (`nbench.pocket.recipes.probe`), shares nothing with
pocket-clip, and is not a reward: it measures what a checkpoint drew against what its prompt said.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from nbench.errors import ScorerError
from nbench.pocket.world import COLOURS, CONCEPTS, COUNTS, STYLES, Scene

WEIGHTS = Path(__file__).parent / "weights" / "pocket-probe"
SIZE = 64

#: fact -> its classes in the order of the network's outputs
CLASSES: dict[str, tuple[object, ...]] = {
    "concept": tuple(range(len(CONCEPTS))),
    "style": tuple(range(len(STYLES))),
    "colour": tuple(range(len(COLOURS))),
    "count": tuple(COUNTS),
}


class ProbeNet(nn.Module):
    """A plain conv net: four halvings, mean and maximum over space, one linear head per fact.

    Args:
        widths: channels after each halving.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        first, *rest = widths
        layers: list[nn.Module] = [_conv(3, first, kernel=4, stride=2)]
        for before, after in zip(widths, rest, strict=False):
            layers += [_conv(before, after, kernel=3, stride=2), _conv(after, after, kernel=3, stride=1)]
        self.body = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({fact: nn.Linear(2 * widths[-1], len(names)) for fact, names in CLASSES.items()})

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits by fact, [B, classes]; `pixels` float [B, 3, 64, 64] in [-1, 1]."""
        found = self.body(pixels)
        pooled = torch.cat((found.mean((2, 3)), found.amax((2, 3))), 1)
        return {fact: head(pooled) for fact, head in self.heads.items()}


def _conv(before: int, after: int, *, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())


def pixels_of(images: Sequence[Image.Image]) -> torch.Tensor:
    """float32 [B, 3, 64, 64] in [-1, 1]; other sizes are reduced or enlarged with PIL's Lanczos filter."""
    ready = [
        image.convert("RGB") if image.size == (SIZE, SIZE) else image.convert("RGB").resize((SIZE, SIZE), 1)
        for image in images
    ]
    return torch.from_numpy(np.stack([np.asarray(image) for image in ready])).permute(0, 3, 1, 2).float() / 127.5 - 1


def targets_of(scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """What `Probe.predict` should say of pictures of these scenes."""
    colours = list(COLOURS)
    return {
        "concept": np.array([scene.concept for scene in scenes]),
        "style": np.array([scene.style for scene in scenes]),
        "colour": np.array([colours.index(scene.colour) for scene in scenes]),
        "count": np.array([scene.count for scene in scenes]),
    }


class Probe:
    """Reads concept, style, background colour and count off pocket pictures. Get one from `load_probe`."""

    def __init__(self, net: ProbeNet, *, batch_size: int = 64) -> None:
        self._net = net.eval()
        self._batch_size = batch_size

    def probabilities(self, images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        """Softmax by fact, float32 [B, classes], classes in the order of `CLASSES`."""
        parts: dict[str, list[np.ndarray]] = {fact: [] for fact in CLASSES}
        for start in range(0, len(images), self._batch_size):
            with torch.inference_mode():
                logits = self._net(pixels_of(images[start : start + self._batch_size]))
            for fact, values in logits.items():
                parts[fact].append(values.softmax(1).numpy())
        return {
            fact: np.concatenate(rows) if rows else np.zeros((0, len(CLASSES[fact])), np.float32)
            for fact, rows in parts.items()
        }

    def predict(self, images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        """The likeliest class by fact, int64 [B]: indices into CONCEPTS, STYLES and COLOURS, and the count 1 to 3."""
        found = {fact: values.argmax(1) for fact, values in self.probabilities(images).items()}
        found["count"] = np.array(CLASSES["count"], np.int64)[found["count"]]
        return found


def load_probe(folder: Path = WEIGHTS) -> Probe:
    """The bundled probe, or one that the recipe has put into `folder`; on the CPU in float32.

    Raises:
        ScorerError: the folder holds no probe.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        state = load_file(folder / "model.safetensors")
    except OSError as error:
        raise ScorerError(
            f"no probe weights in {folder} ({error}): run `python -m nbench.pocket.recipes.probe --work WORK`"
        ) from error
    net = ProbeNet(config["widths"])
    net.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in state.items()})
    return Probe(net)
