"""Detectors that were trained with nbench: a folder that is a scorer.

A folder holds `detector.json` (what it is, how it looks at pictures, what it was trained on and how well it does),
`model.safetensors` (all weights, the backbone's too, so that it can be copied to another machine) and a README.md.
pocket-realism is such a folder; `nbench realism train` writes others. One's own is used by path, or by name from a
plug-in package:

    def create(device):
        return load_detector(Path(__file__).parent / "weights", device, name="my-detector")
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbench.errors import ScorerError
from nbench.flow.weights import file_digest
from nbench.scoring.network import NetworkScorer
from nbench.scoring.realism.views import View
from nbench.scoring.scorer import Metric, Score, ScorerCard

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn

CONFIG, WEIGHTS = "detector.json", "model.safetensors"
#: "realism@FOLDER" names the detector in a folder wherever a scorer's name is asked for
PREFIX = "realism@"
FORMAT = 1
LOG_ODDS = Metric("", "higher", "log-odds that the picture is real, unbounded; 0 is undecided")


@dataclass(frozen=True)
class DetectorConfig:
    """What a detector folder holds, without its weights.

    Attributes:
        name: what the detector is called.
        summary: one sentence for the card.
        view: which pixels it sees.
        widths: channels of a `RealismNet` trained from scratch; empty for a head on a backbone.
        architecture: timm name of a frozen backbone; "" for none.
        arguments: keyword arguments that timm builds the backbone with.
        licence: of the weights.
        source: recipe or command that made it.
    """

    name: str
    summary: str
    view: View
    widths: tuple[int, ...] = ()
    architecture: str = ""
    arguments: Mapping[str, Any] | None = None
    licence: str = ""
    source: str = ""

    def build(self) -> nn.Module:
        """The network with random weights; pixels float [B, 3, size, size] to log-odds of real [B]."""
        if self.widths:
            from nbench.scoring.realism.network import RealismNet

            return RealismNet(self.widths)
        from nbench.scoring.realism.backbone import HeadOnBackbone, build_backbone

        return HeadOnBackbone(build_backbone(self.architecture, dict(self.arguments or {})))

    def as_json(self, **facts: object) -> str:
        """The text of detector.json; `facts` are kept for the reader and not read back."""
        return json.dumps({"format": FORMAT, **asdict(self), **facts}, indent=1) + "\n"


def read_config(folder: Path) -> DetectorConfig:
    """What a detector folder says of itself.

    Raises:
        ScorerError: there is no detector, or it is of another format.
    """
    path = folder / CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScorerError(
            f"{folder} holds no detector ({CONFIG}: {error.strerror}): give a folder that `nbench realism train` wrote."
        ) from error
    except ValueError as error:
        raise ScorerError(f"{path} is not JSON ({error}): train the detector again, or restore the file.") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        given = raw.get("format") if isinstance(raw, dict) else None
        raise ScorerError(f"{path} has format {given!r}, this nbench reads format {FORMAT}: train the detector again.")
    try:
        seen = raw["view"]
        view = View(seen["mode"], seen["size"], seen["grid"], tuple(seen["mean"]), tuple(seen["std"]))
        known = {name: raw[name] for name in DetectorConfig.__dataclass_fields__ if name != "view"}
        config = DetectorConfig(view=view, **{**known, "widths": tuple(known["widths"])})
    except (KeyError, TypeError) as error:
        raise ScorerError(f"{path} is incomplete ({error}): train the detector again, or restore the file.") from error
    return config


class Detector(NetworkScorer):
    """A detector from a folder; prompts are not read.

    Args:
        folder: as `nbench realism train` writes it.
        device: torch device string.
        name: of the scorer; what the folder says by default.

    Raises:
        ScorerError: the folder holds no detector.
    """

    def __init__(self, folder: Path, device: str = "cpu", name: str = "") -> None:
        super().__init__(device)
        self.folder = folder
        self.config = read_config(folder)
        self.about = ScorerCard(  # type: ignore[misc]  # one class serves every folder, so the card is the instance's
            name=name or self.config.name,
            kind="realism",
            version="1",
            metrics=(LOG_ODDS,),
            summary=self.config.summary,
            uses_prompt=False,
            preprocessing=f"{self.config.view.words}; mean {self.config.view.mean}, std {self.config.view.std}; fp32",
            licence=self.config.licence,
            source=self.config.source,
        )

    @cached_property
    def card(self) -> ScorerCard:
        """What the numbers are.

        Raises:
            ScorerError: the weights are missing.
        """
        path = self.folder / WEIGHTS
        try:
            found = {WEIGHTS: file_digest(path)}
        except OSError as error:
            raise ScorerError(
                f"the weight file {path} cannot be read ({error.strerror}): restore the folder, or make it again "
                f"({self.config.source})."
            ) from error
        return replace(self.about, weights=found)

    @cached_property
    def _net(self) -> nn.Module:
        import torch

        from nbench.scoring.weights import load_tensors

        state = load_tensors(self.folder / WEIGHTS)
        with torch.inference_mode(False):
            net = self.config.build()
            try:
                net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
            except RuntimeError as error:
                said = str(error).splitlines()[0]
                raise ScorerError(
                    f"{self.folder / WEIGHTS} does not fit {CONFIG} beside it ({said}): restore the folder."
                ) from error
        return net.eval().requires_grad_(False).to(self.device)

    def refusal(self, image: Image.Image, prompt: str) -> str | None:
        """A picture that the view cannot cut."""
        return self.config.view.refusal(image)

    def values(self, images: list[Image.Image], prompts: list[str]) -> list[Score]:
        """Log-odds of real per picture."""
        return [Score.of(value) for value in self.log_odds(images).tolist()]

    def log_odds(self, images: list[Image.Image]) -> torch.Tensor:
        """Log-odds of real, float32 [B], on the CPU; cuts of a picture are averaged."""
        import torch

        view, net = self.config.view, self._net
        cuts = [view.cuts(image) for image in images]
        places = zip(*cuts, strict=True)  # one forward per place in the grid, so that its rows are the pictures
        found = [net(view.tensor(place).to(self.device)).float().cpu() for place in places]
        return torch.stack(found).mean(0)

    def reward(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """The same log-odds as a differentiable function of the pixels; see `nbench.scoring.differentiable`."""
        import torch

        cuts = self.config.view.tensor_cuts(images.to(self.device).float())
        return torch.stack([self._net(cut).float() for cut in cuts]).mean(0)


def load_detector(folder: str | Path, device: str = "cpu", name: str = "") -> Detector:
    """The detector in a folder.

    Raises:
        ScorerError: the folder holds no detector.
    """
    return Detector(Path(folder).expanduser(), device, name)


def detector_by_path(name: str, device: str = "cpu") -> Detector:
    """The detector that "realism@FOLDER" names; its scorer is called "realism@" and what the detector is called.

    So its scores are found again when the folder is moved, and another detector of that name has other weights and
    therefore another identity.

    Raises:
        ScorerError: the folder holds no detector.
    """
    folder = Path(name.removeprefix(PREFIX)).expanduser()
    return Detector(folder, device, f"{PREFIX}{read_config(folder).name}")
