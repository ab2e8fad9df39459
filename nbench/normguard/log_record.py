"""What a training logs besides its losses: the policy's velocities against the reference's, and lines as scalars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nbench.flow.norms import rms
from nbench.normguard.losses.reduce import mse
from nbench.normguard.methods import Draw
from nbench.normguard.policy import Role
from nbench.normguard.tally import Tally


@torch.no_grad()
def monitor(v: Mapping[Role, Tensor], draw: Draw, tally: Tally) -> None:
    """Log norm ratio, squared distance and cosine of the policy's and the reference's velocities."""
    theta, ref = v["policy"].detach().float(), v["reference"].float()
    tally.add("norm_ratio", rms(theta) / rms(ref).clamp_min(1e-12), draw.t)
    tally.add("reference_distance", mse(theta, ref), draw.t)
    tally.add("cosine", torch.nn.functional.cosine_similarity(theta.flatten(1), ref.flatten(1)), draw.t)


def scalars(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of a log line, without those by bucket, as "a/b"."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping) and key not in ("by", "reasons"):
            found.update(scalars(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float):
            found[f"{prefix}{key}"] = float(value)
    return found
