"""The views of a policy in training sample bit for bit as what it saves does once it is loaded (float32)."""

import os
from pathlib import Path
from typing import Literal

import pytest
import torch
from run_fakes import contents

from nbench.flow.family import DiffusersFlowModel
from nbench.flow.load import CheckpointSpec, load_model
from nbench.normguard.config import ModelConfig
from nbench.normguard.evaluate import EvaluatedModel, Evaluator
from nbench.normguard.policy import Policy
from nbench.prompts import load_prompt_set
from nbench.runs.execute import execute
from nbench.runs.store import Store
from nbench.runs.suite import read_suite


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_an_evaluated_policy_equals_its_saved_checkpoint(
    tuning: Literal["lora", "full"], tmp_path: Path, sd3_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    spec = CheckpointSpec("base", str(sd3_folder), device="cpu")
    model = load_model(spec)
    assert isinstance(model, DiffusersFlowModel)
    policy = Policy(model, ModelConfig(base=str(sd3_folder), tuning=tuning), ["ema"], seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in policy.tensors("policy").values():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
    saved = policy.save("policy", tmp_path / "policy")
    evaluator = Evaluator(
        store=tmp_path / "eval", prompts=load_prompt_set("pocket", 3), prompts_file=tmp_path / "heldout.yaml",
        base=spec, steps=(1, 3), scorers=("image-stats",), guidance=4.0, size=(16, 16), batch_size=2,
    )  # fmt: skip
    trained = EvaluatedModel(policy.view("policy"), **{"lora" if tuning == "lora" else "folder": saved})
    found = evaluator.evaluate({"base": EvaluatedModel(policy.view("reference")), "policy": trained}, name="epoch-1")
    assert (found.generated, found.failed) == (12, 0)
    assert all(norm.ratio is not None and norm.ratio.mean != 1 for norm in found.norms)
    execute(read_suite(tmp_path / "eval" / "runs" / "epoch-1" / "suite.yaml"), Store(tmp_path / "plain"))
    assert contents(tmp_path / "eval") == contents(tmp_path / "plain")
