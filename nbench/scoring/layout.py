"""Does a checkpoint hold exactly the tensors that a network has? Nothing may be missing, left over or misshapen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nbench.errors import ScorerError

if TYPE_CHECKING:
    import torch


def check_layout(
    path: Path, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], unused: Iterable[str] = ()
) -> None:
    """Compare a checkpoint with a network.

    Args:
        path: the checkpoint, for the message.
        found: its tensors.
        wanted: the network's, under the checkpoint's names.
        unused: beginnings of names that the checkpoint may hold besides.

    Raises:
        ScorerError: they differ; names the first tensors of each sort.
    """
    spare = tuple(unused)
    missing = sorted(set(wanted) - set(found))
    extra = sorted(name for name in set(found) - set(wanted) if not name.startswith(spare or ("\0",)))
    other = [
        f"{name} is {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    faults = [
        f"{what} {len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("lacks", missing), ("has beyond them", extra), ("has in another shape", other))
        if names
    ]
    if faults:
        raise ScorerError(
            f"{path} is not the published checkpoint: of the network's {len(wanted)} tensors it {'; it '.join(faults)}."
            " Fetch it again at the pinned commit."
        )
