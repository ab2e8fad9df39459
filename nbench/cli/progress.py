"""Progress of a run as rich bars: one per stage, with rate and time left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """Units per second of this attempt; what was there before it does not count."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


class Bars:
    """An `Observer` that draws a bar per stage; on no terminal it writes a line per stage instead."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, name: str, total: int, done: int) -> None:
        """Begin a stage's bar."""
        self._task = self._progress.add_task(name, total=total, completed=done)
        if not self._console.is_terminal and done < total:
            self._console.print(f"{name}: {total - done} to do, {done} in the store", highlight=False, soft_wrap=True)

    def advance(self, count: int) -> None:
        """Move the bar of the current stage."""
        if self._task is not None:
            self._progress.advance(self._task, count)

    def note(self, message: str) -> None:
        """Print a sentence above the bars."""
        self._console.print(Text(message), soft_wrap=True)
