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
from nbench.scoring.sets import SetScorer
from nbench.scoring.variants import in_variant
from nbench.scoring.weights import only_local

GROUP = "nbench.scorers"
#: between a scorer's name and that of a variant
COLON = ":"
#: before the folder of a detector of the user's own
OWN_DETECTOR = "realism@"
#: before a judge's spec, bundled or a YAML file
JUDGE = "judge@"

#: fields of a card that can change without a value changing
NOT_IDENTITY = ("summary", "licence", "source", "heavy", "variants", "fooled_by")

AnyScorer = Scorer | SetScorer
ScorerFactory = Callable[[str], AnyScorer]

#: scorer name -> "module:factory"
_REWARDS = "nbench.scoring.rewards"
_DIVERSITY = "nbench.scoring.diversity"
_REALISM = "nbench.scoring.realism"
_BUILT_IN: dict[str, str] = {
    "aesthetic-laion-v2": f"{_REWARDS}.laion_aesthetic:create",
    "clipscore-l14": f"{_REWARDS}.clipscore:create",
    "commfor-384": f"{_REALISM}.commfor:create",
    "diversity-clip-l14": f"{_DIVERSITY}:clip_l14",
    "diversity-dinov2": f"{_DIVERSITY}:dinov2",
    "diversity-lpips": f"{_DIVERSITY}:lpips",
    "hpsv2.0": f"{_REWARDS}.hps:create_v20",
    "hpsv2.1": f"{_REWARDS}.hps:create_v21",
    "hpsv3": f"{_REWARDS}.hpsv3:create",
    "image-stats": f"{_REWARDS}.image_stats:create",
    "imagereward-v1": f"{_REWARDS}.imagereward:create",
    "ocr-ppocrv5": f"{_REWARDS}.ocr:create_ppocrv5",
    "ocr-rapidocr": f"{_REWARDS}.ocr:create_rapidocr",
    "omniaid-v2-clip": f"{_REALISM}.omniaid:create",
    "pickscore-v1": f"{_REWARDS}.pickscore:create",
    "pocket-aesthetic": f"{_REWARDS}.pocket_aesthetic:create",
    "pocket-clip": f"{_REWARDS}.pocket_clip:create",
    "pocket-diversity": f"{_DIVERSITY}:pocket",
    "pocket-realism": f"{_REALISM}.pocket_realism:create",
    "vqascore-qwen3vl-30b-a3b": f"{_REWARDS}.vqascore:create_qwen3vl_30b_a3b",
    "vqascore-qwen3vl-32b": f"{_REWARDS}.vqascore:create_qwen3vl_32b",
    "vqascore-qwen3vl-8b": f"{_REWARDS}.vqascore:create_qwen3vl_8b",
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


def get_any_scorer(name: str, device: str = "cpu") -> AnyScorer:
    """The scorer of this name, of pictures or of sets.

    Args:
        name: as `list_scorers` gives it; "NAME:VARIANT" for another scale of its number; "realism@FOLDER" for a
            detector that `nbench realism train` wrote.
        device: a torch device string; scorers without a network ignore it.

    Returns:
        A scorer whose card can be read at once; weights are loaded when it first scores.

    Raises:
        ScorerError: the name is unknown (the message names the nearest), two packages claim it, its factory cannot be
            imported, fails, or makes something else than a scorer of this name, or its weights are not here (the
            message says how to get them, and what of its kind can run).
    """
    if name.startswith(OWN_DETECTOR):
        from nbench.scoring.realism.detector import detector_by_path

        return detector_by_path(name, device)
    if name.startswith(JUDGE):
        from nbench.scoring.judge.scorer import judge_by_name

        return judge_by_name(name, device)
    plain, _, variant = name.partition(COLON)
    entry = _entry(plain)
    try:
        scorer = _create(entry, device)
    except ScorerError as error:
        raise ScorerError(f"{error}{_others(entry, device)}") from error
    return in_variant(scorer, variant) if variant else scorer


def get_scorer(name: str, device: str = "cpu") -> Scorer:
    """The scorer of single pictures of this name; see `get_any_scorer`.

    Raises:
        ScorerError: as `get_any_scorer`, or it scores sets of pictures.
    """
    scorer = get_any_scorer(name, device)
    if isinstance(scorer, SetScorer):
        raise ScorerError(f"scorer {name!r} gives one number per set of pictures: here each picture needs one.")
    return scorer


def describe_scorer(name: str) -> tuple[ScorerCard, str | None]:
    """The card of a scorer, without its weights' digests where they are not here, and why it cannot run, if so.

    Nothing is downloaded.

    Raises:
        ScorerError: as `get_any_scorer`, but not for missing weights.
    """
    if name.startswith(OWN_DETECTOR):
        return get_any_scorer(name).card, None
    if name.startswith(JUDGE):
        from nbench.scoring.judge.scorer import create

        judge = create(name.removeprefix(JUDGE))
        try:
            return judge.card, None
        except NbenchError as error:
            return judge.about, str(error)
    entry = _entry(name)
    try:
        with only_local():
            return _create(entry, "cpu").card, None
    except ScorerError as error:
        about = getattr(_made(entry, "cpu"), "about", None)
        if not isinstance(about, ScorerCard):
            raise
        return about, str(error)


def _others(entry: ScorerEntry, device: str) -> str:
    """End of a message about a scorer that cannot run: those of its kind that can, as far as that is known."""
    try:
        about = getattr(_made(entry, device), "about", None)
    except ScorerError:
        return ""
    if not isinstance(about, ScorerCard):
        return ""
    names = []
    for other in scorer_entries():
        try:
            with only_local():
                names += [other.name] if _create(other, device).card.kind == about.kind else []
        except ScorerError:
            continue
    return f" Of the same kind, these can run here: {', '.join(names)}." if names else ""


def _entry(name: str) -> ScorerEntry:
    entries = scorer_entries()
    found = [entry for entry in entries if entry.name == name]
    if not found:
        names = sorted({entry.name for entry in entries})
        raise ScorerError(f"unknown scorer {name!r}.{did_you_mean(name, names)} `nbench scorers list` shows all.")
    if len(found) > 1:
        packages = " and ".join(entry.package for entry in found)
        raise ScorerError(f"the scorer name {name!r} is claimed by {packages}: uninstall or rename one of them.")
    return found[0]


def _where(entry: ScorerEntry) -> str:
    return f"scorer {entry.name!r} ({entry.hook.value}, package {entry.package})"


def _made(entry: ScorerEntry, device: str) -> AnyScorer:
    try:
        factory = entry.hook.load()
    except (ImportError, AttributeError) as error:
        raise ScorerError(f"{_where(entry)} cannot be imported: {error}. Repair or uninstall the package.") from error
    try:
        scorer: AnyScorer = factory(device)
    except NbenchError:
        raise
    except Exception as error:  # a plug-in may raise anything; the user needs to know whose it is
        raise ScorerError(f"{_where(entry)} could not be made: {type(error).__name__}: {error}") from error
    return scorer


def _create(entry: ScorerEntry, device: str) -> AnyScorer:
    where, scorer = _where(entry), _made(entry, device)
    try:
        card = scorer.card
    except NbenchError:
        raise
    except Exception as error:
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

    What `NOT_IDENTITY` names is prose, or moves no value, and does not count.
    """
    facts = {key: value for key, value in asdict(card).items() if key not in NOT_IDENTITY}
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
