"""What a run would cost, said without loading a model or writing to the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nbench.runs.backend import Backend, Models, default_backend
from nbench.runs.card import check_same_run, make_card
from nbench.runs.facts import speed_name
from nbench.runs.images import StoredPicture
from nbench.runs.journal import failures
from nbench.runs.plan import Batch, Cell, make_cells, plan_batches, reference_identity
from nbench.runs.resolve import Resolved, ResolvedCheckpoint, resolve
from nbench.runs.sets import make_sets
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
        missing: those that would be made; what failed in this run before is neither.
        ratios: pictures of the store that would be sampled again, for their norm ratios alone.
        seconds: of sampling, batches being computed whole; None when it never ran here at this size.
        size: bytes that the missing ones take.
    """

    name: str
    cells: int
    cached: int
    missing: int
    ratios: int
    seconds: float | None
    size: float


@dataclass(frozen=True)
class Estimate:
    """What a run would do.

    Attributes:
        run: its name.
        state: "new", or of an existing run.
        checkpoints: in the suite's order.
        scores: scores to give.
    """

    run: str
    state: str
    checkpoints: tuple[CheckpointEstimate, ...]
    scores: int


def estimate(suite: Suite, store: Store, *, backend: Backend | None = None, retry_failed: bool = False) -> Estimate:
    """Say what `execute` would do. No model is loaded and nothing is written to the store.

    A checkpoint given as a hub id is fetched all the same when it is not in the hub's cache: its hash needs its files.

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
        and run.has_results()
        and all(set(checkpoint.sigmas) == set(suite.steps) for checkpoint in resolved.checkpoints)
    ):
        check_same_run(run.name, old, make_card(resolved))
    identities = {name: card_identity(scorer.card) for name, scorer in resolved.scorers.items()}
    lost, unscored = failures([] if retry_failed else run.records(), identities)
    cells = make_cells(resolved)
    stored = store.images.find([cell.key for cell in cells], move=False)
    ratios = store.ratios(reference_identity(resolved), "dry-run")
    batches = plan_batches(resolved, cells, stored, ratios, lost)
    rows = len(resolved.prompts) * suite.seeds
    parts = tuple(_estimate(resolved, entry.name, cells, stored, batches, rows) for entry in suite.checkpoints)
    keys = {*stored, *(key for batch in batches for key in batch.write)}
    unknown = rows * sum(len(_unknown(checkpoint, suite)) for checkpoint in resolved.checkpoints)
    sets = [one for one in make_sets(cells) if not one.missing(keys)]
    scores = 0
    for name, identity in identities.items():
        ledger = store.scores(identity, "dry-run")
        of_sets = name in resolved.set_scorers
        wanted = {one.key for one in sets} if of_sets else keys
        scores += unknown // suite.seeds if of_sets else unknown
        scores += sum(key not in ledger and key not in unscored[name] for key in wanted)
    return Estimate(run.name, run.state() if old is not None else "new", parts, scores)


def _unknown(checkpoint: ResolvedCheckpoint, suite: Suite) -> list[int]:
    """Step counts whose grids are not known, because the checkpoint never ran so here: nothing of them is there."""
    return [steps for steps in suite.steps if steps not in checkpoint.sigmas]


def _estimate(
    resolved: Resolved,
    name: str,
    cells: Sequence[Cell],
    stored: Mapping[str, StoredPicture],
    batches: Sequence[Batch],
    rows: int,
) -> CheckpointEstimate:
    checkpoint = resolved.checkpoint(name)
    mine = [batch for batch in batches if batch.checkpoint == name]
    unknown = _unknown(checkpoint, resolved.suite)
    missing = sum(len(batch.write) for batch in mine) + rows * len(unknown)
    work = sum(len(batch.rows) * sum(batch.cells) for batch in mine) + rows * sum(unknown)
    place = speed_name(resolved.device, resolved.dtype, resolved.height, resolved.width)
    speed = checkpoint.facts.speed.get(place) if checkpoint.facts else None
    pixels = (resolved.height or 1024) * (resolved.width or 1024)
    return CheckpointEstimate(
        name=name,
        cells=rows * len(resolved.suite.steps),
        cached=sum(cell.key in stored for cell in cells if cell.checkpoint == name),
        missing=missing,
        ratios=sum(len(batch.ratios - batch.write) for batch in mine),
        seconds=None if speed is None and work else work * (speed.step_seconds if speed else 0.0),
        size=missing * (speed.picture_bytes if speed else pixels * _PNG_BYTES),
    )
