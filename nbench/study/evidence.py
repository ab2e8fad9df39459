"""What a study has measured so far, as the claims read it: run tables, analyses, training logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbench.study.plan import Group, Plan, RunKind

if TYPE_CHECKING:
    import pyarrow as pa

    from nbench.runs.tables import RunTables


@dataclass(frozen=True)
class Analysis:
    """An analysis as `nbench analyze NAME --out` writes it.

    Attributes:
        settings: what its figures depend on.
        figures: lines of its table.
        samples: its table per sample and step, with a column "checkpoint".
    """

    settings: Mapping[str, Any]
    figures: tuple[Mapping[str, Any], ...]
    samples: pa.Table


@dataclass(frozen=True)
class Evidence:
    """What there is; whatever was not run yet is absent, and claims that need it say so.

    Attributes:
        plan: of the study.
        runs: (group, kind) -> tables of a finished run. Checkpoints are called "base", `Training.checkpoint`
            ("final", "rescale-...") and `Training.at(epoch)` ("trajectory").
        adjoint: group -> adjoint sensitivity of its unguarded checkpoints, and of "base" where it was measured.
        ratios: group -> importance ratios of an unguarded GRPO checkpoint against its base.
        logs: training -> its log, a mapping per epoch.
    """

    plan: Plan
    runs: Mapping[tuple[str, RunKind], RunTables]
    adjoint: Mapping[str, Analysis] = field(default_factory=dict)
    ratios: Mapping[str, Analysis] = field(default_factory=dict)
    logs: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)

    def run(self, group: Group, kind: RunKind) -> RunTables | None:
        """A group's run, or None before it is finished."""
        return self.runs.get((group.name, kind))
