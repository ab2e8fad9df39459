"""Self-check 24 of the methods' specification, in the trainer itself: two points in the plane, one of them rewarded.

The model is the mixture's exact velocity plus a network that starts at 0, tuned whole, so that roles are copies. What
`test_toy_training` shows of the losses is shown here of the loop: rollouts, advantages, draws, roles, guards.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from toy import SIGMAS, Toy
from train_fakes import ByHand, train_config

import nbench.normguard.trainer as trainer_module
from nbench.flow.family import DiffusersFlowModel
from nbench.flow.model import Conditioning, SigmaGrid
from nbench.normguard.checkpoint import TrainingFolder
from nbench.normguard.trainer import Quiet, Trainer

EPOCHS = {"nft": 150, "awm": 150, "dpo": 150, "grpo": 60}


class ToyModel(DiffusersFlowModel):
    """Latents are [B, 1, 1, 2]; a picture is one pixel, white for the right-hand mode."""

    family = "toy"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.transformer = Toy()
        self.pipeline = SimpleNamespace(transformer=self.transformer)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.base_hash = self.weights_hash = "toy"
        self.default_guidance, self.resolution, self.size_multiple = 1.0, (1, 1), 1

    def _unused(self, *rest: Any) -> Any:
        raise NotImplementedError

    _stock_resolution = _size_multiple = _set_timesteps = _encode_chunk = _needs_negative = _unused

    def sigmas(self, steps: int, *, grid: SigmaGrid = "diffusers", height: int, width: int) -> Tensor:
        assert steps == len(SIGMAS) - 1
        return SIGMAS

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return 1, 1, 2

    def noise(self, seeds: Sequence[int], *, height: int, width: int) -> Tensor:
        return torch.stack([torch.randn(1, 1, 2, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    def encode(self, prompts: Sequence[str], *, guidance: float, negative: str = "") -> Conditioning:
        return Conditioning({"nothing": torch.zeros(len(prompts), 1)})

    def offload_text_encoders(self) -> None:
        pass

    def velocity(self, x: Tensor, sigma: Tensor, cond: Conditioning, *, guidance: float) -> Tensor:
        found: Tensor = self.transformer(x.flatten(1), sigma.expand(len(x))).view_as(x)
        return found

    def decode(self, x: Tensor) -> Tensor:
        return (x[..., :1] > 0).float().expand(-1, 3, 1, 1)


def trained(method: str, weight: float | None, out: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """(mass of the rewarded mode, norm ratio on the base's own trajectories) after training."""
    monkeypatch.setattr(trainer_module, "load_model", lambda spec: ToyModel())
    guards = [] if weight is None else [{"name": "norm_hinge", "weight": weight}]
    config = train_config(
        Path("toy"),
        {"name": method, **({"beta": 2.0} if method == "dpo" else {})},
        guards=guards,
        model={"base": "toy", "device": "cpu", "guidance": 1.0, "tuning": "full"},
        prompts={"set": "pocket", "holdout": 2},
        rollout={"prompts": 16, "group_size": 8, "steps": len(SIGMAS) - 1, "batch_size": 128},
        times={"count": 7} if method == "grpo" else {"law": "uniform", "count": 1, "low": 0.05},
        optim={"epochs": EPOCHS[method], "batch_size": 256, "learning_rate": 1e-3},
    )
    scorer = ByHand(lambda image, prompt: float(image.getpixel((0, 0))[0] > 0))  # type: ignore[index]
    trainer = Trainer(config, TrainingFolder(out), Accelerator(cpu=True), Quiet(), {"fake-score": scorer})
    mean = 0.0
    while trainer.epoch < config.optim.epochs and mean < 0.95:  # beyond, whole epochs have nothing to learn from
        mean = trainer.run_epoch()["reward"]["mean"]
    policy, base = trainer.policy.view("policy"), trainer.policy.view("reference")
    cond = trainer.bank.get(["a red cube"])
    torch.manual_seed(99)
    x = y = torch.randn(4000, 1, 1, 2)
    ratios = []
    with torch.no_grad():
        for t, after in itertools.pairwise(SIGMAS):
            x = x + (after - t) * policy.velocity(x, t, cond, guidance=1.0)
            v = base.velocity(y, t, cond, guidance=1.0)
            ratios.append(float(policy.velocity(y, t, cond, guidance=1.0).norm() / v.norm()))
            y = y + (after - t) * v
    assert 0.47 < float((y[..., 0] > 0).float().mean()) < 0.53, "the reference stays the base"
    return float((x[..., 0] > 0).float().mean()), sum(ratios) / len(ratios)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "weight"), [("nft", 3.0), ("awm", 0.3), ("dpo", 1.0), ("grpo", 0.2)])
def test_the_loop_raises_the_mass_of_the_rewarded_mode_and_the_hinge_holds_the_norm(
    method: str, weight: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mass, ratio = trained(method, None, tmp_path / "free", monkeypatch)
    guarded_mass, guarded_ratio = trained(method, weight, tmp_path / "guarded", monkeypatch)
    print(f"{method}: mass {mass:.3f}, ratio {ratio:.3f}; guarded {guarded_mass:.3f}, {guarded_ratio:.3f}")
    assert mass > 0.7
    assert ratio > 1.05
    assert guarded_mass > 0.53  # more than the base has
    assert guarded_ratio < 1.03
