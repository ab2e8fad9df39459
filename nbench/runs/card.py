"""The comparability card of a run: everything that two runs must share for their numbers to be set side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import nbench
from nbench.errors import CardMismatchError
from nbench.runs.canonical import canonical_json, digest
from nbench.runs.resolve import Resolved, ResolvedCheckpoint
from nbench.scoring.registry import card_identity
from nbench.scoring.scorer import ScorerCard

_FORMAT = 1
_NOT_ON_CARD = ("heavy", "variants", "fooled_by")
#: raised when the sampling code changes pictures; part of each picture's key
SAMPLER_VERSION = 1


@dataclass(frozen=True)
class Difference:
    """One place where two cards differ.

    Attributes:
        path: keys from the root, e.g. ("checkpoints", "base", "guidance").
        old, new: the values; None where a card has none.
    """

    path: tuple[str, ...]
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {_short(self.old)} -> {_short(self.new)}"


def make_card(resolved: Resolved) -> dict[str, Any]:
    """The card of a resolved run: JSON values only, no path and no name of a machine."""
    suite = resolved.suite
    return {
        "format": _FORMAT,
        "nbench": nbench.__version__,
        "prompts": {"name": resolved.prompt_set, "count": len(resolved.prompts), "hash": resolved.prompts_hash},
        "seeds": {"run_seed": suite.seed, "count": suite.seeds},
        "sampler": {
            "name": "euler",
            "version": SAMPLER_VERSION,
            "grid": suite.grid,
            "rescale": None if suite.rescale is None else suite.rescale.model_dump(),
        },
        "size": [resolved.height, resolved.width],
        "dtype": resolved.dtype,
        "device": resolved.device.partition(":")[0],
        "kernels": {"attention": resolved.attention},
        "batch_size": suite.batch_size,
        "versions": dict(resolved.versions),
        "steps": list(suite.steps),
        "reference": suite.reference_name,
        "norm_ratio": suite.norm_ratio,
        "checkpoints": {checkpoint.name: _checkpoint(checkpoint) for checkpoint in resolved.checkpoints},
        "scorers": {
            name: {"identity": card_identity(scorer.card), **_scorer(scorer.card)}
            for name, scorer in resolved.scorers.items()
        },
    }


def _scorer(card: ScorerCard) -> dict[str, Any]:
    """A scorer's card, without what says nothing about the numbers."""
    return {key: _plain(value) for key, value in asdict(card).items() if key not in _NOT_ON_CARD}


def _checkpoint(checkpoint: ResolvedCheckpoint) -> dict[str, Any]:
    return {
        "weights": checkpoint.weights,
        "family": checkpoint.facts.family if checkpoint.facts else None,
        "guidance": checkpoint.guidance,
        "lora_scale": checkpoint.spec.lora_scale if checkpoint.spec.lora else None,
        "max_sequence_length": checkpoint.spec.max_sequence_length,
        "sigmas": {str(steps): digest(list(grid)) for steps, grid in checkpoint.sigmas.items()},
    }


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON will give them back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def card_hash(card: Mapping[str, Any]) -> str:
    """sha256, hex, of a card."""
    return digest(card)


def diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """Every place where two cards differ, by path; lists are compared whole."""
    return list(_diff((), old, new))


def _diff(path: tuple[str, ...], old: Any, new: Any) -> Iterable[Difference]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from _diff((*path, key), old.get(key), new.get(key))
    elif canonical_json(old) != canonical_json(new):
        yield Difference(path, old, new)


def conflicts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """The differences that keep a run from going on as `new`. A run may only grow.

    A checkpoint, a step count or a scorer more is no conflict, nor are norm ratios where there were none, nor a library
    that only a new checkpoint brings in.
    """
    return [difference for difference in diff(old, new) if not _grows(difference)]


def _grows(difference: Difference) -> bool:
    match difference.path:
        case ("steps",):
            return set(difference.old or ()) <= set(difference.new or ())
        case ("norm_ratio",):
            return bool(difference.new)
        case ("checkpoints" | "scorers" | "versions", _) | ("checkpoints", _, "sigmas", _):
            return difference.old is None
    return False


def check_same_run(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to go on with a run under another setting.

    Raises:
        CardMismatchError: with the differences.
    """
    found = conflicts(old, new)
    if found:
        listed = "".join(f"\n  {difference}" for difference in found)
        raise CardMismatchError(
            f"run {name!r} was made with other settings; use another --name (pictures that fit are taken over), or the "
            f"settings it was made with:{listed}"
        )


def _short(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return f"{value[:12]}..." if len(value) == 64 else value
    if isinstance(value, Mapping) and "weights" in value:
        return "this checkpoint"
    if isinstance(value, Mapping) and "identity" in value:
        return "this scorer"
    if isinstance(value, Sequence):
        return ", ".join(_short(item) for item in value)
    return canonical_json(value)
