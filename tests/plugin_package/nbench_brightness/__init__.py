"""Example plug-in: a scorer in about 20 lines."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from nbench.scoring.scorer import Metric, Score, ScorerCard

CARD = ScorerCard(
    name="brightness",
    kind="statistics",
    version="1",
    metrics=(Metric("", "none", "mean of all channels, 0 to 255"),),
    summary="Mean of all channels.",
    uses_prompt=False,
)


class Brightness:
    """Mean of all channels of a picture."""

    card = CARD

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        """One mean per picture."""
        return [Score.of(float(np.asarray(image, np.float64).mean())) for image in images]


def create(device: str) -> Brightness:
    """Entry point."""
    return Brightness()
