"""Where a board's numbers and pictures come from: runs in a store, and submissions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nbench.compare import Side
from nbench.errors import UsageError, did_you_mean
from nbench.leaderboard.checks import Demand, cut
from nbench.leaderboard.definition import About, Definition, Origin
from nbench.leaderboard.submission import SubmissionInfo, load_submission
from nbench.runs.cube import Cube, make_cube
from nbench.runs.tables import RunTables, load_run

if TYPE_CHECKING:
    from nbench.runs.store import Store

#: picture key -> WebP; None where there is none
Thumbnails = Callable[[str], bytes | None]
_ABOUT = set(About.model_fields)


@dataclass(frozen=True)
class Source:
    """One checkpoint, read.

    Attributes:
        name: on the board.
        about: what its author says.
        side: its tables, and its checkpoint in them.
        info: of a submission; None for a run.
        thumbnails: its pictures, small.
    """

    name: str
    about: About
    side: Side
    info: SubmissionInfo | None
    thumbnails: Thumbnails

    @cached_property
    def cube(self) -> Cube:
        """Of the tables; after `check_entry`, which sees that they fit together."""
        return make_cube(self.side.run)


class Sources:
    """Reads what a definition names; a run that several entries share is read once."""

    def __init__(self, folder: Path, store: Store) -> None:
        self._folder = folder
        self._store = store
        self._loaded: dict[str, RunTables] = {}

    def get(self, origin: Origin) -> Source:
        """One entry, or the base.

        Raises:
            UsageError: it is missing, or a submission is not sound.
            StoreError: it cannot be read.
        """
        return self._submission(origin) if origin.submission else self._run(origin)

    def _submission(self, origin: Origin) -> Source:
        info, run = load_submission(self._folder / origin.submission)
        told = {**info.model_dump(include=_ABOUT), **origin.model_dump(include=_ABOUT, exclude_unset=True)}
        thumbnails = _submitted_thumbnails(run.folder.path)
        side = Side(run, info.checkpoint)
        return Source(origin.name or info.name, About(**told), side, info, thumbnails)

    def _run(self, origin: Origin) -> Source:
        if origin.run not in self._loaded:
            self._loaded[origin.run] = load_run(self._store.find_run(origin.run))
        run = self._loaded[origin.run]
        known = run.card["checkpoints"]
        if origin.checkpoint not in known:
            raise UsageError(
                f"run {run.folder.name!r} has no checkpoint {origin.checkpoint!r}."
                f"{did_you_mean(origin.checkpoint, known)}"
            )
        about = About(**origin.model_dump(include=_ABOUT))
        side = Side(run, origin.checkpoint)
        return Source(origin.name or origin.checkpoint, about, side, None, _own_thumbnails(run))


def entry_origins(definition: Definition, folder: Path) -> list[Origin]:
    """The definition's entries, then every folder of its submissions that is not named already, by name."""
    found = list(definition.entries)
    if definition.submissions:
        named = {(folder / one.submission).resolve() for one in (definition.base, *found) if one.submission}
        for path in sorted((folder / definition.submissions).glob("*/manifest.json")):
            if path.parent.resolve() not in named:
                found.append(Origin(submission=f"{definition.submissions}/{path.parent.name}"))
    return found


def make_demand(definition: Definition, base: Side, cube: Cube) -> Demand:
    """What every entry of a board needs.

    Raises:
        UsageError: the base has not what the definition names.
    """
    what = f"board {definition.name!r}"
    missing = [count for count in definition.steps if count not in cube.steps]
    if missing:
        raise UsageError(f"{what} needs {missing[0]} steps, which the base's run has not: run it with --steps.")
    found = base.run.card["prompts"]["hash"]
    if definition.prompts and definition.prompts != found:
        raise UsageError(
            f"{what} is about the prompts {definition.prompts[:12]}..., but the base's run has {found[:12]}...: "
            "run the base on the board's prompts."
        )
    oriented = [measure for measure in cube.values if measure.sign]
    known = {measure.name for measure in oriented} | {measure.scorer for measure in oriented}
    for name in (*definition.scorers, *definition.true_zero):
        if name not in known:
            raise UsageError(f"{what} names {name}, which the base's run has not scored.{did_you_mean(name, known)}")
    measures = tuple(
        measure
        for measure in oriented
        if measure.kind in definition.kinds or {measure.name, measure.scorer} & set(definition.scorers)
    )
    if not measures:
        raise UsageError(f"{what}: the base's run has no score of kind {', '.join(definition.kinds)}.")
    contract = cut(base.run.card, base.checkpoint, definition.steps, {measure.scorer for measure in measures})
    return Demand(
        base=cube,
        contract=contract,
        steps=definition.steps,
        measures=measures,
        coverage=definition.coverage,
        allow=definition.allow,
        checkpoint=base.checkpoint,
    )


def _own_thumbnails(run: RunTables) -> Thumbnails:
    from nbench.report.page_thumbnails import thumbnail

    def made(key: str) -> bytes | None:
        picture = run.folder.images.read(key)
        return None if picture is None else thumbnail(picture)

    return made


def _submitted_thumbnails(folder: Path) -> Thumbnails:
    from nbench.report.page_thumbnails import redrawn

    def made(key: str) -> bytes | None:
        path = folder / "gallery" / f"{key}.webp"
        return redrawn(path.read_bytes()) if key.isalnum() and path.is_file() else None

    return made
