"""Diversity: how various the pictures of one prompt over seeds are. Scorers of sets, not of pictures.

RL on a reward narrows what a model draws, and so does guidance; each of these falls when they do. Read them as paired
differences against the base, prompt by prompt, over the same seeds and at the same steps. They are no measure of
quality: pictures that are broken, each in its own way, are very various, so a floor on the absolute value guards
nothing.

    distance    mean over pairs of 1 - cosine of features (or of LPIPS). Its expectation does not depend on n.
    vendi       Vendi score (Friedman & Dieng 2023) of the cosine kernel: the effective number of different pictures.
                It grows with n, so compare it at one n only.
    set_size    n, so that a set that lost a picture is seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from nbench.errors import ScorerError
from nbench.scoring.features import ClipFeatures, DinoV2, ImageFeatures, PocketFeatures
from nbench.scoring.lpips import Lpips
from nbench.scoring.scorer import Metric, Score, ScorerCard

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

FEWEST = 2
_SET_SIZE = Metric("set_size", "none", "number of pictures in the set, 2 up")
_CAUTION = "Broken pictures are various too: compare with the base, set no floor."


def mean_distance(distances: NDArray[np.float64]) -> float:
    """Mean over unordered pairs of a symmetric [n, n] matrix of distances, n >= 2; does not depend on the order."""
    pairs = distances[np.triu_indices(len(distances), 1)]
    return math.fsum(pairs.tolist()) / len(pairs)


def cosine_distances(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - cosine of every pair of rows [n, D], in [0, 2], exactly 0 for equal rows.

    Raises:
        ValueError: a row is zero, and so has no direction.
    """
    from scipy.spatial.distance import pdist, squareform

    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.all(length > 0):
        raise ValueError("a feature row is zero")
    # |a - b|^2 / 2 = 1 - cos for unit rows, without the cancellation of the right-hand side near 0
    found: NDArray[np.float64] = squareform(pdist(rows / length, "sqeuclidean") / 2)
    return found.clip(0, 2)


def vendi(kernel: NDArray[np.float64]) -> float:
    """Vendi score of a similarity kernel [n, n] with ones on its diagonal; 1 (all alike) to n (all orthogonal).

    exp of the Shannon entropy of the eigenvalues of kernel / n (Friedman & Dieng 2023, order q = 1).
    """
    n = len(kernel)
    values = np.linalg.eigvalsh(kernel / n)
    values = values[values > 0]
    return float(np.clip(np.exp(-np.sum(values * np.log(values))), 1, n))


class _Measure(Protocol):
    """What tells the pictures of a set apart."""

    def digests(self) -> Mapping[str, str]: ...

    def close(self) -> None: ...


class _Diversity:
    """What the scorers below share: the card, and the refusals."""

    about: ScorerCard
    _measure: _Measure

    @cached_property
    def card(self) -> ScorerCard:
        """What the numbers are.

        Raises:
            ScorerError: a weight file cannot be had.
        """
        try:
            return replace(self.about, weights=dict(self._measure.digests()))
        except ScorerError as error:
            raise ScorerError(f"{self.about.name}: {error}") from error

    def _refusal(self, images: Sequence[Image.Image]) -> str | None:
        if len(images) < FEWEST:
            return f"a set of {len(images)}: diversity needs at least {FEWEST} pictures of a prompt"
        return None

    def close(self) -> None:
        """Let go of the network."""
        self._measure.close()


class FeatureDiversity(_Diversity):
    """Mean pairwise cosine distance and Vendi score in some image features.

    Args:
        about: the card without weights.
        features: what the pictures are turned into.
    """

    def __init__(self, about: ScorerCard, features: ImageFeatures) -> None:
        self.about = about
        self._measure: ImageFeatures = features

    def score_set(self, images: Sequence[Image.Image]) -> Score:
        """One Score for the pictures of one prompt; a reason for fewer than two, or where one cannot be read."""
        return self.score_sets([images])[0]

    def score_sets(self, sets: Sequence[Sequence[Image.Image]]) -> list[Score]:
        """One Score per set; the forwards run over all sets together, which saves filling up each one's last."""
        reasons = [self._refusal(images) for images in sets]
        asked = [images for images, reason in zip(sets, reasons, strict=True) if reason is None]
        flat = [image for images in asked for image in images]
        rows = self._measure.rows(flat).double().numpy() if flat else np.zeros((0, 1))
        parts = iter(np.split(rows, np.cumsum([len(images) for images in asked])[:-1]) if asked else [])
        return [self._of(next(parts)) if reason is None else Score.failed(reason) for reason in reasons]

    def _refusal(self, images: Sequence[Image.Image]) -> str | None:
        reasons = (self._measure.refusal(image) for image in images)
        return super()._refusal(images) or next((reason for reason in reasons if reason is not None), None)

    @staticmethod
    def _of(rows: NDArray[np.float64]) -> Score:
        if not np.isfinite(rows).all() or not rows.any(axis=1).all():
            return Score.failed("the features of a picture are zero or not finite")
        distances = cosine_distances(rows)
        return Score(
            values={"distance": mean_distance(distances), "vendi": vendi(1 - distances), "set_size": float(len(rows))}
        )


