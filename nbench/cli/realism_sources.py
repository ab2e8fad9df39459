"""What `nbench realism check` looks at: a detector by name or folder, and the pictures of a run's checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nbench.errors import ScorerError, UsageError, did_you_mean
from nbench.runs.store import Store
from nbench.scoring.realism.detector import CONFIG, PREFIX, detector_by_path, load_detector
from nbench.scoring.realism.pictures import Picture, describe
from nbench.scoring.scorer import Scorer

if TYPE_CHECKING:
    from nbench.stats.bootstrap import Interval

Pair = tuple[Picture, Picture]


@dataclass(frozen=True)
class RunPictures:
    """Pictures of a run.

    Attributes:
        base: of the base checkpoint at one step count; a picture's group is its prompt.
        pairs: (base's, other checkpoint's) picture of the same prompt, seed and steps.
        words: which they are.
    """

    base: list[Picture]
    pairs: list[Pair]
    words: str


def find_detector(text: str, device: str) -> Scorer:
    """The detector of a folder that `nbench realism train` wrote, or the scorer of this name.

    Raises:
        ScorerError: there is neither.
    """
    from nbench.scoring.registry import get_scorer

    if text.startswith(PREFIX):
        return detector_by_path(text, device)
    path = Path(text).expanduser()
    if (path / CONFIG).is_file():
        return load_detector(path, device)
    if path.is_dir():
        raise ScorerError(
            f"{path} holds no detector ({CONFIG} is missing): give one that `nbench realism train` wrote."
        )
    return get_scorer(text, device)


def read_run(
    store: Store, name: str, *, checkpoint: str | None, steps: int | None, limit: int | None, other: str | None
) -> RunPictures:
    """Pictures of a run's base, and their pairs with another checkpoint's.

    Args:
        store: where the run is.
        name: of the run.
        checkpoint: the base; the run's reference by default, else its first checkpoint.
        steps: step count; the run's largest by default.
        limit: at most so many pictures.
        other: checkpoint whose effect is wanted; None for no pairs.

    Raises:
        UsageError: the run has no such checkpoint or step count, or no pictures there.
        StoreError: the run has no tables yet.
    """
    from nbench.runs.tables import load_run

    table = load_run(store.find_run(name)).samples.to_pydict()
    checkpoints = list(dict.fromkeys(table["checkpoint"]))
    base = checkpoint or checkpoints[0]
    for wanted in (base, other):
        if wanted is not None and wanted not in checkpoints:
            raise UsageError(f"run {name!r} has no checkpoint {wanted!r}.{did_you_mean(wanted, checkpoints)}")
    counts = sorted(set(table["steps"]))
    at = steps if steps is not None else counts[-1]
    if at not in counts:
        raise UsageError(f"run {name!r} has no pictures at {at} steps: it has {', '.join(map(str, counts))}.")
    places: dict[str, dict[tuple[str, int], str]] = {base: {}, other or base: {}}
    for i, path in enumerate(table["path"]):
        if path is not None and table["steps"][i] == at and table["checkpoint"][i] in places:
            places[table["checkpoint"][i]][table["prompt_id"][i], table["seed"][i]] = path
    rows = list(places[base].items())[:limit]
    if not rows:
        raise UsageError(f"run {name!r} has no pictures of {base!r} at {at} steps: finish it with `nbench run`.")
    found = {cell: describe(store.root / path, cell[0]) for cell, path in rows}
    pairs = []
    if other is not None:
        theirs = places[other]
        pairs = [(mine, describe(store.root / theirs[cell], cell[0])) for cell, mine in found.items() if cell in theirs]
        if not pairs:
            raise UsageError(f"run {name!r} has no pictures of {other!r} at {at} steps to compare with {base!r}.")
    return RunPictures(list(found.values()), pairs, f"{base} of run {name} at {at} steps")


def paired_effect(scorer: Scorer, pairs: list[Pair]) -> Interval:
    """Mean rise of the log-odds from the first to the second picture of each pair that both have a score.

    Its interval resamples whole prompts.

    Raises:
        ScorerError: no pair has two scores.
    """
    import numpy as np

    from nbench.scoring.realism.check import log_odds
    from nbench.stats.bootstrap import cluster_mean

    failures: dict[str, int] = {}
    before = log_odds(scorer, [one.open() for one, _ in pairs], failures)
    after = log_odds(scorer, [two.open() for _, two in pairs], failures)
    seen = np.isfinite(after - before)
    if not seen.any():
        raise ScorerError(f"{scorer.card.name} gave no pair two scores: {next(iter(failures))}.")
    return cluster_mean((after - before)[seen], np.array([one.group for one, _ in pairs])[seen])
