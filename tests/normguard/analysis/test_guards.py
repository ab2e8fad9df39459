"""Variants of a guard: what differs between them, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from nbench.errors import UsageError
from nbench.normguard.analysis.guards import Variant, guarded, make_variants
from nbench.normguard.checkpoint import differences
from nbench.normguard.config import TrainConfig
from nbench.normguard.config_file import make_config


def config(**changes: Any) -> TrainConfig:
    return make_config(
        {
            "name": "study",
            "model": {"base": "pocket-sd3"},
            "method": {"name": "nft"},
            "rewards": [{"scorer": "pocket-clip"}],
            "prompts": {"set": "pocket", "holdout": 2},
            "rollout": {"prompts": 2, "group_size": 2, "steps": 2},
            "times": {"count": 1},
            "optim": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3},
            **changes,
        }
    )


def test_variants_are_no_guard_and_the_grid_of_weights_ratios_powers_and_margins() -> None:
    found = make_variants(weights=(0.1,), ratios=(0.05,), powers=(1, 2), margins=(0.0, 0.01))
    assert [variant.name for variant in found] == [
        "no-guard", "p1-w0.1", "p1-r0.05", "p1-m0.01-w0.1", "p1-m0.01-r0.05",
        "p2-w0.1", "p2-r0.05", "p2-m0.01-w0.1", "p2-m0.01-r0.05",
    ]  # fmt: skip
    assert len({variant.family for variant in found}) == 5


def test_variants_need_weights_or_ratios() -> None:
    with pytest.raises(UsageError, match="no guard to try"):
        make_variants()


def test_a_variant_changes_the_guard_alone() -> None:
    base = config()
    variant = make_variants(weights=(0.1,))[1]
    changed = differences(base, guarded(base, variant))
    assert changed
    assert all(line.startswith("guards") for line in changed)


def test_a_variant_replaces_norm_guards_and_keeps_the_others() -> None:
    base = config(guards=[{"name": "norm_hinge", "weight": 9.0}, {"name": "reference_kl", "weight": 0.5}])
    names = [guard.name for guard in guarded(base, Variant("no-guard", None)).guards]
    assert names == ["reference_kl"]
    chosen = guarded(base, make_variants(weights=(0.1,))[1]).guards
    assert [(guard.name, getattr(guard, "weight", None)) for guard in chosen] == [
        ("reference_kl", 0.5),
        ("norm_hinge", 0.1),
    ]


def test_a_variant_that_the_method_cannot_use_is_refused() -> None:
    variant = make_variants(weights=(0.1,), name="old_policy_hinge")[1]
    with pytest.raises(UsageError, match="rollout policy of its own"):
        guarded(config(method={"name": "dpo"}), variant)
