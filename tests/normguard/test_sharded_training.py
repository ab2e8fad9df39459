"""Two processes that share the weights (FSDP, gloo, CPU) train to the weights of one that has them all.

They have unequal shares of the work throughout: three prompts, two for one and one for the other.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from train_fakes import (
    REWARD,
    assert_same_training,
    fake_training,
    log_without_times,
)
from train_processes import (
    FULL,
    assert_close,
    assert_close_logs,
    forked,
    free_port,
    said,
    shared_config,
    train_shared,
    void,
)

from nbench.normguard.prompting import training_prompts
from nbench.testing import FakeScorer

pytestmark = pytest.mark.usefixtures("quick_trainings")

GUIDED = {"model__guidance": 3.0, "model__gradient_checkpointing": True, "times__count": 2}


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("nft", {}),
        ("dpo", {}),
        ("nft", FULL),
        pytest.param("awm", {}, marks=pytest.mark.slow),
        pytest.param("grpo", {}, marks=pytest.mark.slow),
        pytest.param("nft", GUIDED, marks=pytest.mark.slow),
    ],
    ids=["nft", "dpo", "nft-full", "awm", "grpo", "nft-guided"],
)
def test_two_sharded_processes_train_to_the_weights_of_one(
    method: str, changes: dict[str, Any], sd3_folder: Path, tmp_path: Path
) -> None:
    settings = shared_config(sd3_folder, method, **changes)
    train_shared(settings, tmp_path / "two", tmp_path)
    fake_training(settings, tmp_path / "one")
    assert_close(tmp_path / "one", tmp_path / "two")
    assert_close_logs(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_flux_is_sharded_over_both_kinds_of_its_blocks(flux_folder: Path, tmp_path: Path) -> None:
    settings = shared_config(flux_folder, optim__epochs=2)
    train_shared(settings, tmp_path / "two", tmp_path)
    fake_training(settings, tmp_path / "one")
    assert_close(tmp_path / "one", tmp_path / "two")


class FailsFor(FakeScorer):
    """Raises on the pictures of one prompt."""

    def __init__(self, text: str) -> None:
        super().__init__(REWARD)
        self.text = text

    def score(self, images: Any, prompts: Any) -> Any:
        if self.text in prompts:
            raise RuntimeError("no")
        return super().score(images, prompts)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, FULL], ids=["lora", "full"])
def test_a_process_all_of_whose_pictures_failed_keeps_in_step(
    changes: dict[str, Any], sd3_folder: Path, tmp_path: Path
) -> None:
    settings = shared_config(sd3_folder, **changes)
    first = training_prompts(settings).of_epoch(0, 3, settings.seed)
    scorers = {REWARD: FailsFor(first[1].text)}  # the second process has only this one
    train_shared(settings, tmp_path / "two", tmp_path, scorers=scorers)
    fake_training(settings, tmp_path / "one", scorers=scorers)
    assert log_without_times(tmp_path / "two")[0]["failed"] == 2
    assert_close(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"optim__mixed_precision": "bf16"}, {"model__dtype": "bfloat16"}], ids=["autocast", "bfloat16"]
)
def test_sharding_a_frozen_base_changes_no_bit(changes: dict[str, Any], sd3_folder: Path, tmp_path: Path) -> None:
    settings = shared_config(sd3_folder, **changes)
    train_shared(settings, tmp_path / "sharded", tmp_path)
    codes = forked(2, lambda rank: void(fake_training(settings, tmp_path / "whole")), tmp_path)
    assert codes == [0, 0], said(tmp_path)
    assert_same_training(tmp_path / "whole", tmp_path / "sharded")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_accelerate_launch_trains_on_shared_weights(sd3_folder: Path, tmp_path: Path) -> None:
    """The real launcher with its own defaults, and the real command."""
    rewards = [{"scorer": "image-stats", "metric": "saturation"}]
    settings = shared_config(sd3_folder, rewards=rewards, optim__epochs=2)
    file = tmp_path / "train.yaml"
    file.write_text(settings.to_yaml())
    accelerate = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", str(free_port())]
    fsdp = [*accelerate, "--use_fsdp", "--fsdp_version", "2", "--mixed_precision", "no", "--dynamo_backend", "no"]
    plain = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port()), "-m"]
    for name, start in (("shared", [*fsdp, "--num_machines", "1", "-m"]), ("whole", plain)):
        arguments = [*start, "nbench", "train", str(file), "--out", str(tmp_path / name)]
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("Trained 2 epochs") == 1
        result = json.loads((tmp_path / name / "result.json").read_text())
        assert (result["processes"], result["sharded"]) == (2, name == "shared")
    assert_same_training(tmp_path / "whole", tmp_path / "shared")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_accelerate_launch_with_the_first_fsdp_is_refused(sd3_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(shared_config(sd3_folder).to_yaml())
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", str(free_port())]
    arguments = [*launch, "--use_fsdp", "-m", "nbench", "train", str(file), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=200)
    assert done.returncode != 0
    assert "only version 2 of FSDP is supported" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()
