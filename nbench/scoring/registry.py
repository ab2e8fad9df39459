"""The registry: every scorer by name, built in or from a plug-in package.

There is one hook. A scorer is an entry point of the group `nbench.scorers` whose name is the scorer's name and whose
value is a factory `(device: str) -> Scorer`; nbench's own scorers stand in `BUILT_IN` as the very same entry points.
Nothing is imported before it is asked for.

A plug-in package declares:

    [project.entry-points."nbench.scorers"]
    my-scorer = "my_package.my_module:create"
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint, entry_points

from nbench.errors import NbenchError, ScorerError, did_you_mean
from nbench.scoring.scorer import Scorer, ScorerCard

GROUP = "nbench.scorers"

ScorerFactory = Callable[[str], Scorer]

#: scorer name -> "module:factory"
_BUILT_IN: dict[str, str] = {
    "image-stats": "nbench.scoring.rewards.image_stats:create",
    "pocket-aesthetic": "nbench.scoring.rewards.pocket_aesthetic:create",
    "pocket-clip": "nbench.scoring.rewards.pocket_clip:create",
}
BUILT_IN: tuple[EntryPoint, ...] = tuple(EntryPoint(name, value, GROUP) for name, value in _BUILT_IN.items())


@dataclass(frozen=True)
class ScorerEntry:
    """Where a scorer comes from.

    Attributes:
        name: what `get_scorer` takes.
        package: the distribution that gives it; "nbench" for a built-in.
        hook: the entry point, not yet imported.
    """

    name: str
    package: str
    hook: EntryPoint


def scorer_entries() -> list[ScorerEntry]:
    """Every registered scorer, sorted by name and then package; imports no scorer."""
    entries = [ScorerEntry(hook.name, "nbench", hook) for hook in BUILT_IN]
    for hook in entry_points(group=GROUP):
        package = hook.dist.name if hook.dist is not None else hook.module
        entries.append(ScorerEntry(hook.name, package, hook))
    return sorted(entries, key=lambda entry: (entry.name, entry.package))


def list_scorers() -> list[str]:
    """The names that `get_scorer` takes, sorted; imports no scorer."""
    return sorted({entry.name for entry in scorer_entries()})


def get_scorer(name: str, device: str = "cpu") -> Scorer:
    """The scorer of this name.

    Args:
        name: as `list_scorers` gives it.
        device: a torch device string; scorers without a network ignore it.

    Returns:
        A Scorer whose card can be read at once; weights are loaded when it first scores.

    Raises:
        ScorerError: the name is unknown (the message names the nearest), two packages claim it, or its factory
            cannot be imported, fails, or makes something else than a scorer of this name.
    """
    entries = scorer_entries()
    found = [entry for entry in entries if entry.name == name]
    if not found:
        names = sorted({entry.name for entry in entries})
        raise ScorerError(f"unknown scorer {name!r}.{did_you_mean(name, names)} `nbench scorers list` shows all.")
    if len(found) > 1:
        packages = " and ".join(entry.package for entry in found)
        raise ScorerError(f"the scorer name {name!r} is claimed by {packages}: uninstall or rename one of them.")
    return _create(found[0], device)


def _create(entry: ScorerEntry, device: str) -> Scorer:
    where = f"scorer {entry.name!r} ({entry.hook.value}, package {entry.package})"
    try:
        factory = entry.hook.load()
    except (ImportError, AttributeError) as error:
        raise ScorerError(f"{where} cannot be imported: {error}. Repair or uninstall the package.") from error
    try:
        scorer: Scorer = factory(device)
        card = scorer.card
    except NbenchError:
        raise
    except Exception as error:  # a plug-in may raise anything; the user needs to know whose it is
        raise ScorerError(f"{where} could not be made: {type(error).__name__}: {error}") from error
    if not isinstance(card, ScorerCard):
        raise ScorerError(f"{where} has no ScorerCard but a {type(card).__name__}: its factory must return a Scorer.")
    if card.name != entry.name:
        raise ScorerError(f"{where} calls itself {card.name!r} on its card: the two names must be the same.")
    if not card.metrics:
        raise ScorerError(f"{where} names no metric on its card: a scorer gives at least one number.")
    return scorer


def card_identity(card: ScorerCard) -> str:
    """sha256 (hex) over everything on the card that can move a value; scores are stored and reused under it.

    Summary, licence and source are prose and do not count.
    """
    facts = {key: value for key, value in asdict(card).items() if key not in ("summary", "licence", "source")}
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
