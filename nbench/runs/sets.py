"""Sets of pictures, those of one checkpoint, step count and prompt over all seeds: what set-level scorers see."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbench.prompts import Prompt
from nbench.runs.canonical import digest
from nbench.runs.images import ImageStore
from nbench.runs.journal import Journal, Ledger
from nbench.runs.observer import Observer
from nbench.runs.plan import Cell
from nbench.runs.score import record_scores, score_sets_safely
from nbench.scoring.sets import SetScorer

if TYPE_CHECKING:
    from PIL import Image

#: sets per call of a scorer that takes several
_SETS = 8


@dataclass(frozen=True)
class PictureSet:
    """The cells of one checkpoint, step count and prompt.

    Attributes:
        cells: in the order of seeds, at least one.
        key: hash of the pictures' keys; scores of the set are kept under it.
    """

    cells: tuple[Cell, ...]
    key: str

    @property
    def checkpoint(self) -> str:
        """Its checkpoint's name."""
        return self.cells[0].checkpoint

    @property
    def steps(self) -> int:
        """Its step count."""
        return self.cells[0].steps

    @property
    def prompt(self) -> Prompt:
        """Its prompt."""
        return self.cells[0].row.prompt

    def missing(self, stored: Container[str]) -> int:
        """How many of its pictures there are not."""
        return sum(cell.key not in stored for cell in self.cells)


def make_sets(cells: Sequence[Cell]) -> tuple[PictureSet, ...]:
    """Every set, in the order of the cells."""
    groups: dict[tuple[str, int, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.checkpoint, cell.steps, cell.row.prompt.id), []).append(cell)
    return tuple(PictureSet(tuple(group), digest([cell.key for cell in group])) for group in groups.values())


def missing_sets(
    sets: Sequence[PictureSet],
    ledgers: Mapping[str, Ledger],
    stored: Container[str],
    failed: Mapping[str, Container[str]],
) -> dict[str, list[PictureSet]]:
    """Scorer name -> sets with all their pictures that lack its score; each set once, scorers with none left out.

    Args:
        sets: of `make_sets`.
        ledgers: values by name, of the set-level scorers.
        stored: keys of pictures that the store holds.
        failed: scorer name -> keys of sets that failed and are not to be tried again.
    """
    found = {}
    for name, ledger in ledgers.items():
        todo = {one.key: one for one in sets if one.key not in ledger and one.key not in failed[name]}
        whole = [one for one in todo.values() if not one.missing(stored)]
        if whole:
            found[name] = whole
    return found


@dataclass(frozen=True)
class SetScoringStage:
    """Scores the sets of a run.

    Attributes:
        scorers: by name.
        ledgers: values by scorer name.
        images: the pictures.
        journal: of this worker, for failures.
        observer: hears of each finished set.
    """

    scorers: Mapping[str, SetScorer]
    ledgers: Mapping[str, Ledger]
    images: ImageStore
    journal: Journal
    observer: Observer

    def run(self, todo: Mapping[str, Sequence[PictureSet]]) -> bool:
        """Score, one scorer after the other; returns whether every picture was sound. A set with an unsound one waits.

        Raises:
            NbenchError: a scorer says that it cannot work at all.
            StoreError: the disk refuses.
        """
        whole = True
        for name, sets in todo.items():
            scorer = self.scorers[name]
            for start in range(0, len(sets), _SETS):
                pictures = {one.key: self._read(one) for one in sets[start : start + _SETS]}
                sound = {key: found for key, found in pictures.items() if found is not None}
                whole &= len(sound) == len(pictures)
                scores = score_sets_safely(scorer, list(sound.values()))
                found = dict(zip(sound, scores, strict=True))
                record_scores(scorer.card, self.ledgers[name], self.journal, found)
                self.observer.advance(len(found))
        return whole

    def _read(self, one: PictureSet) -> list[Image.Image] | None:
        """The pictures of a set; None when one of them is not sound."""
        pictures = [picture for cell in one.cells if (picture := self.images.read(cell.key)) is not None]
        return pictures if len(pictures) == len(one.cells) else None
