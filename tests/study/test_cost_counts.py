"""What is counted equals what real trainings and runs push through the transformer, the decoder and the scorer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, SD3Transformer2DModel
from safetensors import safe_open
from study_parts import study_content
from train_fakes import train_config

import nbench.normguard.trainer as trainer_module
from nbench.normguard.config import TrainConfig
from nbench.normguard.evaluate import Evaluator
from nbench.normguard.trainer import train
from nbench.runs.backend import default_backend
from nbench.runs.execute import execute
from nbench.runs.store import Store
from nbench.runs.suite import make_suite
from nbench.study.config import make_study
from nbench.study.cost_bases import find_base
from nbench.study.cost_work import Work, checkpoint_epochs, epoch_work, evaluation_work, run_works, training_bytes
from nbench.study.plan import make_plan, suite_content
from nbench.testing import FakeScorer, tiny_lora

HINGE = {"name": "norm_hinge", "weight": 0.1}


@dataclass
class Counter:
    """Rows that went through transformers and decoders."""

    forwards: int = 0
    trained: int = 0
    blocks: int = 0
    pictures: int = 0


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    found = Counter()
    forward, decode = SD3Transformer2DModel.forward, AutoencoderKL.decode

    def counted(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        block = self.transformer_blocks[0]
        for old in handles:
            old.remove()
        # Before and not after: a recomputation stops as soon as it has what the backward needs.
        count = len(hidden_states)
        handles[:] = [block.register_forward_pre_hook(lambda *_: setattr(found, "blocks", found.blocks + count))]
        if torch.is_grad_enabled():
            found.trained += len(hidden_states)
        else:
            found.forwards += len(hidden_states)
        return forward(self, hidden_states, *args, **kwargs)

    def decoded(self: Any, z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found.pictures += len(z)
        return decode(self, z, *args, **kwargs)

    handles: list[Any] = []
    monkeypatch.setattr(SD3Transformer2DModel, "forward", counted)
    monkeypatch.setattr(AutoencoderKL, "decode", decoded)
    yield found


class Counting(FakeScorer):
    """Counts the pictures that it is shown."""

    seen = 0

    def score(self, images: Any, prompts: Any) -> Any:
        self.seen += len(images)
        return super().score(images, prompts)


def counted_work(config: TrainConfig, held_out: int = 2) -> Work:
    base = find_base(config.model)
    return epoch_work(config, base).times(config.optim.epochs) + evaluation_work(config, base, held_out)


TRAININGS = {
    "nft at two step counts": ("nft", {"evaluate__steps": [1, 3], "times__count": 2}),
    "nft with a hinge, which brings the reference": ("nft", {"guards": [HINGE], "times__count": 2}),
    "nft against the old policy": ("nft", {"guards": [{**HINGE, "name": "old_policy_hinge"}], "times__count": 2}),
    "nft with a guard that is only measured": ("nft", {"guards": [{**HINGE, "weight": 0}], "times__count": 2}),
    "awm with its anchor and old weights": (
        {"name": "awm", "anchor_weight": 0.5},
        {"optim__updates_per_epoch": 2, "times__count": 2},
    ),
    "dpo with evaluations between": ("dpo", {"evaluate__every": 1, "optim__epochs": 3, "evaluate__ema": True}),
    "grpo": ({"name": "grpo", "skip_last": 1}, {"times__count": 2}),
    "grpo with its KL, guided": (
        {"name": "grpo", "skip_last": 1},
        {"guards": [{"name": "state_kl", "weight": 0.1}], "model__guidance": 4.0, "times__count": 2},
    ),
}


QUICK = ("nft with a hinge, which brings the reference", "grpo with its KL, guided")


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        pytest.param(*value, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, value in TRAININGS.items()
    ],
)
def test_counts_equal_those_of_a_real_training(
    sd3_folder: Path, tmp_path: Path, counter: Counter, method: Any, changes: dict[str, Any]
) -> None:
    config = train_config(sd3_folder, method, **changes)
    scorer = Counting("fake-score")
    train(config, tmp_path / "out", scorers={"fake-score": scorer})
    expected = counted_work(config)
    assert (counter.forwards, counter.trained) == (expected.forwards, expected.trained)
    assert counter.pictures == expected.pictures
    assert scorer.seen == expected.scores["fake-score"]
    assert expected.trained > 0 and expected.forwards > expected.trained


def test_gradient_checkpointing_counts_one_forward_more(sd3_folder: Path, tmp_path: Path, counter: Counter) -> None:
    config = train_config(sd3_folder, model__gradient_checkpointing=True)
    train(config, tmp_path / "out", scorers={"fake-score": FakeScorer("fake-score")})
    expected = counted_work(config)
    assert counter.blocks == expected.forwards + 2 * expected.trained
    assert expected.equivalents(checkpointing=True) - expected.equivalents() == expected.trained


def test_bytes_equal_what_a_training_leaves(sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_config(sd3_folder, {"name": "awm", "anchor_weight": 0.5}, optim__epochs=3)
    out = tmp_path / "out"
    train(config, out, scorers={"fake-score": FakeScorer("fake-score")})
    base = find_base(config.model)
    assert base is not None
    left = sum(tensor_bytes(path) for path in out.rglob("*.safetensors"))
    assert left == training_bytes(config, base.lora_parameters(config.model))
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == [
        f"epoch-{epoch:04d}" for epoch in checkpoint_epochs(config)
    ]


def tensor_bytes(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118


@pytest.mark.parametrize("guidance", [3.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_counts_equal_those_of_real_runs_over_one_store(
    sd3_folder: Path, tmp_path: Path, counter: Counter, guidance: float
) -> None:
    content = study_content()
    content["settings"] |= {
        "model.base": str(sd3_folder),
        "model.device": "cpu",
        "model.height": 16,
        "model.width": 16,
        "model.guidance": guidance,
    }
    content["evaluation"] |= {
        "steps": [1, 2, 4],
        "seeds": 2,
        "batch_size": 4,
        "scorers": ["fake-score"],
        "trajectory_seeds": 1,
        "rescale": ["full", "one-sided"],
    }
    plan = make_plan(make_study(content))
    loras: dict[tuple[str, int | None], str] = {}
    for number, training in enumerate(plan.trainings):
        for epoch in (1, 2):
            folder = tmp_path / f"{training.name}-{epoch}"
            tiny_lora(folder, sd3_folder, seed=10 * number + epoch)
            loras[training.name, epoch] = str(folder)
        loras[training.name, None] = loras[training.name, 2]  # the end is the last epoch's checkpoint
    prompts = tmp_path / "held-out.yaml"
    prompts.write_text(
        yaml.safe_dump(
            {
                "name": "held-out",
                "source": "here",
                "licence": "CC0-1.0",
                "prompts": [{"id": one.id, "text": one.text} for one in plan.prompts],
            }
        )
    )
    store, scorer = Store(tmp_path / "store"), Counting("fake-score")
    backend = replace(default_backend(), scorer=lambda name, device: scorer)
    base = find_base(plan.trainings[0].config.model)
    kinds = []
    for run, work in run_works(plan, {"pocket-sd3": base}):
        before = replace(counter)
        seen = scorer.seen
        chosen = {name: loras[training.name, epoch] for name, (training, epoch) in run.checkpoints.items()}
        suite = suite_content(plan, run, chosen, str(prompts))
        execute(make_suite({**suite, "device": "cpu"}), store, backend=backend)
        kinds.append(run.kind)
        assert counter.forwards - before.forwards == work.forwards, run.name
        assert counter.pictures - before.pictures == work.pictures, run.name
        assert scorer.seen - seen == work.scores["fake-score"], run.name
    assert kinds == ["final", "trajectory", "rescale-full", "rescale-one-sided"]
    assert counter.trained == 0


def test_the_trainer_evaluates_with_the_real_evaluator_here() -> None:
    assert trainer_module.Evaluator is Evaluator  # else the counts above would leave evaluations out
