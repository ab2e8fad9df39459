"""Two processes with gloo on a CPU train to the weights of one, within float rounding; and what they refuse.

Processes are forked, so that they import nothing again; one test goes through `accelerate launch`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train_fakes import fake_training, log_without_times, trained_state
from train_processes import (
    VARIANTS,
    assert_close,
    assert_close_logs,
    forked,
    free_port,
    said,
    uneven_config,
    void,
)

from nbench.errors import UsageError
from nbench.normguard.prompting import training_prompts

pytestmark = pytest.mark.usefixtures("quick_trainings")


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_two_processes_train_to_the_weights_of_one(variant: str, sd3_folder: Path, tmp_path: Path) -> None:
    settings = uneven_config(sd3_folder, variant)
    codes = forked(2, lambda rank: void(fake_training(settings, tmp_path / "two")), tmp_path)
    assert codes == [0, 0], said(tmp_path)
    fake_training(settings, tmp_path / "one")
    assert_close(tmp_path / "one", tmp_path / "two")
    assert_close_logs(tmp_path / "one", tmp_path / "two")


def test_two_processes_are_repeatable_and_resume_bit_for_bit(sd3_folder: Path, tmp_path: Path) -> None:
    settings = uneven_config(sd3_folder, "nft")
    assert forked(2, lambda rank: void(fake_training(settings, tmp_path / "a")), tmp_path) == [0, 0], said(tmp_path)
    shorter = uneven_config(sd3_folder, "nft", optim__epochs=1)
    assert forked(2, lambda rank: void(fake_training(shorter, tmp_path / "b")), tmp_path) == [0, 0], said(tmp_path)
    assert forked(2, lambda rank: void(fake_training(settings, tmp_path / "b")), tmp_path) == [0, 0], said(tmp_path)
    one, other = trained_state(tmp_path / "a"), trained_state(tmp_path / "b")
    assert one[1] == other[1]
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    assert log_without_times(tmp_path / "a") == log_without_times(tmp_path / "b")


def test_an_error_reaches_the_user_and_ends_every_process(sd3_folder: Path, tmp_path: Path) -> None:
    rewards = [{"scorer": "fake-score", "weight": 0.0}]
    settings = uneven_config(sd3_folder, "nft", rewards=rewards)
    codes = forked(2, lambda rank: void(fake_training(settings, tmp_path / "out")), tmp_path)
    assert 70 in codes
    assert "UsageError: the reward is the same for all pictures of each prompt" in said(tmp_path)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_more_processes_than_prompts_are_refused(sd3_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="4 processes share 3 prompts per epoch"):
        training_prompts(uneven_config(sd3_folder, "nft"), 4)
    training_prompts(uneven_config(sd3_folder, "nft"), 3)
    settings = uneven_config(sd3_folder, "nft", rollout__prompts=1)
    codes = forked(2, lambda rank: void(fake_training(settings, tmp_path / "out")), tmp_path)
    assert 70 in codes
    assert "2 processes share 1 prompts per epoch" in said(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_launcher_trains_on_two_processes(sd3_folder: Path, tmp_path: Path) -> None:
    """The real launcher and the real command."""
    rewards = [{"scorer": "image-stats", "metric": "saturation"}]
    settings = uneven_config(sd3_folder, "nft", rewards=rewards, optim__epochs=2)
    file = tmp_path / "train.yaml"
    file.write_text(settings.to_yaml())
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    for count, start in ((2, launch), (1, [])):
        arguments = [*start, "-m", "nbench", "train", str(file), "--out", str(tmp_path / str(count))]
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("Trained 2 epochs") == 1
        assert json.loads((tmp_path / str(count) / "result.json").read_text())["processes"] == count
    one, two = (log_without_times(tmp_path / name)[0] for name in "12")
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
    # Rewards are those of 8-bit pictures. Here one pixel of the second epoch rounds to its other neighbour, and this
    # reward feels it: advantages differ by 6e-4, and so do weights.
    assert_close(tmp_path / "1", tmp_path / "2", tolerance=1e-2)
