"""image-stats: plain statistics that drift when a reward is hacked (over-saturation, over-sharpening, clipping).

None of them is good or bad by itself, so none has an orientation; read them as differences against the base. Luma is
Rec. 601 (0.299 R + 0.587 G + 0.114 B) of the 8-bit values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nbench.scoring.scorer import Metric, Score, ScorerCard

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

CARD = ScorerCard(
    name="image-stats",
    kind="statistics",
    version="1",
    metrics=(
        Metric("saturation", "none", "mean HSV saturation, 0 to 1"),
        Metric("rms_contrast", "none", "standard deviation of luma / 255, 0 to 0.5"),
        Metric("laplacian_variance", "none", "variance of luma's 4-neighbour Laplacian, squared 8-bit levels, 0 up"),
        Metric("high_frequency_share", "none", "share of luma's spectral energy above half Nyquist, 0 to 1"),
        Metric("clipped_share", "none", "share of pixels with a channel at 0 or 255, 0 to 1"),
    ),
    summary="Saturation, contrast, sharpness, high-frequency energy and clipping of the picture as it is; no network.",
    uses_prompt=False,
    preprocessing="RGB, 8 bit, native size",
    licence="Apache-2.0",
    source="nbench.scoring.rewards.image_stats",
)
SMALLEST = 3  # pixels: the Laplacian needs an inner pixel


def luma(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Rec. 601 luma, [H, W] in [0, 255], of RGB pixels [H, W, 3]."""
    return np.asarray(pixels @ np.array([0.299, 0.587, 0.114]), np.float64)


def saturation(pixels: NDArray[np.uint8]) -> float:
    """Mean over pixels of (max - min) / max of the channels, 0 where the pixel is black; in [0, 1]."""
    high, low = pixels.max(2).astype(np.float64), pixels.min(2).astype(np.float64)
    return float(np.mean((high - low) / np.maximum(high, 1)))


def rms_contrast(pixels: NDArray[np.uint8]) -> float:
    """Standard deviation (population) of luma / 255; in [0, 0.5] (Peli 1990)."""
    return float(np.std(luma(pixels)) / 255)


def laplacian_variance(pixels: NDArray[np.uint8]) -> float:
    """Variance over inner pixels of up + down + left + right - 4 x centre of luma, in squared 8-bit levels.

    The usual sharpness figure (Pech-Pacheco et al. 2000); OpenCV's `Laplacian(gray, CV_64F).var()` differs only in
    that it rounds luma to 8 bits and also counts the border.
    """
    y = luma(pixels)
    edges = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * y[1:-1, 1:-1]
    return float(np.var(edges))


def high_frequency_share(pixels: NDArray[np.uint8]) -> float:
    """Share of luma's spectral energy beyond a radius of 0.25 cycles per pixel, in [0, 1].

    Luma is freed of its (window-weighted) mean and multiplied by a periodic Hann window, so that the jump between
    opposite edges does not count as detail. A flat picture has no energy at all, and so no high-frequency energy: 0.
    """
    y = luma(pixels)
    height, width = y.shape
    window = np.outer(_hann(height), _hann(width))
    y = y - np.sum(window * y) / np.sum(window)
    if np.abs(y).max() < 1e-6:  # rounding of the mean, no picture
        return 0.0
    energy = np.abs(np.fft.fft2(window * y)) ** 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    return float(np.clip(energy[radius > 0.25].sum() / energy.sum(), 0, 1))


def _hann(length: int) -> NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


def clipped_share(pixels: NDArray[np.uint8]) -> float:
    """Share of pixels of which at least one channel is 0 or 255; in [0, 1]."""
    return float(np.mean(((pixels == 0) | (pixels == 255)).any(2)))


class ImageStats:
    """The image-stats scorer; needs no weights and no device."""

    @property
    def card(self) -> ScorerCard:
        """What the numbers are."""
        return CARD

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        """Five statistics per picture; a picture under 3 pixels a side has none."""
        return [self._one(np.asarray(image.convert("RGB"))) for image in images]

    @staticmethod
    def _one(pixels: NDArray[np.uint8]) -> Score:
        if min(pixels.shape[:2]) < SMALLEST:
            return Score.failed(f"picture of {pixels.shape[1]}x{pixels.shape[0]} pixels: at least 3x3 are needed")
        return Score(
            values={
                "saturation": saturation(pixels),
                "rms_contrast": rms_contrast(pixels),
                "laplacian_variance": laplacian_variance(pixels),
                "high_frequency_share": high_frequency_share(pixels),
                "clipped_share": clipped_share(pixels),
            }
        )


def create(device: str) -> ImageStats:
    """Entry point of the scorer; `device` is not used."""
    return ImageStats()
