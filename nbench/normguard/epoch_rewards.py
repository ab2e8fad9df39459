"""Rewards of an epoch, of all processes -> advantages by picture, and what the log says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from nbench.errors import UsageError
from nbench.normguard.advantage import constant_groups, group_advantages
from nbench.normguard.config import AdvantageConfig
from nbench.normguard.rewards import Rewards

#: (group, member, reward or NaN, why there is none)
Row = tuple[int, int, float, str | None]


def advantages(
    rows: Sequence[Row], settings: AdvantageConfig, *, first: bool
) -> tuple[dict[tuple[int, int], float], dict[str, Any]]:
    """Advantages of an epoch's pictures, and figures of their rewards.

    Args:
        rows: one per picture, in one order on all processes.
        settings: how advantages are formed.
        first: whether it is the first epoch.

    Returns:
        (group, member) -> advantage, 0 for failed pictures; and the figures.

    Raises:
        UsageError: in the first epoch: nothing can be learned from the reward.
    """
    found = {row[:2]: 0.0 for row in rows}
    kept = [row for row in rows if row[2] == row[2]]
    reasons: dict[str, int] = {}
    for row in rows:
        if row[3] is not None:
            reasons[row[3]] = reasons.get(row[3], 0) + 1
    facts: dict[str, Any] = {
        "samples": len(rows),
        "failed": len(rows) - len(kept),
        "reasons": dict(sorted(reasons.items(), key=lambda item: -item[1])[:3]),
        "reward": {"mean": None, "std": None},
        "constant_groups": 0,
    }
    if not kept:
        if first:
            raise UsageError(
                f"all {len(rows)} pictures of the first epoch failed to get a reward, the first because: "
                f"{next(iter(reasons), 'unknown')}. Choose other rewards or prompts."
            )
        return found, facts
    values = torch.tensor([row[2] for row in kept], dtype=torch.float64)
    groups = torch.tensor([row[0] for row in kept])
    constant = constant_groups(values, groups)
    if bool(constant.all()) and first:
        raise UsageError(
            f"the reward is the same for all pictures of each prompt (the first: {values[0]:.6g}), so there is "
            "nothing to learn from it. Choose another reward, or a base whose pictures of a prompt differ."
        )
    formed = group_advantages(values, groups, std=settings.std, delta=settings.delta, clip=settings.clip)
    for row, advantage in zip(kept, formed.tolist(), strict=True):
        found[row[:2]] = advantage
    facts["reward"] = {"mean": float(values.mean()), "std": float(values.std(correction=0))}
    facts["constant_groups"] = len(groups[constant].unique())
    facts["advantage_std"] = float(formed.std(correction=0))
    return found, facts


def term_means(rewards: Rewards, gather: Callable[[list[Any]], list[Any]]) -> dict[str, float | None]:
    """Mean of each term of the reward over the pictures of all processes that have it; None where none has."""
    rows = [(name, values[values.isfinite()].tolist()) for name, values in rewards.terms.items()]
    merged: dict[str, list[float]] = {}
    for name, values in gather(rows):
        merged.setdefault(name, []).extend(values)
    return {name: sum(values) / len(values) if values else None for name, values in merged.items()}
