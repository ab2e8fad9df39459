"""What scorers with a network share: a card readable without weights, forwards of one fixed size, letting go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from nbench.errors import InfrastructureError, ScorerError
from nbench.scoring.scorer import Score, ScorerCard
from nbench.scoring.weights import Source

if TYPE_CHECKING:
    from PIL import Image


class NetworkScorer(ABC):
    """A scorer whose numbers come from weights that may have to be fetched.

    Every forward has `rows_per_forward` rows; a short chunk is filled up by repeating its last row, so that the bits of
    a picture's score do not depend on how many others were scored with it.

    Attributes:
        about: the card without the weights' digests; readable where the weights are not.
        sources: every file that is read.
        rows_per_forward: pictures per forward; halved when the device runs out of memory.
        device: torch device string.
    """

    about: ClassVar[ScorerCard]
    sources: ClassVar[tuple[Source, ...]] = ()
    rows_per_forward: int = 16

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @cached_property
    def card(self) -> ScorerCard:
        """What the numbers are.

        Raises:
            ScorerError: a weight file cannot be had.
        """
        found = dict(self.about.weights)
        for source in self.sources:
            try:
                found |= source.digests()
            except ScorerError as error:
                raise ScorerError(f"{self.about.name}: {error}") from error
        return replace(self.about, weights=found)

    @abstractmethod
    def values(self, images: list[Image.Image], prompts: list[str]) -> list[Score]:
        """One Score per picture of a chunk of `rows_per_forward` RGB pictures, under torch.inference_mode."""

    def refusal(self, image: Image.Image, prompt: str) -> str | None:
        """Why a picture gets no score, None when it does. Here: an empty prompt where prompts are read."""
        if self.about.uses_prompt and not prompt.strip():
            return "the prompt is empty"
        return None

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        """One Score per picture, in order; a picture that `refusal` names has its reason."""
        import torch

        reasons = [self.refusal(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        asked = [i for i, reason in enumerate(reasons) if reason is None]
        scores = [Score.failed(reason or "") for reason in reasons]
        start = 0
        while start < len(asked):
            chunk = asked[start : start + self.rows_per_forward]
            rows = chunk + chunk[-1:] * (self.rows_per_forward - len(chunk))
            try:
                with torch.inference_mode():
                    found = self.values([images[i].convert("RGB") for i in rows], [prompts[i] for i in rows])
            except (torch.OutOfMemoryError, MemoryError) as error:
                self._use_less_memory(error)
                continue
            if len(found) != len(rows):
                raise ValueError(f"{self.about.name} gave {len(found)} scores for {len(rows)} pictures")
            for i, score in zip(chunk, found, strict=False):
                scores[i] = score
            start += len(chunk)
        return scores

    def _use_less_memory(self, error: BaseException) -> None:
        """Halve the forwards from here on.

        Raises:
            InfrastructureError: they have one row already.
        """
        import torch

        if self.rows_per_forward == 1:
            raise InfrastructureError(
                f"{self.about.name} has not enough memory on {self.device} for one picture: free the device, use "
                "another, or leave this scorer out; what is scored is kept."
            ) from error
        self.rows_per_forward //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Let go of the network, so that another may have the memory: whatever `cached_property` holds but the card."""
        for name in list(vars(self)):
            if name != "card" and isinstance(getattr(type(self), name, None), cached_property):
                del self.__dict__[name]
