"""The scoring stage: pictures of the store -> values in the ledgers, failures in the journal.

Scorers see the stored 8-bit pictures, so a score is a function of a file that anybody can open. Ledgers hold values
only: a failure belongs to the run that saw it, and does not keep another run from trying.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbench.errors import InfrastructureError, NbenchError
from nbench.runs.images import ImageStore
from nbench.runs.journal import Journal, Ledger
from nbench.runs.observer import Observer
from nbench.runs.plan import Cell, ScoreBatch, plan_scores, scoring_groups
from nbench.scoring.registry import card_identity
from nbench.scoring.scorer import Score, Scorer, ScorerCard
from nbench.scoring.sets import SetScorer

if TYPE_CHECKING:
    from PIL import Image

#: beside the metrics in a ledger's value: 1 where the prompt was longer than the scorer reads, else 0
TRUNCATED = "#truncated"
_READERS = 4  # threads that read and decode pictures ahead of the scorers


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

    def run(self, groups: Sequence[Sequence[ScoreBatch]]) -> bool:
        """Score every batch, one group of scorers in memory at a time; returns whether every picture was sound.

        A batch with one that is not is left out.

        Raises:
            NbenchError: a scorer says that it cannot work at all (no weights, no server).
            StoreError: the disk refuses.
        """
        whole = True
        for number, group in enumerate(groups, start=1):
            for batch, pictures in self._read_ahead(group):
                sound = [picture for picture in pictures if picture is not None]
                if len(sound) < len(pictures):
                    whole = False
                    continue
                prompts = [cell.row.prompt.text for cell in batch.cells]
                for name, keys in batch.write.items():
                    scores = score_safely(self.scorers[name], sound, prompts)
                    found = {cell.key: score for cell, score in zip(batch.cells, scores, strict=True)}
                    record_scores(
                        self.scorers[name].card,
                        self.ledgers[name],
                        self.journal,
                        {key: score for key, score in found.items() if key in keys},
                    )
                    self.observer.advance(len(keys))
            if number < len(groups):
                _close(self.scorers[name] for name in {name for batch in group for name in batch.write})
        return whole

    def _read_ahead(self, batches: Sequence[ScoreBatch]) -> Iterator[tuple[ScoreBatch, list[Image.Image | None]]]:
        """Each batch with its pictures, while those of the next are being decoded."""
        with ThreadPoolExecutor(_READERS) as pool:

            def start(batch: ScoreBatch) -> list[Future[Image.Image | None]]:
                return [pool.submit(self.images.read, cell.key) for cell in batch.cells]

            coming = start(batches[0])
            for number, batch in enumerate(batches, start=1):
                pictures = [future.result() for future in coming]
                if number < len(batches):
                    coming = start(batches[number])
                yield batch, pictures


def _close(scorers: Iterable[object]) -> None:
    """Let go of networks, so that others may have the device's memory."""
    for scorer in scorers:
        close = getattr(scorer, "close", None)
        if close is not None:
            close()


def record_scores(card: ScorerCard, ledger: Ledger, journal: Journal, scores: Mapping[str, Score]) -> None:
    """Values into a scorer's ledger, failures into the journal, by key of picture or set.

    Raises:
        StoreError: the disk refuses.
    """
    ledger.add([(key, _ledger_value(score)) for key, score in scores.items() if score.ok])
    identity = card_identity(card)
    journal.append(
        {"kind": "failure", "stage": "score", "scorer": identity, "key": key, "reason": score.reason}
        for key, score in scores.items()
        if not score.ok
    )


def _ledger_value(score: Score) -> dict[str, float]:
    value = {metric: float(number) for metric, number in (score.values or {}).items()}  # a plug-in may give numpy's
    return value if score.truncated is None else {**value, TRUNCATED: float(score.truncated)}


