"""How a training tells what it is doing; the command line draws a live view from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from nbench.normguard.config import TrainConfig
    from nbench.normguard.evaluation import Evaluation


class TrainObserver(Protocol):
    """Hears of a training's progress, from the thread that trains."""

    def begin(self, config: TrainConfig, epoch: int) -> None:
        """The training begins, or goes on, at `epoch`."""

    def phase(self, name: str, total: int) -> None:
        """A part of an epoch begins, of `total` units."""

    def advance(self, count: int) -> None:
        """So many units more are done."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch ended with this line of the log."""

    def evaluation(self, epoch: int, evaluation: Evaluation) -> None:
        """Held-out prompts were scored after so many epochs."""

    def note(self, message: str) -> None:
        """Something the user should know."""


class Quiet:
    """An observer that says nothing."""

    def begin(self, config: TrainConfig, epoch: int) -> None:
        """Ignored."""

    def phase(self, name: str, total: int) -> None:
        """Ignored."""

    def advance(self, count: int) -> None:
        """Ignored."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Ignored."""

    def evaluation(self, epoch: int, evaluation: Evaluation) -> None:
        """Ignored."""

    def note(self, message: str) -> None:
        """Ignored."""
