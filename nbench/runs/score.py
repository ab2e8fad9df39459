"""The scoring stage: pictures of the store -> values in the ledgers, failures in the journal.

Scorers see the stored 8-bit pictures, so a score is a function of a file that anybody can open. Ledgers hold values
only: a failure belongs to the run that saw it, and does not keep another run from trying.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbench.errors import NbenchError
from nbench.runs.images import ImageStore
from nbench.runs.journal import Journal, Ledger
from nbench.runs.observer import Observer
from nbench.runs.plan import Cell, ScoreBatch, plan_scores, scoring_groups
from nbench.scoring.registry import card_identity
from nbench.scoring.scorer import Score, Scorer

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class ScoringStage:
    """Scores the pictures of a run.

    Attributes:
        scorers: by name.
        ledgers: values by scorer name.
        images: the pictures.
        journal: of this worker, for failures.
        observer: hears of each finished batch.
    """

    scorers: Mapping[str, Scorer]
    ledgers: Mapping[str, Ledger]
    images: ImageStore
    journal: Journal
    observer: Observer

    def run(self, batches: Sequence[ScoreBatch]) -> bool:
        """Score every batch; returns whether every picture was sound. A batch with one that is not is left out.

        Raises:
            NbenchError: a scorer says that it cannot work at all (no weights, no server).
            StoreError: the disk refuses.
        """
        whole = True
        for batch in batches:
            pictures = [self.images.read(cell.key) for cell in batch.cells]
            sound = [picture for picture in pictures if picture is not None]
            if len(sound) < len(pictures):
                whole = False
                continue
            prompts = [cell.row.prompt.text for cell in batch.cells]
            for name, keys in batch.write.items():
                scores = score_safely(self.scorers[name], sound, prompts)
                self._record(name, batch.cells, scores, keys)
                self.observer.advance(len(keys))
        return whole

    def _record(self, name: str, cells: Sequence[Cell], scores: Sequence[Score], keys: Collection[str]) -> None:
        found = {cell.key: score for cell, score in zip(cells, scores, strict=True) if cell.key in keys}
        identity = card_identity(self.scorers[name].card)
        self.ledgers[name].add(
            [
                (key, {metric: float(value) for metric, value in score.values.items()})  # a plug-in may give numpy's
                for key, score in found.items()
                if score.values is not None
            ]
        )
        self.journal.append(
            {"kind": "failure", "stage": "score", "scorer": identity, "key": key, "reason": score.reason}
            for key, score in found.items()
            if score.values is None
        )


def missing_scores(
    scorers: Mapping[str, Scorer],
    ledgers: Mapping[str, Ledger],
    cells: Sequence[Cell],
    stored: Container[str],
    failed: Mapping[str, Container[str]],
) -> list[ScoreBatch]:
    """Every batch still to be scored, one group of scorers after the other.

    Args:
        scorers: by name.
        ledgers: values by scorer name.
        cells: of the run.
        stored: keys of pictures that the store holds.
        failed: scorer name -> keys that failed and are not to be tried again.
    """
    cards = {name: scorer.card for name, scorer in scorers.items()}
    return [
        batch
        for group in scoring_groups(cards)
        for batch in plan_scores(cells, stored, {name: _Known(ledgers[name], failed[name]) for name in group})
    ]


@dataclass(frozen=True)
class _Known:
    """Keys that need no work: those with a value and those that failed, without copying either."""

    values: Ledger
    failed: Container[str]

    def __contains__(self, key: object) -> bool:
        return key in self.values or key in self.failed


def score_safely(scorer: Scorer, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
    """One Score per picture, whatever the scorer does: where it raises on a batch, each picture is tried alone.

    Raises:
        NbenchError: the scorer raised one: it cannot work at all, and says what to do.
    """
    try:
        return _called(scorer, images, prompts)
    except NbenchError:
        raise
    except Exception as error:
        if len(images) == 1:
            return [Score.failed(f"{scorer.card.name} raised {type(error).__name__}: {error}")]
    return [score_safely(scorer, [image], [prompt])[0] for image, prompt in zip(images, prompts, strict=True)]


def _called(scorer: Scorer, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
    scores = list(scorer.score(list(images), list(prompts)))
    if len(scores) != len(images):
        raise ValueError(f"{len(scores)} scores for {len(images)} pictures")
    wanted = {metric.name for metric in scorer.card.metrics}
    for score in scores:
        if score.values is not None and set(score.values) != wanted:
            raise ValueError(f"metrics {sorted(score.values)} instead of {sorted(wanted)}, as its card says")
    return scores
