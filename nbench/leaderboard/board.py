"""A definition and its sources -> the board: every figure that its renderings show, and nothing about how."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbench.errors import UsageError
from nbench.leaderboard.checks import check_entry
from nbench.leaderboard.definition import About, Definition
from nbench.leaderboard.figures import Figures, View, figures
from nbench.leaderboard.gallery import shown_prompts
from nbench.leaderboard.sources import Source, Sources, entry_origins, make_demand
from nbench.leaderboard.views import make_views
from nbench.runs.card import card_hash

if TYPE_CHECKING:
    from nbench.runs.store import Store


@dataclass(frozen=True)
class Standing:
    """One checkpoint of a board.

    Attributes:
        name: on the board.
        about: what its author says.
        checkpoint, run: where it comes from.
        card: of that run (cut to this checkpoint for a submission).
        card_hash: of the run's whole card.
        tables: sha256 of the run's tables, by file.
        submitted: whether it came as a submission.
        trained_on: measures of this board that it was trained on.
        allowed: differences from the base's card that the board allows.
        norms: mean velocity norm over the base's at each step count; NaN where it is not known.
        is_base: whether it is what all are paired with.
    """

    name: str
    about: About
    checkpoint: str
    run: str
    card: Mapping[str, Any]
    card_hash: str
    tables: Mapping[str, str]
    submitted: bool
    trained_on: tuple[str, ...]
    allowed: tuple[str, ...]
    norms: tuple[float, ...]
    is_base: bool


@dataclass(frozen=True)
class GalleryPrompt:
    """A prompt with its pictures of seed 0.

    Attributes:
        id, text: of the prompt.
        pictures: [checkpoints][steps], WebP; None where there is none.
    """

    id: str
    text: str
    pictures: tuple[tuple[bytes | None, ...], ...]


@dataclass(frozen=True)
class Board:
    """Everything that a board shows.

    Attributes:
        definition: of it.
        standings: the base first, then the entries in the definition's order.
        views: overall, kinds, measures.
        figures: by view, in the order of `standings`.
        sigmas: standard deviation of the base's values at full steps, by measure.
        protocol: what all entries share: the base's card, cut to the board.
        prompts, seeds: how many pairs there are per step count.
        prompt_set: name of the prompts.
        gallery: prompts with pictures.
    """

    definition: Definition
    standings: tuple[Standing, ...]
    views: tuple[View, ...]
    figures: Mapping[str, tuple[Figures, ...]]
    sigmas: Mapping[str, float]
    protocol: Mapping[str, Any]
    prompts: int
    seeds: int
    prompt_set: str
    gallery: tuple[GalleryPrompt, ...]

    def ranked(self, view: str) -> list[int]:
        """Indices of `standings` from the best down."""
        own = self.figures[view]
        return sorted(range(len(own)), key=lambda i: (own[i].rank.rank, self.standings[i].name))


def build_board(definition: Definition, folder: Path, store: Store) -> Board:
    """Read every run and submission that a definition names, check them, and work out the figures.

    Args:
        definition: of the board.
        folder: that submissions are relative to.
        store: of the runs.

    Raises:
        UsageError: something is missing, or an entry has not all that the board needs.
        CardMismatchError: an entry's card differs where the board does not allow it.
        StoreError: something cannot be read.
    """
    read = Sources(folder, store)
    base = read.get(definition.base)
    demand = make_demand(definition, base.side, base.cube)
    check_entry(base.name, base.side, demand)
    sources = [read.get(origin) for origin in entry_origins(definition, folder)]
    names = [base.name, *(source.name for source in sources)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"board {definition.name!r} has two checkpoints called {twice[0]!r}: give one another name.")
    if not sources:
        raise UsageError(f"board {definition.name!r} has no entry: name runs or submissions under `entries`.")
    allowed = [check_entry(source.name, source.side, demand) for source in sources]
    everyone = [base, *sources]
    views, sigmas = make_views(definition, demand.measures, everyone)
    names_of = tuple(measure.name for measure in demand.measures)
    standings = tuple(
        _standing(source, base, definition, names_of, [] if i == 0 else [str(one) for one in allowed[i - 1]], i == 0)
        for i, source in enumerate(everyone)
    )
    few, full = definition.few_steps, definition.full_steps
    return Board(
        definition=definition,
        standings=standings,
        views=views,
        figures={view.name: tuple(figures(view, definition.steps, names, few=few, full=full)) for view in views},
        sigmas=sigmas,
        protocol=demand.contract,
        prompts=len(base.cube.prompts),
        seeds=len(base.cube.seeds),
        prompt_set=str(base.side.run.card["prompts"]["name"]),
        gallery=_gallery(definition, everyone),
    )


def _standing(
    source: Source, base: Source, definition: Definition, measures: Sequence[str], allowed: Sequence[str], is_base: bool
) -> Standing:
    run, info = source.side.run, source.info
    named = set(source.about.trained_on)
    own, reference = _mean_norms(source, definition), _mean_norms(base, definition)
    return Standing(
        name=source.name,
        about=source.about,
        checkpoint=source.side.checkpoint,
        run=info.run if info else run.folder.name,
        card=run.card,
        card_hash=info.card if info else card_hash(run.card),
        tables=info.tables if info else dict(run.done.get("tables", {})),
        submitted=info is not None,
        trained_on=tuple(name for name in measures if name in named or name.partition(".")[0] in named),
        allowed=tuple(allowed),
        norms=tuple(mine / theirs if theirs else math.nan for mine, theirs in zip(own, reference, strict=True)),
        is_base=is_base,
    )


def _mean_norms(source: Source, definition: Definition) -> list[float]:
    norms = source.cube.norms[source.cube.checkpoints.index(source.side.checkpoint)]
    found = []
    for count in definition.steps:
        values = norms[source.cube.steps.index(count)]
        values = values[np.isfinite(values)]
        found.append(float(values.mean()) if len(values) else math.nan)
    return found


def _gallery(definition: Definition, everyone: Sequence[Source]) -> tuple[GalleryPrompt, ...]:
    base = everyone[0].cube
    found = []
    for prompt in shown_prompts(base.texts, base.tags, definition.gallery):
        pictures = []
        for source in everyone:
            cube = source.cube
            row = cube.keys[cube.checkpoints.index(source.side.checkpoint), :, cube.prompts.index(prompt), 0]
            keys = [row[cube.steps.index(count)] for count in definition.steps]
            pictures.append(tuple(None if key is None else source.thumbnails(str(key)) for key in keys))
        found.append(GalleryPrompt(prompt, base.texts[prompt], tuple(pictures)))
    return tuple(found)