class LpipsDiversity(_Diversity):
    """Mean pairwise LPIPS.

    Args:
        about: the card without weights.
        lpips: the distance.
    """

    def __init__(self, about: ScorerCard, lpips: Lpips) -> None:
        self.about = about
        self._measure: Lpips = lpips

    def score_set(self, images: Sequence[Image.Image]) -> Score:
        """One Score for the pictures of one prompt; a reason for fewer than two, unlike sizes, or too few pixels."""
        reason = self._refusal(images) or self._measure.refusal(images)
        if reason is not None:
            return Score.failed(reason)
        distance = mean_distance(self._measure.distances(images))
        return Score(values={"distance": distance, "set_size": float(len(images))})


def _card(name: str, summary: str, *, preprocessing: str, licence: str, source: str) -> ScorerCard:
    return ScorerCard(
        name=name,
        kind="diversity",
        version="1",
        metrics=(
            Metric("distance", "higher", "mean over pairs of 1 - cosine, 0 to 2; unbiased at any n"),
            Metric("vendi", "higher", "effective number of different pictures, 1 to n: compare at one n only"),
            _SET_SIZE,
        ),
        summary=f"{summary} {_CAUTION}",
        uses_prompt=False,
        preprocessing=f"{preprocessing}; fp32; cosines and eigenvalues in fp64",
        licence=licence,
        source=source,
    )


_METHOD = "mean pairwise cosine distance as in GARDO (arXiv 2512.24138); Vendi score (arXiv 2210.02410)"
DINOV2 = _card(
    "diversity-dinov2",
    "How various the pictures of a prompt are in DINOv2-base features: mean pairwise cosine distance, and Vendi score.",
    preprocessing="the checkpoint's processor on PIL: shorter side to 256 (bicubic), centre crop 224, ImageNet mean "
    "and deviation; [CLS] token after the last layer norm",
    licence="Apache-2.0 (weights, code)",
    source=f"facebook/dinov2-base (arXiv 2304.07193); {_METHOD}",
)
CLIP_L14 = _card(
    "diversity-clip-l14",
    "How various the pictures of a prompt are in CLIP L/14 features: mean pairwise cosine distance, and Vendi score.",
    preprocessing="the checkpoint's processor on PIL: shorter side to 224 (bicubic), centre crop 224, CLIP mean and "
    "deviation; projected image embedding",
    licence="MIT (weights, as OpenAI's CLIP repository), Apache-2.0 (code)",
    source=f"openai/clip-vit-large-patch14 (arXiv 2103.00020); {_METHOD}",
)
POCKET = _card(
    "pocket-diversity",
    "How various the pocket pictures of a prompt are in pocket-clip features: mean pairwise cosine distance, and Vendi "
    "score.",
    preprocessing="as pocket-clip; image embedding",
    licence="MIT (weights), Apache-2.0 (code)",
    source=f"pocket-clip; {_METHOD}",
)
LPIPS = ScorerCard(
    name="diversity-lpips",
    kind="diversity",
    version="1",
    metrics=(
        Metric("distance", "higher", "mean LPIPS over pairs, 0 up, mostly below 1; unbiased at any n"),
        _SET_SIZE,
    ),
    summary=f"How various the pictures of a prompt are: mean pairwise LPIPS v0.1 (AlexNet) at native size. {_CAUTION}",
    uses_prompt=False,
    preprocessing="RGB, 8 bit, native size, all of one size; pixels to [-1, 1], shift and scale of LPIPS v0.1; fp32",
    licence="BSD-2-Clause (LPIPS), BSD-3-Clause (AlexNet), Apache-2.0 (code)",
    source="Zhang et al. 2018 (arXiv 1801.03924), lpips 0.1.4",
)


def dinov2(device: str) -> FeatureDiversity:
    """Entry point of diversity-dinov2."""
    return FeatureDiversity(DINOV2, DinoV2(device))


def clip_l14(device: str) -> FeatureDiversity:
    """Entry point of diversity-clip-l14."""
    return FeatureDiversity(CLIP_L14, ClipFeatures(device))


def pocket(device: str) -> FeatureDiversity:
    """Entry point of pocket-diversity."""
    return FeatureDiversity(POCKET, PocketFeatures(device))


def lpips(device: str) -> LpipsDiversity:
    """Entry point of diversity-lpips."""
    return LpipsDiversity(LPIPS, Lpips(device))
