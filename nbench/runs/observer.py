"""How a run tells what it is doing; the command line draws bars from it."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Hears of a run's progress. Calls come from the thread that runs it."""

    def stage(self, name: str, total: int, done: int) -> None:
        """A stage begins: `total` units in all, of which `done` were there already."""

    def advance(self, count: int) -> None:
        """`count` more units of the current stage are finished and durable."""

    def note(self, message: str) -> None:
        """Something the user should know, in a sentence."""


class Quiet:
    """An observer that says nothing."""

    def stage(self, name: str, total: int, done: int) -> None:
        """Ignored."""

    def advance(self, count: int) -> None:
        """Ignored."""

    def note(self, message: str) -> None:
        """Ignored."""
