"""What a run would cost, said without loading or writing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nbench.runs.backend import Backend, Models, default_backend
from nbench.runs.card import check_same_run, make_card
from nbench.runs.facts import speed_name
from nbench.runs.images import StoredPicture
from nbench.runs.plan import Cell, make_cells
from nbench.runs.resolve import Resolved, resolve
from nbench.runs.store import Store
from nbench.runs.suite import Suite
from nbench.scoring.registry import card_identity

# Bytes per pixel of a PNG where none was made yet: between flat drawings (0.5) and photographs (2).
_PNG_BYTES = 1.7


@dataclass(frozen=True)
class CheckpointEstimate:
    """What one checkpoint of a run would cost.

    Attributes:
        name: of the checkpoint.
        cells: its pictures.
        cached: those that are in the store.
        seconds: for the others; None when it never ran here at this size.
        size: bytes that the others take.
    """

    name: str
    cells: int
    cached: int
    seconds: float | None
    size: float


@dataclass(frozen=True)
class Estimate:
    """What a run would do.

    Attributes:
        run: its name.
        state: "new", or of an existing run.
        checkpoints: per checkpoint: name, pictures, of which cached, seconds (None: never run here), bytes to write.
        scores: scores to give, at most.
    """

    run: str
    state: str
    checkpoints: tuple[CheckpointEstimate, ...]
    scores: int


def estimate(suite: Suite, store: Store, *, backend: Backend | None = None) -> Estimate:
    """Say what `execute` would do. Nothing is loaded and nothing is written.

    Raises:
        UsageError: the suite names something that is missing or wrong.
        CardMismatchError: a run of this name was made with other settings.
    """
    backend = backend or default_backend()
    models = Models(backend)
    resolved = resolve(suite, store, backend, models, may_load=False)
    run = store.run(suite.run_name)
    old = run.read_json(run.card)
    if (
        old is not None
        and run.records()
        and all(set(checkpoint.sigmas) == set(suite.steps) for checkpoint in resolved.checkpoints)
    ):
        check_same_run(run.name, old, make_card(resolved))
    cells = make_cells(resolved)
    stored = store.images.find([cell.key for cell in cells], move=False)
    total = len(resolved.prompts) * suite.seeds * len(suite.steps)
    parts = [_estimate(resolved, name, cells, stored, total) for name in (entry.name for entry in suite.checkpoints)]
    known = (store.scores(card_identity(scorer.card), "dry-run") for scorer in resolved.scorers.values())
    scores = sum(
        total * len(suite.checkpoints) - sum(cell.key in ledger and cell.key in stored for cell in cells)
        for ledger in known
    )
    return Estimate(run.name, run.state() if old is not None else "new", tuple(parts), scores)


def _estimate(
    resolved: Resolved, name: str, cells: Sequence[Cell], stored: Mapping[str, StoredPicture], total: int
) -> CheckpointEstimate:
    checkpoint = resolved.checkpoint(name)
    mine = [cell for cell in cells if cell.checkpoint == name]
    missing = [cell.steps for cell in mine if cell.key not in stored]
    unknown = [steps for steps in resolved.suite.steps if steps not in checkpoint.sigmas]  # so nothing of it is there
    missing += [steps for steps in unknown for _ in range(total // len(resolved.suite.steps))]
    place = speed_name(resolved.device, resolved.dtype, resolved.height, resolved.width)
    speed = checkpoint.facts.speed.get(place) if checkpoint.facts else None
    pixels = (resolved.height or 1024) * (resolved.width or 1024)
    return CheckpointEstimate(
        name=name,
        cells=total,
        cached=total - len(missing),
        seconds=None if speed is None and missing else sum(missing) * (speed.step_seconds if speed else 0.0),
        size=len(missing) * (speed.picture_bytes if speed else pixels * _PNG_BYTES),
    )