def missing_scores(
    scorers: Mapping[str, Scorer],
    ledgers: Mapping[str, Ledger],
    cells: Sequence[Cell],
    stored: Container[str],
    failed: Mapping[str, Container[str]],
) -> list[list[ScoreBatch]]:
    """Every batch still to be scored, by group of scorers that share a pass; groups with nothing to do are left out.

    Args:
        scorers: by name.
        ledgers: values by scorer name.
        cells: of the run.
        stored: keys of pictures that the store holds.
        failed: scorer name -> keys that failed and are not to be tried again.
    """
    cards = {name: scorer.card for name, scorer in scorers.items()}
    found = [
        list(plan_scores(cells, stored, {name: _Known(ledgers[name], failed[name]) for name in group}))
        for group in scoring_groups(cards)
    ]
    return [batches for batches in found if batches]


@dataclass(frozen=True)
class _Known:
    """Keys that need no work: those with a value and those that failed, without copying either."""

    values: Ledger
    failed: Container[str]

    def __contains__(self, key: object) -> bool:
        return key in self.values or key in self.failed


def score_safely(scorer: Scorer, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
    """One Score per picture, whatever the scorer does.

    Where it raises on a batch, each picture is tried alone; where memory runs out, each half of the batch.

    Raises:
        NbenchError: the scorer raised one: it cannot work at all, and says what to do.
        InfrastructureError: there is not enough memory for one picture.
    """
    try:
        return _called(scorer, images, prompts)
    except NbenchError:
        raise
    except Exception as error:
        if not _is_memory(error):
            if len(images) == 1:
                return [Score.failed(f"{scorer.card.name} raised {type(error).__name__}: {error}")]
            parts = [slice(i, i + 1) for i in range(len(images))]
        elif len(images) > 1:
            parts = [slice(0, len(images) // 2), slice(len(images) // 2, len(images))]
        else:
            raise _too_little_memory(scorer.card) from error
    return [score for part in parts for score in score_safely(scorer, images[part], prompts[part])]


def score_sets_safely(scorer: SetScorer, sets: Sequence[Sequence[Image.Image]]) -> list[Score]:
    """One Score per set, whatever the scorer does; where it raises on several, each is tried alone.

    Raises:
        NbenchError: the scorer raised one: it cannot work at all, and says what to do.
        InfrastructureError: there is not enough memory for one set.
    """
    if not sets:
        return []
    together = getattr(scorer, "score_sets", None)
    try:
        if together is None or len(sets) == 1:
            scores = [scorer.score_set(list(images)) for images in sets]
        else:
            scores = list(together([list(images) for images in sets]))
        if len(scores) != len(sets):
            raise ValueError(f"{len(scores)} scores for {len(sets)} sets")
        for score in scores:
            _check_metrics(scorer.card, score)
    except NbenchError:
        raise
    except Exception as error:
        if len(sets) > 1:
            return [score for one in sets for score in score_sets_safely(scorer, [one])]
        if _is_memory(error):
            raise _too_little_memory(scorer.card) from error
        return [Score.failed(f"{scorer.card.name} raised {type(error).__name__}: {error}")]
    return scores


def _is_memory(error: Exception) -> bool:
    """Whether memory ran out; torch's own error is known by name, since torch may not be imported."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _too_little_memory(card: ScorerCard) -> InfrastructureError:
    return InfrastructureError(
        f"scorer {card.name!r} has not enough memory for one picture: free the device, use another with --device, or "
        "leave this scorer out; what is scored is kept."
    )


def _called(scorer: Scorer, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
    scores = list(scorer.score(list(images), list(prompts)))
    if len(scores) != len(images):
        raise ValueError(f"{len(scores)} scores for {len(images)} pictures")
    for score in scores:
        _check_metrics(scorer.card, score)
    return scores


def _check_metrics(card: ScorerCard, score: Score) -> None:
    wanted = {metric.name for metric in card.metrics}
    if score.values is not None and set(score.values) != wanted:
        raise ValueError(f"metrics {sorted(score.values)} instead of {sorted(wanted)}, as its card says")
