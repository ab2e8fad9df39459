"""The plan: which cells are still to be made and scored. Pure functions of a resolved run and of what the store holds.

A batch has a fixed composition that follows from the suite alone: the rows (prompt x seed) of a run in order, cut into
chunks of the batch size. A batch of which anything is missing is computed whole, and only what is missing is written;
so a resumed run goes through the same batches, and its bits equal an uninterrupted run's.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbench.flow.seeds import noise_seed
from nbench.prompts import Prompt
from nbench.runs.backend import library_versions
from nbench.runs.canonical import digest
from nbench.runs.card import SAMPLER_VERSION
from nbench.runs.resolve import Resolved, ResolvedCheckpoint
from nbench.scoring.scorer import ScorerCard

_KEY_FORMAT = 1
#: pictures per call of a scorer; fixed, because a float may depend on what else is in the batch
SCORE_BATCH = 32


@dataclass(frozen=True)
class Row:
    """One picture of a prompt, whatever checkpoint and step count.

    Attributes:
        prompt: of the picture.
        seed: seed index, from 0.
        noise_seed: seed of its noise.
    """

    prompt: Prompt
    seed: int
    noise_seed: int


@dataclass(frozen=True)
class Cell:
    """One checkpoint x steps x prompt x seed.

    Attributes:
        checkpoint: its name.
        steps: step count.
        row: prompt and seed.
        key: of its picture.
    """

    checkpoint: str
    steps: int
    row: Row
    key: str


@dataclass(frozen=True)
class Batch:
    """The pictures of one chunk of rows from one checkpoint, its whole step sweep at once.

    Attributes:
        checkpoint: its name.
        index: which chunk of rows.
        cells: steps still to be made -> the cells of all rows, in order.
        write: keys of pictures that are missing.
        ratios: keys of pictures whose norm ratios are missing.
    """

    checkpoint: str
    index: int
    cells: Mapping[int, tuple[Cell, ...]]
    write: frozenset[str]
    ratios: frozenset[str]

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows, in order."""
        return tuple(cell.row for cell in next(iter(self.cells.values())))


@dataclass(frozen=True)
class ScoreBatch:
    """Pictures of one checkpoint and step count that are scored together.

    Attributes:
        cells: in order; every one has a picture.
        write: scorer name -> keys that lack its score.
    """

    cells: tuple[Cell, ...]
    write: Mapping[str, frozenset[str]]


def make_rows(resolved: Resolved) -> tuple[Row, ...]:
    """Every row of the run: prompts in order, seeds within."""
    suite = resolved.suite
    return tuple(
        Row(prompt, seed, noise_seed(suite.seed, prompt.id, seed))
        for prompt in resolved.prompts
        for seed in range(suite.seeds)
    )


def picture_settings(resolved: Resolved, checkpoint: ResolvedCheckpoint, steps: int, row: Row) -> dict[str, Any]:
    """Everything that makes a picture; the sha256 of its canonical JSON is the picture's key.

    The batch is not in it: pictures of different batch sizes agree within float tolerance, and the card says the size.
    """
    suite, spec = resolved.suite, checkpoint.spec
    rescale = None
    if suite.rescale is not None and checkpoint.name != suite.reference_name:
        rescale = {**suite.rescale.model_dump(), "reference": reference_identity(resolved)}
    return {
        "format": _KEY_FORMAT,
        "prompt": row.prompt.text,
        "noise_seed": row.noise_seed,
        "weights": checkpoint.weights,
        "lora_scale": spec.lora_scale if spec.lora else None,
        "max_sequence_length": spec.max_sequence_length,
        "sampler": {"name": "euler", "version": SAMPLER_VERSION, "rescale": rescale},
        "steps": steps,
        "sigmas": digest(list(checkpoint.sigmas[steps])),
        "guidance": checkpoint.guidance,
        "height": resolved.height,
        "width": resolved.width,
        "dtype": resolved.dtype,
        "device": resolved.device.partition(":")[0],
        "attention": resolved.attention,
        "versions": library_versions(lora=spec.lora is not None),
    }


def reference_identity(resolved: Resolved) -> str:
    """What norm ratios and rescale are relative to: the reference's weights."""
    reference = resolved.reference
    return digest([reference.weights, reference.spec.lora_scale if reference.spec.lora else None])


