"""Trainings of a second or two: a tiny checkpoint, fake scorers, and what equal trainings must share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from nbench.normguard.checkpoint import TrainingFolder
from nbench.normguard.config import TrainConfig
from nbench.normguard.config_file import make_config
from nbench.normguard.evaluate import EvaluatedModel, Evaluation
from nbench.normguard.trainer import Quiet, Trainer, TrainResult, train
from nbench.scoring.scorer import Score, Scorer
from nbench.testing import FakeScorer


class NoEvaluator:
    """In place of the trainer's evaluator, where a test does not look at evaluations: they take longer than it."""

    def __init__(self, **settings: Any) -> None:
        pass

    def evaluate(self, checkpoints: Mapping[str, EvaluatedModel], *, name: str) -> Evaluation:
        return Evaluation(
            run=name,
            base="base",
            prompts=0,
            seeds=0,
            comparisons=(),
            norms=(),
            generated=0,
            failed=0,
            seconds=0.0,
        )


METHODS = ("nft", "awm", "dpo", "grpo")
REWARD = "fake-score"


def train_config(base: Path, method: str | Mapping[str, Any] = "nft", **changes: Any) -> TrainConfig:
    """A small training on `base`; `changes` replace values by dotted key, with "__" for the dots."""
    content: dict[str, Any] = {
        "name": "tiny",
        "model": {"base": str(base), "device": "cpu", "guidance": 1.0, "height": 16, "width": 16, "lora": {"rank": 4}},
        "method": {"name": method} if isinstance(method, str) else dict(method),
        "rewards": [{"scorer": REWARD}],
        "prompts": {"set": "pocket", "holdout": 2, "limit": 6},
        "rollout": {"prompts": 2, "group_size": 2, "steps": 3, "batch_size": 8},
        "times": {"count": 1},
        "optim": {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2, "warmup": 2},
        "evaluate": {"steps": [1], "seeds": 1},
        "checkpoint_every": 1,
        "seed": 3,
    }
    for key, value in changes.items():
        place = content
        *parents, last = key.split("__")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return make_config(content)


def fake_training(config: TrainConfig, out: Path, **options: Any) -> TrainResult:
    """`train` with `FakeScorer`s in place of every reward."""
    scorers = {term.scorer: FakeScorer(term.scorer) for term in config.rewards}
    return train(config, out, **{"scorers": scorers, **options})


class ByHand(FakeScorer):
    """A scorer whose values a function of (picture, prompt) gives; it may raise."""

    def __init__(self, value: Callable[[Image.Image, str], float]) -> None:
        super().__init__()
        self.value = value

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        return [Score.of(self.value(image, prompt)) for image, prompt in zip(images, prompts, strict=True)]


def make_trainer(config: TrainConfig, out: Path) -> Trainer:
    """A loaded trainer in one process, with fake scorers."""
    scorers: dict[str, Scorer] = {term.scorer: FakeScorer(term.scorer) for term in config.rewards}
    return Trainer(config, TrainingFolder(out), Accelerator(cpu=True), Quiet(), scorers)


def trained_state(out: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything that the newest checkpoint holds: weights of all roles and moments; and its plain values."""
    state = TrainingFolder(out).latest()
    assert state is not None
    return dict(state.tensors), {"epoch": state.epoch, "step": state.step, **state.facts}


def log_without_times(out: Path) -> list[dict[str, Any]]:
    """Lines of the log without what the clock says."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("seconds", "samples_per_second")} for line in lines
    ]


def assert_same_training(one: Path, other: Path) -> None:
    """Both trainings ended with the same bits, and say the same of every epoch."""
    (tensors, facts), (others, other_facts) = trained_state(one), trained_state(other)
    assert facts == other_facts
    assert tensors.keys() == others.keys()
    different = [name for name in tensors if not torch.equal(tensors[name], others[name])]
    assert not different
    assert log_without_times(one) == log_without_times(other)
    for role in ("policy", "ema"):
        files = sorted(path.relative_to(one) for path in (one / "final" / role).rglob("*") if path.is_file())
        assert files
        for path in files:
            assert (one / path).read_bytes() == (other / path).read_bytes(), path


def snapshot(out: Path) -> dict[str, str]:
    """Hash of every file by path; the lock left out."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
