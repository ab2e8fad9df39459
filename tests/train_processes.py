"""Trainings on several processes: forked, so that they import nothing again; and what one and two must share."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from train_fakes import fake_training, log_without_times, train_config, trained_state

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

#: what `accelerate launch --use_fsdp --fsdp_version 2` puts into the environment, as far as it matters
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}


#: all weights are tuned, not a LoRA
FULL = {"model__tuning": "full"}


def uneven_config(base: Path, variant: str, **changes: Any) -> Any:
    """A training of three prompts: two for one process, one for the other."""
    settings: dict[str, Any] = {
        "method": variant,
        "rollout__prompts": 3,
        # Adam divides by the root of the second moment: where that is rounding noise, so is the step.
        "optim__eps": 1e-4,
        "optim__learning_rate": 1e-3,
        "optim__epochs": 3,
        "optim__warmup": 0,
    }
    return train_config(base, **{**settings, **VARIANTS[variant], **changes})


def shared_config(base: Path, method: str = "nft", **changes: Any) -> Any:
    """As `uneven_config`, in small batches: one process has two where the other has one, in rollouts and updates."""
    return uneven_config(base, method, **{"rollout__batch_size": 2, "optim__batch_size": 2, **changes})


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def forked(
    count: int,
    work: Callable[[int], None],
    folder: Path,
    limit: float = 200.0,
    environment: Mapping[str, str] | None = None,
) -> list[int]:
    """Run `work` in `count` processes that know each other; their exit codes. An error of one is in rank-N.txt."""
    port, children = free_port(), []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            try:
                os.environ.update(
                    {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), **(environment or {})},
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


def train_shared(settings: Any, out: Path, folder: Path, **options: Any) -> None:
    """Train on two processes, each with its part of the weights; `folder` takes their errors."""
    codes = forked(2, lambda rank: void(fake_training(settings, out, **options)), folder, environment=FSDP)
    assert codes == [0, 0], said(folder)


def said(folder: Path) -> str:
    """Errors of `forked` processes."""
    return "\n".join(path.read_text() for path in sorted(folder.glob("rank-*.txt")))


def void(result: object) -> None:
    """Nothing, whatever was done."""


def assert_close(one: Path, other: Path, tolerance: float = TOLERANCE) -> None:
    """Both trainings ended with the same weights and moments, but for rounding."""
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


def assert_close_logs(one: Path, other: Path) -> None:
    """Both trainings say the same of every epoch, but for rounding."""
    for line, other_line in zip(log_without_times(one), log_without_times(other), strict=True):
        for key in ("epoch", "step", "samples", "failed", "units", "updates", "constant_groups"):
            assert line[key] == other_line[key], key
        assert other_line["reward"]["mean"] == pytest.approx(line["reward"]["mean"], rel=1e-4)
        assert other_line["reward"]["terms"] == pytest.approx(line["reward"]["terms"], rel=1e-4)
        assert other_line["loss"] == pytest.approx(line["loss"], rel=1e-3, abs=1e-6)
        assert other_line["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-3)
        for name in ("loss", "norm_ratio"):
            assert other_line["stats"][name]["count"] == line["stats"][name]["count"]
        ratio = line["stats"]["norm_ratio"]["mean"]
        assert other_line["stats"]["norm_ratio"]["mean"] == pytest.approx(ratio, rel=1e-5)
