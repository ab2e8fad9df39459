"""Two processes with gloo on a CPU train to the weights of one, within float rounding; and what they refuse.

Processes are forked, so that they import nothing again; one test goes through `accelerate launch`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from train_fakes import fake_training, log_without_times, train_config, trained_state

from nbench.errors import UsageError
from nbench.normguard.prompting import training_prompts

#: Of a weight's distance between one process and two, over how far training moved it. Rollouts of a process are batches
#: of their own, so that pictures, rewards and gradients differ by float rounding, and AdamW divides by its size. The
#: measured figures are below 4e-5.
TOLERANCE = 1e-4

VARIANTS: dict[str, dict[str, Any]] = {
    "nft": {"guards": [{"name": "symmetric_norm", "calibrate": {"gradient_ratio": 0.3}}]},
    "awm": {"method": {"name": "awm", "anchor_weight": 1.0}, "optim__updates_per_epoch": 2},
    "dpo": {"guards": [{"name": "norm_hinge", "weight": 0.1}]},
    "grpo": {"guards": [{"name": "ratio_norm"}], "optim__updates_per_epoch": 2},
}


pytestmark = pytest.mark.usefixtures("quick_trainings")


def config(base: Path, variant: str, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "method": variant,
        "rollout__prompts": 3,  # two for one process, one for the other
        # Adam divides by the root of the second moment: where that is rounding noise, so is the step.
        "optim__eps": 1e-4,
        "optim__learning_rate": 1e-3,
        "optim__epochs": 3,
        "optim__warmup": 0,
    }
    return train_config(base, **{**settings, **VARIANTS[variant], **changes})


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def forked(count: int, work: Callable[[int], None], folder: Path, limit: float = 200.0) -> list[int]:
    """Run `work` in `count` processes that know each other; their exit codes. An error of one is in rank-N.txt."""
    port, children = free_port(), []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            try:
                os.environ.update(
                    {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)},
                    LOCAL_WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
                )  # fmt: skip
                from accelerate.state import AcceleratorState

                AcceleratorState._reset_state(reset_partial_state=True)
                work(rank)
                os._exit(0)
            except SystemExit as end:
                os._exit(int(end.code or 0))
            except BaseException as error:
                (folder / f"rank-{rank}.txt").write_text(f"{type(error).__name__}: {error}")
                os._exit(70)
        children.append(child)
    end, codes = time.monotonic() + limit, dict.fromkeys(children, -1)
    left = set(children)
    while left and time.monotonic() < end:
        for child in list(left):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
                left.discard(child)
        if any(codes[child] not in (-1, 0) for child in children):
            time.sleep(0.5)
            break  # as a launcher does: the others would wait for it
        time.sleep(0.02)
    for child in left:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return list(codes.values())


def said(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("rank-*.txt")))


def assert_close(one: Path, other: Path, tolerance: float = TOLERANCE) -> None:
    (tensors, facts), (others, other_facts) = trained_state(one), trained_state(other)
    assert (facts["epoch"], facts["step"]) == (other_facts["epoch"], other_facts["step"])
    for name, weight in facts["guards"].items():
        assert weight == pytest.approx(other_facts["guards"][name], rel=tolerance)
    assert tensors.keys() == others.keys()
    roles = {name.partition("/")[0] for name in tensors}
    for role in roles:
        names = [name for name in tensors if name.startswith(f"{role}/")]
        flat = torch.cat([tensors[name].flatten() for name in names])
        other_flat = torch.cat([others[name].flatten() for name in names])
        moved = torch.cat([tensors[name].flatten() for name in names if "lora_A" not in name or "exp_avg" in name])
        assert moved.norm() > 0, role
        assert (flat - other_flat).norm() < tolerance * moved.norm(), role


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_two_processes_train_to_the_weights_of_one(variant: str, sd3_folder: Path, tmp_path: Path) -> None:
    settings = config(sd3_folder, variant)
    codes = forked(2, lambda rank: void(fake_training(settings, tmp_path / "two")), tmp_path)
    assert codes == [0, 0], said(tmp_path)
    fake_training(settings, tmp_path / "one")
    assert_close(tmp_path / "one", tmp_path / "two")
    for one, two in zip(log_without_times(tmp_path / "one"), log_without_times(tmp_path / "two"), strict=True):
        for key in ("epoch", "step", "samples", "failed", "units", "updates", "constant_groups"):
            assert one[key] == two[key], key
        assert two["reward"]["mean"] == pytest.approx(one["reward"]["mean"], rel=1e-4)
        assert two["reward"]["terms"] == pytest.approx(one["reward"]["terms"], rel=1e-4)
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3, abs=1e-6)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
        for name in ("loss", "norm_ratio"):
            assert two["stats"][name]["count"] == one["stats"][name]["count"]
        assert two["stats"]["norm_ratio"]["mean"] == pytest.approx(one["stats"]["norm_ratio"]["mean"], rel=1e-5)


def void(result: object) -> None:
    """Nothing, whatever was done."""


def test_two_processes_are_repeatable_and_resume_bit_for_bit(sd3_folder: Path, tmp_path: Path) -> None:
    settings = config(sd3_folder, "nft")
    assert forked(2, lambda rank: void(fake_training(settings, tmp_path / "a")), tmp_path) == [0, 0], said(tmp_path)
    shorter = config(sd3_folder, "nft", optim__epochs=1)
    assert forked(2, lambda rank: void(fake_training(shorter, tmp_path / "b")), tmp_path) == [0, 0], said(tmp_path)
    assert forked(2, lambda rank: void(fake_training(settings, tmp_path / "b")), tmp_path) == [0, 0], said(tmp_path)
    one, other = trained_state(tmp_path / "a"), trained_state(tmp_path / "b")
    assert one[1] == other[1]
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    assert log_without_times(tmp_path / "a") == log_without_times(tmp_path / "b")


def test_an_error_reaches_the_user_and_ends_every_process(sd3_folder: Path, tmp_path: Path) -> None:
    rewards = [{"scorer": "fake-score", "weight": 0.0}]
    settings = config(sd3_folder, "nft", rewards=rewards)
    codes = forked(2, lambda rank: void(fake_training(settings, tmp_path / "out")), tmp_path)
    assert 70 in codes
    assert "UsageError: the reward is the same for all pictures of each prompt" in said(tmp_path)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_more_processes_than_prompts_are_refused(sd3_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="4 processes share 3 prompts per epoch"):
        training_prompts(config(sd3_folder, "nft"), 4)
    training_prompts(config(sd3_folder, "nft"), 3)
    settings = config(sd3_folder, "nft", rollout__prompts=1)
    codes = forked(2, lambda rank: void(fake_training(settings, tmp_path / "out")), tmp_path)
    assert 70 in codes
    assert "2 processes share 1 prompts per epoch" in said(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_launcher_trains_on_two_processes(sd3_folder: Path, tmp_path: Path) -> None:
    """The real launcher and the real command."""
    rewards = [{"scorer": "image-stats", "metric": "saturation"}]
    settings = config(sd3_folder, "nft", rewards=rewards, optim__epochs=2)
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
