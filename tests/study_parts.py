"""A small study to plan and schedule, which trains nothing by itself."""

from __future__ import annotations

from typing import Any


def study_content(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": "little",
        "label": "made for tests",
        "templates": {
            "pocket-sd3": {"nft": "pocket-sd3-nft", "grpo": "pocket-sd3-grpo"},
        },
        "settings": {
            "prompts.holdout": 20,
            "rollout.prompts": 2,
            "rollout.group_size": 2,
            "rollout.steps": 4,
            "optim.epochs": 2,
            "optim.updates_per_epoch": 1,
            "evaluate.limit": 2,
            "evaluate.steps": [2],
            "evaluate.seeds": 1,
            "evaluate.scorers": [],
        },
        "rewards": {"aesthetic": [{"scorer": "pocket-aesthetic"}]},
        "arms": {
            "unguarded": {},
            "normguard": {"guards": [{"name": "norm_hinge", "power": 2, "weight": 1.0}]},
        },
        "grid": [{"bases": "pocket-sd3", "methods": "nft", "rewards": "aesthetic", "arms": ["unguarded", "normguard"]}],
        "evaluation": {
            "limit": 3,
            "steps": [2, 4],
            "seeds": 1,
            "scorers": ["pocket-aesthetic", "pocket-clip", "pocket-realism"],
            "trajectory_every": 1,
            "trajectory_steps": [2],
            "rescale": ["full"],
        },
        "analyses": {"limit": 3, "adjoint_steps": 2, "ratio_steps": 4},
        "claims": {"quality": "pocket-clip", "realism": "pocket-realism", "few": 2, "full": 4},
    }
    return {**content, **changes}
