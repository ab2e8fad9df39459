"""How a study was run: what its pages say beside their figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Done:
    """A command that was run.

    Attributes:
        stage: of the study, such as "train" or "run".
        name: what it made.
        command: as it was given to a shell.
        seconds: it took; None where nobody measured.
    """

    stage: str
    name: str
    command: str
    seconds: float | None = None


@dataclass(frozen=True)
class StudyFacts:
    """Everything about a study that is no measurement.

    Attributes:
        command: that makes the whole study again.
        done: its single commands, in the order they were run.
        hashes: what was made -> its sha256, such as the finished LoRA of a training.
        versions: library -> version.
        machine: in words: cores, memory, accelerator.
        nbench: version.
        notes: how its setting differs from the papers', a paragraph each.
        limits: what its figures do not say, a sentence each.
    """

    command: str = ""
    done: tuple[Done, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    nbench: str = ""
    notes: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, as far as they were measured."""
        found: dict[str, float] = {}
        for one in self.done:
            if one.seconds is not None:
                found[one.stage] = found.get(one.stage, 0.0) + one.seconds
        return found


def duration(seconds: float) -> str:
    """Seconds in words, in the unit that fits."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"
