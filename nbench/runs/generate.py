"""The generation stage: batches of the plan -> pictures in the store.

Each batch ends in this order: pictures, then ratios, then journal lines. A process that is killed in between leaves
pictures without lines, which the next attempt finds and takes over; never a line without its picture.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

from nbench.errors import CheckpointError, InfrastructureError
from nbench.runs.backend import Models, base_of, offload_text_encoders
from nbench.runs.images import ImageStore, NewPicture
from nbench.runs.journal import Journal, Ledger
from nbench.runs.observer import Observer
from nbench.runs.plan import Batch, Cell, picture_settings, ratio_wanted
from nbench.runs.resolve import Resolved, ResolvedCheckpoint

if TYPE_CHECKING:
    import torch

    from nbench.flow.model import Conditioning, FlowModel
    from nbench.flow.pipeline import PipelineModel
    from nbench.flow.sample import Trajectory

#: rows whose prompt embeddings are held at a time (SD3.5 in float32: 11 MB each with negatives), so that a large prompt
#: set does not fill the memory
_ROWS_HELD = 512


@dataclass(frozen=True)
class _Column:
    """What a batch gave at one step count.

    Attributes:
        steps: step count.
        cells: of all rows.
        pixels: uint8 [B, H, W, 3]; None when no picture was wanted.
        norms: [calls, B].
        ratios: likewise, or None.
        failures: per row, why it has no picture.
        seconds: per picture.
    """

    steps: int
    cells: Sequence[Cell]
    pixels: Any
    norms: torch.Tensor
    ratios: torch.Tensor | None
    failures: Sequence[str | None]
    seconds: float


@dataclass(frozen=True)
class GenerationStage:
    """Makes the pictures of a plan.

    Attributes:
        resolved: the run.
        models: the one loaded model.
        images: where pictures go.
        ratios: where norm ratios go.
        journal: of this worker.
        observer: hears of each finished batch.
    """

    resolved: Resolved
    models: Models
    images: ImageStore
    ratios: Ledger
    journal: Journal
    observer: Observer

    def run(self, batches: Sequence[Batch]) -> None:
        """Make every batch.

        Raises:
            CheckpointError: a checkpoint cannot be loaded.
            StoreError: the disk refuses.
            InfrastructureError: the device is out of memory.
        """
        for section in _sections(self.resolved, batches):
            embeddings: dict[tuple[int, float], Conditioning] = {}
            for name, group in groupby(section, key=lambda batch: batch.checkpoint):
                self._run_checkpoint(self.resolved.checkpoint(name), list(group), section, embeddings)

    def _run_checkpoint(
        self,
        checkpoint: ResolvedCheckpoint,
        mine: Sequence[Batch],
        section: Sequence[Batch],
        embeddings: dict[tuple[int, float], Conditioning],
    ) -> None:
        """Make a checkpoint's batches of a section.

        The model is named in here only, so that nothing holds one base in memory while the next is loaded.
        """
        loaded = self.models.get(checkpoint.spec, checkpoint.weights)
        if checkpoint.facts is not None and checkpoint.facts.generation_only:
            with _memory_advice(self.resolved):
                for batch in mine:
                    self._make_whole(cast("PipelineModel", loaded), checkpoint, batch)
            return
        model = cast("FlowModel", loaded)
        _check_grids(model, checkpoint, self.resolved)
        reference = self._reference(checkpoint)
        with _memory_advice(self.resolved):
            self._encode(model, checkpoint, section, embeddings)
            for batch in mine:
                cond = embeddings[batch.index, _guidance(checkpoint)].to(model.device)
                self._make(model, reference, checkpoint, batch, cond)

    def _reference(self, checkpoint: ResolvedCheckpoint) -> FlowModel | None:
        suite = self.resolved.suite
        rescales = suite.rescale is not None and checkpoint.name != suite.reference_name
        if not rescales and not ratio_wanted(self.resolved, checkpoint.name):
            return None
        reference = self.resolved.reference
        return self.models.reference(reference.spec, reference.weights)

    def _encode(
        self,
        model: FlowModel,
        checkpoint: ResolvedCheckpoint,
        section: Sequence[Batch],
        embeddings: dict[tuple[int, float], Conditioning],
    ) -> None:
        """Embed the prompts of every chunk in the section, once per guidance; then the text encoders leave the device.

        A chunk is encoded by itself, so that its embeddings do not depend on which other chunks are still to be made.
        """
        for batch in section:
            place = (batch.index, _guidance(checkpoint))
            if place not in embeddings:
                texts = list(dict.fromkeys(row.prompt.text for row in batch.rows))
                cond = model.encode(texts, guidance=_guidance(checkpoint))
                embeddings[place] = cond.select([texts.index(row.prompt.text) for row in batch.rows]).to("cpu")
        offload_text_encoders(model)

    def _make(
        self,
        model: FlowModel,
        reference: FlowModel | None,
        checkpoint: ResolvedCheckpoint,
        batch: Batch,
        cond: Conditioning,
    ) -> None:
        from nbench.flow.norms import NormRescale
        from nbench.flow.sample import sweep

        resolved, suite = self.resolved, self.resolved.suite
        size = {"height": resolved.height, "width": resolved.width}
        started = time.perf_counter()
        noise = model.noise([row.noise_seed for row in batch.rows], **size)
        grids = {steps: model.sigmas(steps, grid=suite.grid, **size) for steps in batch.cells}
        rescaled = suite.rescale is not None and checkpoint.name != suite.reference_name
        trajectories = sweep(
            model,
            cond,
            noise,
            grids,
            guidance=_guidance(checkpoint),
            reference=reference,
            rescale=NormRescale(**suite.rescale.model_dump()) if suite.rescale is not None and rescaled else None,
        )
        sampling = (time.perf_counter() - started) / (len(batch.rows) * sum(batch.cells))  # per picture and step
        made = []
        for steps, cells in batch.cells.items():
            trajectory = trajectories[steps]
            failures = _failures(trajectory.norms, trajectory.finite, steps)
            pixels, decoding = self._decode(model, trajectory, cells, batch, failures)
            seconds = sampling * steps + decoding / len(cells)
            made.append(_Column(steps, cells, pixels, trajectory.norms, trajectory.ratios, failures, seconds))
        self._commit(checkpoint, batch, made)

    def _make_whole(self, model: PipelineModel, checkpoint: ResolvedCheckpoint, batch: Batch) -> None:
        """A batch from a pipeline that can only generate: one call per step count."""
        made = []
        for steps, cells in batch.cells.items():
            started = time.perf_counter()
            generation = model.generate(
                [row.prompt.text for row in batch.rows],
                [row.noise_seed for row in batch.rows],
                steps=steps,
                guidance=checkpoint.guidance,
                height=self.resolved.height,
                width=self.resolved.width,
            )
            failures = _failures(generation.norms, generation.finite, steps)
            pixels = to_pixels(generation.images)
            seconds = (time.perf_counter() - started) / len(cells)
            made.append(_Column(steps, cells, pixels, generation.norms, None, failures, seconds))
        self._commit(checkpoint, batch, made)

    def _commit(self, checkpoint: ResolvedCheckpoint, batch: Batch, made: Sequence[_Column]) -> None:
        """Store what is missing of a batch: pictures, then ratios, then journal lines."""
        pictures: list[NewPicture] = []
        ratios: list[tuple[str, Any]] = []
        lines: list[dict[str, Any]] = []
        for column in made:
            norms = column.norms.T.tolist()
            measured = None if column.ratios is None else column.ratios.T.tolist()
            for i, cell in enumerate(column.cells):
                where = {"key": cell.key, "checkpoint": cell.checkpoint, "steps": column.steps}
                if column.failures[i] is not None:
                    if cell.key in batch.write:
                        lines.append({"kind": "failure", "stage": "generate", "reason": column.failures[i], **where})
                    continue
                if cell.key in batch.ratios and measured is not None:
                    ratios.append((cell.key, [ratio if math.isfinite(ratio) else None for ratio in measured[i]]))
                if cell.key in batch.write:
                    settings = picture_settings(self.resolved, checkpoint, column.steps, cell.row)
                    pictures.append(NewPicture(settings, column.pixels[i], norms[i]))
                    lines.append({"kind": "image", "seconds": column.seconds, **where})
        self.images.put(pictures)
        self.ratios.add(ratios)
        self.journal.append(lines)
        self.observer.advance(len(batch.write | batch.ratios))

    def _decode(
        self,
        model: FlowModel,
        trajectory: Trajectory,
        cells: Sequence[Cell],
        batch: Batch,
        failures: list[str | None],
    ) -> tuple[Any, float]:
        """uint8 pixels [B, H, W, 3] and the seconds it took; a picture that is not finite is added to `failures`."""
        import torch

        if not any(cell.key in batch.write for cell in cells):
            return None, 0.0
        started = time.perf_counter()
        bad = torch.tensor([failure is not None for failure in failures])
        latents = trajectory.latents.clone()
        latents[bad.to(latents.device)] = 0  # a row of NaN is not worth decoding, and must not trip a kernel
        decoded = model.decode(latents)
        for i, sound in enumerate(decoded.isfinite().flatten(1).all(1).tolist()):
            if not sound and failures[i] is None:
                failures[i] = "the decoded picture is not finite"
        return to_pixels(decoded), time.perf_counter() - started


def _sections(resolved: Resolved, batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """Batches in the order of work: base by base, some chunks of rows at a time, LoRA by LoRA over these."""

    def base(batch: Batch) -> tuple[object, ...]:
        return base_of(resolved.checkpoint(batch.checkpoint).spec)

    bases = dict.fromkeys(base(batch) for batch in batches)
    for wanted in bases:
        mine = [batch for batch in batches if base(batch) == wanted]
        chunks = sorted({batch.index for batch in mine})
        at_a_time = max(1, _ROWS_HELD // resolved.suite.batch_size)
        for start in range(0, len(chunks), at_a_time):
            held = set(chunks[start : start + at_a_time])
            yield [batch for batch in mine if batch.index in held]


def _guidance(checkpoint: ResolvedCheckpoint) -> float:
    """Of a checkpoint with a family adapter, which always has one."""
    assert checkpoint.guidance is not None
    return checkpoint.guidance


def to_pixels(images: torch.Tensor) -> Any:
    """uint8 [B, H, W, 3] of float images [B, 3, H, W] in [0, 1], rounded as diffusers does."""
    import torch

    return (images.nan_to_num(0.0) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _failures(norms: torch.Tensor, finite: torch.Tensor, steps: int) -> list[str | None]:
    """Per row, why it has no picture: norms [calls, B], finite [B]."""
    reasons: list[str | None] = []
    for i, sound in enumerate(finite.tolist()):
        if sound and bool(norms[:, i].isfinite().all()):
            reasons.append(None)
            continue
        bad = (~norms[:, i].isfinite()).nonzero()
        place = f"at step {int(bad[0]) + 1} of {steps}" if len(bad) else "after the last step"
        reasons.append(f"the velocity is not finite {place}")
    return reasons


def _check_grids(model: FlowModel, checkpoint: ResolvedCheckpoint, resolved: Resolved) -> None:
    """What was planned must be what is sampled."""
    for steps, planned in checkpoint.sigmas.items():
        grid: torch.Tensor = model.sigmas(steps, grid=resolved.suite.grid, height=resolved.height, width=resolved.width)
        if tuple(float(sigma) for sigma in grid) != planned:
            raise CheckpointError(
                f"checkpoint {checkpoint.name!r} gives another sigma grid for {steps} steps than it did before: delete "
                "the `checkpoints` folder of the store, and run again."
            )


@contextmanager
def _memory_advice(resolved: Resolved) -> Iterator[None]:
    """Turn a device's out-of-memory error into one that says what to do."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise InfrastructureError(
            f"{resolved.device} has not enough memory for batches of {resolved.suite.batch_size}: try a smaller "
            "--batch-size (pictures that are finished are kept)."
        ) from error


def speeds(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], float]:
    """(checkpoint, steps) -> pictures per second, from a run's journal; what it did not make itself is absent."""
    counted: dict[tuple[str, int], list[float]] = {}
    for record in records:
        if record.get("kind") == "image":
            counted.setdefault((record["checkpoint"], record["steps"]), []).append(record["seconds"])
    return {place: len(seconds) / sum(seconds) for place, seconds in counted.items() if sum(seconds) > 0}
