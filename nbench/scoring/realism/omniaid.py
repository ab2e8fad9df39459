"""omniaid-v2-clip: OmniAID v2 on CLIP L/14-336 (Guo et al., ICML 2026), a second family beside Community Forensics.

The published file is a training checkpoint: a pickle of `model`, `optimizer`, `scaler`, `epoch` and `args`. It is read
with `weights_only=True` and one more class allowed, `argparse.Namespace`, which runs no code. Class 1 is *generated*:
the score is the difference of the two logits, real minus generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nbench.errors import ScorerError, first_line
from nbench.scoring.network import NetworkScorer
from nbench.scoring.realism.detector import LOG_ODDS
from nbench.scoring.scorer import Metric, Score, ScorerCard
from nbench.scoring.weights import Source, load_tensors

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from nbench.scoring.realism.omniaid_network import OmniAid

FILE = "ckpt/checkpoint_omniaid_v2.safetensors|ckpt/checkpoint_omniaid_v2.pth"
SOURCE = Source(repo="Yunncheng/OmniAID", revision="279cae7398ac6636f46fc4668f755f11210b36bf", files=(FILE,))
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def prepare(images: list[Image.Image], side: int) -> torch.Tensor:
    """Pictures as the network takes them, float32 [B, 3, side, side].

    One resize to a square by PIL's bilinear filter, whatever the proportions, as v2's reference script does; CLIP mean
    and deviation.
    """
    import torch
    from torchvision.transforms.v2 import functional as F

    rows = []
    for image in images:
        ready = F.resize(image.convert("RGB"), [side, side])
        rows.append(F.normalize(F.pil_to_tensor(ready).float() / 255, list(MEAN), list(STD)))
    return torch.stack(rows)


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a training checkpoint, without running code from it.

    Raises:
        ScorerError: the file is corrupt, or holds what `weights_only` refuses; says how to convert it.
    """
    import argparse
    import pickle

    import torch

    if path.suffix == ".safetensors":
        return load_tensors(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        said = str(error).strip().splitlines()[0][:160]
        raise ScorerError(
            f"{path} holds more than tensors and plain values, which could run code when loaded ({said}): where you "
            "trust the file, load it with torch.load(..., weights_only=False), write its 'model' with "
            f"safetensors.torch.save_file to {path.with_suffix('.safetensors').name} beside it, and nbench takes that."
        ) from error
    except Exception as error:  # torch's zip reader raises kinds of its own
        said = first_line(error, 160)
        raise ScorerError(f"the weight file {path} is corrupt ({said}): fetch it again.") from error
    state = loaded.get("model", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ScorerError(f"{path} holds no state dict of tensors under 'model': is it the right file?")
    return state


class OmniAidScorer(NetworkScorer):
    """The omniaid-v2-clip scorer; prompts are not read."""

    about = ScorerCard(
        name="omniaid-v2-clip",
        kind="realism",
        version="1",
        metrics=(
            LOG_ODDS,
            Metric("logit_real", "none", "the network's first output"),
            Metric("logit_fake", "none", "the network's second output"),
        ),
        summary="Log-odds of real by OmniAID v2: CLIP L/14-336 with routed semantic experts and one for artefacts.",
        uses_prompt=False,
        preprocessing="RGB; one resize to a square of 336 (PIL bilinear, proportions not kept), CLIP mean and std; "
        "attention by sdpa; fp32",
        licence="MIT by the model card (no licence file in the repository), Apache-2.0 (this code)",
        source="Yunncheng/OmniAID ckpt/checkpoint_omniaid_v2.pth; Guo et al. 2025, arXiv 2511.08423",
    )
    sources = (SOURCE,)
    rows_per_forward = 8

    @cached_property
    def _net(self) -> OmniAid:
        import torch

        from nbench.scoring.realism.omniaid_network import load_omniaid

        path = SOURCE.path(FILE)
        state = read_checkpoint(path)
        with torch.inference_mode(False):
            try:
                net = load_omniaid(state)
            except (KeyError, RuntimeError) as error:
                said = [line.strip() for line in str(error).splitlines() if line.strip()]
                raise ScorerError(
                    f"{path} is not an OmniAID CLIP checkpoint ({' '.join(said[:2])[:160]}): fetch {SOURCE.repo} again."
                ) from error
        return net.eval().requires_grad_(False).to(self.device)

    def values(self, images: list[Image.Image], prompts: list[str]) -> list[Score]:
        """Log-odds of real, and both logits, per picture."""
        pixels = prepare(images, self._net.sizes.image).to(self.device)
        rows = self._net(pixels).float().cpu().tolist()
        return [Score(values={"": real - fake, "logit_real": real, "logit_fake": fake}) for real, fake in rows]

    def reward(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Log-odds of real as a differentiable function of the pixels; see `nbench.scoring.differentiable`.

        Tensors are resized by torch's antialiased bilinear filter, which differs from PIL's by rounding to bytes.
        """
        from torchvision.transforms.v2 import functional as F

        side = self._net.sizes.image
        ready = F.resize(images.to(self.device).float(), [side, side], antialias=True)
        logits = self._net(F.normalize(ready, list(MEAN), list(STD))).float()
        odds: torch.Tensor = logits[:, 0] - logits[:, 1]
        return odds


def create(device: str) -> OmniAidScorer:
    """Entry point of the scorer."""
    return OmniAidScorer(device)
