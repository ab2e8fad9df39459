"""A training while it runs: on a terminal a live view, elsewhere a line per epoch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from nbench.normguard.config import TrainConfig
    from nbench.normguard.evaluation import Evaluation

_SHOWN = 10  # epochs in the live view


class TrainingView:
    """A `TrainObserver` that draws."""

    def __init__(self, console: Console, config: TrainConfig) -> None:
        self._console = console
        self._config = config
        self._records: list[Mapping[str, Any]] = []
        self._phase, self._done, self._total = "loading", 0, 1
        self._first = 0
        # Last, since it draws at once.
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=4, transient=True)

    def __enter__(self) -> TrainingView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def begin(self, config: TrainConfig, epoch: int) -> None:
        """Say where the training stands."""
        self._first = epoch
        if epoch:
            self.note(f"Going on after epoch {epoch} of {config.optim.epochs}.")

    def phase(self, name: str, total: int) -> None:
        """Begin a part of an epoch."""
        self._phase, self._done, self._total = name, 0, max(1, total)

    def advance(self, count: int) -> None:
        """Some units more."""
        self._done += count

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Take in a line of the log."""
        self._records.append(record)
        if record["failed"]:
            reason = next(iter(record["reasons"]), "")
            self.note(
                f"Epoch {record['epoch'] + 1}: {record['failed']} of {record['samples']} rewards failed: {reason}"
            )
        if not self._console.is_terminal:
            cells = zip(self._headings(), self._cells(record), strict=True)
            text = "  ".join(f"{name} {value}" for name, value in cells)
            self._console.print(Text(text), soft_wrap=True, highlight=False)

    def evaluation(self, epoch: int, evaluation: Evaluation) -> None:
        """Say how each reward moved on held-out prompts."""
        rewards = {(term.scorer, term.metric or term.scorer) for term in self._config.rewards}
        for one in evaluation.comparisons:
            if (one.scorer, one.metric) in rewards and one.difference is not None:
                moved = one.difference
                self.note(
                    f"After epoch {epoch}, {one.checkpoint} at {one.steps} steps on held-out prompts: {one.metric} "
                    f"{moved.mean:+.4f} ({moved.low:+.4f} to {moved.high:+.4f}) against the base."
                )

    def note(self, message: str) -> None:
        """Print a sentence above the view."""
        self._console.print(Text(message), soft_wrap=True)

    def _headings(self) -> list[str]:
        names = ["epoch", "reward", "loss", "norm q", "ref. dist."]
        names += [f"{guard.name} λ / active" for guard in self._additive()]
        if self._config.method.name == "grpo":
            names += ["ratio std", "clipped"]
        return [*names, "samples/s", "left"]

    def _additive(self) -> list[Any]:
        return [guard for guard in self._config.guards if guard.name not in ("ratio_norm", "state_kl")]

    def _cells(self, record: Mapping[str, Any]) -> list[str]:
        stats = record["stats"]
        cells = [
            f"{record['epoch'] + 1}/{self._config.optim.epochs}",
            _number(record["reward"]["mean"], ".4f"),
            _number(record["loss"], ".4g"),
            _number(_mean(stats, "norm_ratio"), ".4f"),
            _number(_mean(stats, "reference_distance"), ".2e"),
        ]
        for guard in self._additive():
            weight = record["guards"].get(guard.name)
            active = _mean(stats, f"{guard.name}/active")
            cells.append(f"{_number(weight, '.3g')} / {_number(None if active is None else 100 * active, '.0f')}%")
        if self._config.method.name == "grpo":
            ratio, clipped = stats.get("log_ratio"), _mean(stats, "clipped")
            cells.append(_number(ratio["std"] if ratio else None, ".1e"))
            cells.append(f"{_number(None if clipped is None else 100 * clipped, '.0f')}%")
        seconds = [one["seconds"]["epoch"] for one in self._records[-5:]] or [record["seconds"]["epoch"]]
        left = (self._config.optim.epochs - record["epoch"] - 1) * sum(seconds) / len(seconds)
        return [*cells, f"{record['samples_per_second']:.1f}", _duration(left)]

    def _draw(self) -> RenderableType:
        config = self._config
        done = self._records[-1]["epoch"] + 1 if self._records else self._first
        progress = Table.grid(padding=(0, 1))
        progress.add_row(
            "epochs", ProgressBar(total=config.optim.epochs, completed=done, width=40), f"{done}/{config.optim.epochs}"
        )
        progress.add_row(
            self._phase, ProgressBar(total=self._total, completed=min(self._done, self._total), width=40), ""
        )
        parts: list[RenderableType] = [Text(f"{config.name}: {config.method.name} on {config.model.base}"), progress]
        if self._records:
            table = Table(*self._headings(), box=None, pad_edge=False)
            for record in self._records[-_SHOWN:]:
                table.add_row(*self._cells(record))
            parts.append(table)
            parts += [one for one in (self._norms(), self._ratios()) if one is not None]
        return Group(*parts)

    def _norms(self) -> Table | None:
        """Velocity norm over the reference's, by time."""
        found = self._records[-1]["stats"].get("norm_ratio")
        if found is None:
            return None
        table = Table("t", *found["by"], box=None, pad_edge=False)
        table.add_row("norm q", *(f"{bucket['mean']:.4f}" for bucket in found["by"].values()))
        return table

    def _ratios(self) -> Table | None:
        """GRPO's log-ratio by step."""
        found = self._records[-1]["stats"].get("log_ratio")
        if found is None:
            return None
        table = Table("step", *found["by"], box=None, pad_edge=False)
        table.add_row("log-ratio mean", *(f"{bucket['mean']:+.1e}" for bucket in found["by"].values()))
        table.add_row("log-ratio std", *(f"{bucket['std']:.1e}" for bucket in found["by"].values()))
        return table


def _mean(stats: Mapping[str, Any], name: str) -> float | None:
    return stats[name]["mean"] if name in stats else None


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _duration(seconds: float) -> str:
    return time.strftime("%H:%M:%S" if seconds >= 3600 else "%M:%S", time.gmtime(seconds))
