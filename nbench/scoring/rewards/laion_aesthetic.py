"""aesthetic-laion-v2: LAION's aesthetic predictor, a head on CLIP ViT-L/14 picture features; reads no prompt.

Five linear layers without activations between them (the dropout of training is gone), so the score is one linear map of
the unit feature. Trivially hacked by a policy that is trained on it: read it as a drift monitor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from nbench.errors import ScorerError
from nbench.scoring.backbones import CLIP_L14, shared_clip
from nbench.scoring.encoder import Backbone, exact_float32, refuse_shape
from nbench.scoring.network import NetworkScorer
from nbench.scoring.rewards.clip_cosine import require_sound
from nbench.scoring.scorer import Metric, Score, ScorerCard
from nbench.scoring.weights import Source, load_tensors

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from PIL import Image

HEAD = "sac+logos+ava1-l14-linearMSE.pth"
COMMIT = "6934dd81792f086e613a121dbce43082cb8be85e"
SHA256 = "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"  # of the published file
HEAD_SOURCE = Source(
    "christophschuhmann/improved-aesthetic-predictor",
    COMMIT,
    (HEAD,),
    url="https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/"
    f"{COMMIT}/sac%2Blogos%2Bava1-l14-linearMSE.pth (its sha256 begins {SHA256[:12]})",
)
#: places of the linear layers in the published file's nn.Sequential; dropouts stand between
LAYERS = ("layers.0", "layers.2", "layers.4", "layers.6", "layers.7")


def apply_head(head: Mapping[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Scores, float32 [B], of unit features [B, D], by tensors named as in the published file."""
    from torch.nn import functional as F

    for layer in LAYERS:
        features = F.linear(features, head[f"{layer}.weight"], head[f"{layer}.bias"])
    return features.squeeze(1)


def read_head(path: Path) -> dict[str, torch.Tensor]:
    """The head's tensors, fp32.

    Raises:
        ScorerError: the file is corrupt, or not a chain of these five layers down to one number.
    """
    head = {name: tensor.float() for name, tensor in load_tensors(path).items()}
    wanted = [f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")]
    if sorted(head) != sorted(wanted):
        raise ScorerError(f"{path} has the tensors {sorted(head)[:4]}..., not {wanted[:4]}...: is it the right file?")
    width = head["layers.0.weight"].shape[-1]
    for layer in LAYERS:
        weight, bias = head[f"{layer}.weight"], head[f"{layer}.bias"]
        if weight.ndim != 2 or weight.shape[1] != width or tuple(bias.shape) != weight.shape[:1]:
            raise ScorerError(f"{path}: {layer} does not fit the layer before it: is it the right file?")
        width = weight.shape[0]
    if width != 1:
        raise ScorerError(f"{path} ends in {width} numbers instead of 1: is it the right file?")
    return head


class LaionAesthetic(NetworkScorer):
    """The aesthetic-laion-v2 scorer; prompts are not read."""

    about = ScorerCard(
        name="aesthetic-laion-v2",
        kind="reward",
        version="1",
        metrics=(Metric("", "higher", "rating, about 1 to 10; 5 to 6.5 on generated pictures"),),
        summary="Linear head on unit CLIP ViT-L/14 picture features, trained on ratings of SAC, LAION-logos and AVA; "
        "reads no prompt; a drift monitor rather than evidence of quality.",
        uses_prompt=False,
        preprocessing="PIL: shorter side to 224 (bicubic), centre crop, CLIP mean and std; fp32 without TF32",
        licence="Apache-2.0 (repository of the head), MIT (CLIP)",
        source="github.com/christophschuhmann/improved-aesthetic-predictor, sac+logos+ava1-l14-linearMSE",
    )
    sources = (HEAD_SOURCE, CLIP_L14)

    @cached_property
    def backbone(self) -> Backbone:
        """What encodes; shared with other scorers on it."""
        return shared_clip(CLIP_L14, self.device)

    @cached_property
    def _head(self) -> dict[str, torch.Tensor]:
        import torch

        with torch.inference_mode(False):  # tensors made in inference mode could never pass a gradient on
            return read_head(HEAD_SOURCE.path(HEAD))

    def refusal(self, image: Image.Image, prompt: str) -> str | None:
        """No score for a picture that is a mere strip."""
        return refuse_shape(*image.size)

    def values(self, images: list[Image.Image], prompts: list[str]) -> list[Score]:
        """One number per picture."""
        features = self.backbone.image_features(images, self.rows_per_forward)
        self._require_width(features)
        # row by row: a matrix product over the batch may round a row differently in other company
        return [Score.of(float(apply_head(self._head, row[None]))) for row in features]

    def forget(self) -> None:
        """Encode pictures anew from here on, even those that were just scored."""
        self.backbone.forget()

    def reward(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """The same number as a differentiable function of the pixels; see `nbench.scoring.differentiable`."""
        require_sound(self.about.name, images)
        features = self.backbone.tensor_image_features(images)
        self._require_width(features)
        with exact_float32(self.device):
            return apply_head({name: tensor.to(features.device) for name, tensor in self._head.items()}, features)

    def _require_width(self, features: torch.Tensor) -> None:
        takes, has = self._head["layers.0.weight"].shape[1], features.shape[1]
        if takes != has:
            raise ScorerError(
                f"{HEAD} takes {takes} features, but {CLIP_L14.repo} gives {has}: one of the two is not the published "
                "file, so fetch it again."
            )


def create(device: str) -> LaionAesthetic:
    """Entry point of the scorer."""
    return LaionAesthetic(device)
