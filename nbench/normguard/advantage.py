"""Advantages: how much better a picture is than the others of its prompt."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

StdScope = Literal["global", "group"]

_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


def group_advantages(
    rewards: Tensor, groups: Tensor, *, std: StdScope = "global", delta: float = 1e-4, clip: float | None = None
) -> Tensor:
    """Advantages within groups, the pictures of one prompt.

        A_i = (R_i - mean_p) / (std + delta), then clipped to [-clip, clip]

    The mean is always the group's. The standard deviation is the population's (divided by N, not N - 1), of the group
    or, as in nearly all public configs, of all rewards given, which holds the spread between prompts too. All in
    float64. Source: yifan123/flow_grpo, NVlabs/DiffusionNFT, scxue/advantage_weighted_matching, with delta = 1e-4.

    A group whose rewards are all equal, a group of one among them, gets exactly 0; see `constant_groups`. With several
    processes, gather rewards and group ids first.

    Args:
        rewards: R, [N], of all samples of an epoch, of any real dtype. Leave failed samples out beforehand.
        groups: an integer per sample, [N], equal within a prompt. Not a float: 64-bit ids collide in one.
        std: "global" or "group".
        delta: added to the standard deviation, above 0.
        clip: bound of |A|, above 0, or None.

    Returns:
        A, float64 [N].

    Raises:
        ValueError: no samples, shapes that differ, a reward that is not finite, group ids that are not integers, or an
            unknown `std`, `delta` or `clip`.
    """
    if not delta > 0:
        raise ValueError(f"delta is {delta}: use a number above 0.")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is {clip}: use a number above 0, or None.")
    r, index = _checked(rewards, groups)
    size = torch.bincount(index).to(r.dtype)
    centred = (r - (_sums(r, index) / size)[index]).masked_fill(_constant(r, index), 0.0)
    if std == "global":
        spread = r.std(correction=0)
    elif std == "group":
        spread = (_sums(centred.square(), index) / size).sqrt()[index]
    else:
        raise ValueError(f"Unknown scope {std!r} of the standard deviation. Known: {', '.join(get_args(StdScope))}.")
    advantage = centred / (spread + delta)
    return advantage if clip is None else advantage.clamp(-clip, clip)


def constant_groups(rewards: Tensor, groups: Tensor) -> Tensor:
    """Which samples are in a group whose rewards are all equal, so that it teaches nothing: bool [N].

    Flow-GRPO leaves such samples out of its batches; AWM keeps them for its KL terms, NFT as r = 1/2.

    Args:
        rewards: R, [N].
        groups: an integer per sample, [N].

    Raises:
        ValueError: as `group_advantages`.
    """
    return _constant(*_checked(rewards, groups))


def _checked(rewards: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards in float64 and the index of each one's group, 0 to P - 1."""
    if rewards.ndim != 1 or rewards.shape != groups.shape:
        raise ValueError(
            f"rewards has shape {tuple(rewards.shape)} and groups {tuple(groups.shape)}: give one of each per sample."
        )
    if not len(rewards):
        raise ValueError("There are no rewards: every sample was left out, or the batch is empty.")
    if groups.dtype not in _INTEGERS:
        raise ValueError(f"groups has dtype {groups.dtype}: give an integer id per prompt.")
    r = rewards.detach().to(torch.float32 if rewards.device.type == "mps" else torch.float64)
    finite = r.isfinite()
    if not finite.all():
        raise ValueError(f"{int((~finite).sum())} of {len(r)} rewards are NaN or infinite: leave those samples out.")
    index: Tensor = groups.unique(return_inverse=True)[1]
    return r, index


def _sums(values: Tensor, index: Tensor) -> Tensor:
    return torch.zeros(int(index.max()) + 1, dtype=values.dtype, device=values.device).index_add(0, index, values)


def _constant(r: Tensor, index: Tensor) -> Tensor:
    start = torch.zeros(int(index.max()) + 1, dtype=r.dtype, device=r.device)
    low = start.scatter_reduce(0, index, r, "amin", include_self=False)
    high = start.scatter_reduce(0, index, r, "amax", include_self=False)
    return (low == high)[index]
