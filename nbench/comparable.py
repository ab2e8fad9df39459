"""May two checkpoints be compared? Their cards must agree in everything that moves a number, or be allowed by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from nbench.errors import CardMismatchError, UsageError, did_you_mean
from nbench.runs.card import Difference, diff

#: what a user may allow to differ, and the parts of a card behind each name
ALLOWANCES: dict[str, tuple[str, ...]] = {
    "guidance": ("guidance",),
    "sigmas": ("sigmas", "sampler"),
    "dtype": ("dtype",),
    "device": ("device", "kernels"),
    "versions": ("versions", "nbench"),
    "size": ("size",),
    "batch": ("batch_size",),
    "text-length": ("max_sequence_length",),
    "family": ("family",),
}
#: parts of a run's card that every picture depends on
_SHARED = ("nbench", "seeds", "sampler", "size", "dtype", "device", "kernels", "batch_size", "versions")
_OF_CHECKPOINTS = ("family", "guidance", "max_sequence_length")


def contract(card: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
    """What another checkpoint must share to be compared with this one, from the card of its run.

    Scorers are there by identity, prompts by the hash of their texts. Weights, LoRA scale and the set of step counts
    are what is compared, and are left out.
    """
    own = card["checkpoints"][checkpoint]
    return {
        **{key: card[key] for key in _SHARED},
        "prompts": card["prompts"]["hash"],
        **{key: own[key] for key in _OF_CHECKPOINTS},
        "sigmas": dict(own["sigmas"]),
        "scorers": {name: part["identity"] for name, part in card["scorers"].items()},
    }


def check_comparable(
    base: Mapping[str, Any], candidate: Mapping[str, Any], *, allow: Collection[str] = ()
) -> list[Difference]:
    """See that two contracts agree.

    Args:
        base: of `contract`.
        candidate: likewise.
        allow: names of `ALLOWANCES` that may differ.

    Returns:
        The differences that were allowed, to be shown beside every result.

    Raises:
        UsageError: an unknown allowance.
        CardMismatchError: they differ elsewhere; every difference is listed with the allowance that it would need.
    """
    for name in allow:
        if name not in ALLOWANCES:
            raise UsageError(f"unknown allowance {name!r}.{did_you_mean(name, ALLOWANCES)}")
    allowed: list[Difference] = []
    refused: list[Difference] = []
    for difference in diff(base, candidate):
        part = difference.path[0]
        if part in ("scorers", "sigmas") and (difference.old is None or difference.new is None):
            continue  # only what both have is compared
        (allowed if _allowance(part) in allow else refused).append(difference)
    if refused:
        listed = "".join(f"\n  {one}{_hint(one.path[0])}" for one in refused)
        raise CardMismatchError(f"the two are not comparable, because their cards differ:{listed}")
    return allowed


def _allowance(part: str) -> str | None:
    return next((name for name, parts in ALLOWANCES.items() if part in parts), None)


def _hint(part: str) -> str:
    name = _allowance(part)
    return f"  (--allow {name})" if name else ""
