"""What `nbench judge check` found, kept by the identity of the judge's scores, for those who are to trust them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from nbench.errors import InfrastructureError
from nbench.resources import cache_folder


@dataclass(frozen=True)
class KnownCheck:
    """The outcome of a judge's last check.

    Attributes:
        trusted: whether it passed.
        faults: why not.
        metric: whose repeats were measured.
        deviation: standard deviation of one answer over repeats; None where it was not measured.
    """

    trusted: bool
    faults: tuple[str, ...]
    metric: str
    deviation: float | None


def keep_check(identity: str, found: KnownCheck) -> None:
    """Keep the outcome for scores of this card identity (`nbench.scoring.registry.card_identity`).

    Raises:
        InfrastructureError: the disk refuses.
    """
    path = _path(identity)
    text = json.dumps({**vars(found), "faults": list(found.faults)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}.part")
        fresh.write_text(text + "\n", encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise InfrastructureError(f"the judge's check cannot be kept in {path}: {error.strerror}.") from error


def known_check(identity: str) -> KnownCheck | None:
    """The last check of the judge whose scores have this card identity; None where it was never checked here."""
    try:
        record = json.loads(_path(identity).read_text(encoding="utf-8"))
        deviation = record["deviation"]
        return KnownCheck(
            trusted=record["trusted"] is True,
            faults=tuple(str(fault) for fault in record["faults"]),
            metric=str(record["metric"]),
            deviation=None if deviation is None else float(deviation),
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _path(identity: str) -> Path:
    return cache_folder("judge-checks") / f"{identity}.json"