def make_cells(resolved: Resolved) -> tuple[Cell, ...]:
    """Every cell: checkpoints in order, steps ascending, rows in order; none of a checkpoint without facts."""
    rows = make_rows(resolved)
    return tuple(
        Cell(checkpoint.name, steps, row, digest(picture_settings(resolved, checkpoint, steps, row)))
        for checkpoint in resolved.checkpoints
        if checkpoint.facts is not None
        for steps in checkpoint.sigmas
        for row in rows
    )


def ratio_wanted(resolved: Resolved, checkpoint: str) -> bool:
    """Whether this checkpoint's norm ratios are to be measured; the reference's own are 1 by definition."""
    return (
        resolved.suite.norm_ratio
        and checkpoint != resolved.suite.reference_name
        and resolved.checkpoint(checkpoint).reference
    )


def plan_batches(
    resolved: Resolved,
    cells: Sequence[Cell],
    stored: Container[str],
    ratios: Container[str],
    failed: Container[str],
) -> tuple[Batch, ...]:
    """The batches of which something is missing, in the order of work: by checkpoint, then by chunk.

    Args:
        resolved: the run.
        cells: of `make_cells`.
        stored: keys of pictures that the store holds.
        ratios: keys of pictures whose ratios to this run's reference are known.
        failed: keys that failed in this run and are not to be tried again.
    """
    by_checkpoint: dict[str, dict[int, list[Cell]]] = {}
    for cell in cells:
        by_checkpoint.setdefault(cell.checkpoint, {}).setdefault(cell.steps, []).append(cell)
    batches = []
    planned: set[str] = set()  # checkpoints of equal weights share pictures: each is made once
    planned_ratios: set[str] = set()
    for checkpoint, sweep in by_checkpoint.items():
        wants_ratio = ratio_wanted(resolved, checkpoint)
        size = resolved.suite.batch_size
        for index, start in enumerate(range(0, len(next(iter(sweep.values()))), size)):
            chunk = {steps: tuple(column[start : start + size]) for steps, column in sweep.items()}
            write, ratio = set(), set()
            todo: dict[int, tuple[Cell, ...]] = {}
            for steps, column in chunk.items():
                keys = {cell.key for cell in column if cell.key not in failed}
                missing = {key for key in keys - planned if key not in stored}
                lacking = {key for key in keys - planned_ratios if wants_ratio and key not in ratios}
                if missing or lacking:
                    todo[steps] = column
                    write |= missing
                    ratio |= lacking
            planned |= write
            planned_ratios |= ratio
            if todo:
                batches.append(Batch(checkpoint, index, todo, frozenset(write), frozenset(ratio)))
    return tuple(batches)


def plan_scores(
    cells: Sequence[Cell],
    stored: Container[str],
    scored: Mapping[str, Container[str]],
) -> Iterator[ScoreBatch]:
    """The batches of pictures that lack a score, by checkpoint and steps.

    Args:
        cells: of `make_cells`.
        stored: keys of pictures that the store holds; cells without one are left out.
        scored: scorer name -> keys that need no work: a value is known, or it failed in this run.
    """
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        if cell.key in stored:
            groups.setdefault((cell.checkpoint, cell.steps), []).append(cell)
    planned: dict[str, set[str]] = {name: set() for name in scored}
    for group in groups.values():
        for start in range(0, len(group), SCORE_BATCH):
            chunk = tuple(group[start : start + SCORE_BATCH])
            write = {}
            for name, done in scored.items():
                keys = frozenset(cell.key for cell in chunk if cell.key not in done) - planned[name]
                if keys:
                    write[name] = keys
                    planned[name] |= keys
            if write:
                yield ScoreBatch(chunk, write)


def scoring_groups(cards: Mapping[str, ScorerCard]) -> list[list[str]]:
    """Which scorers share a pass over the pictures: all light ones together, then each heavy one alone, judges last.

    A heavy one may need the whole device, so it comes after the others' weights are gone; a server that is started for
    a judge stays for the next.
    """
    alone = [name for name, card in cards.items() if card.heavy and card.kind != "judge"]
    alone += [name for name, card in cards.items() if card.kind == "judge"]
    light = [name for name in cards if name not in alone]
    return [group for group in [light, *([name] for name in alone)] if group]
