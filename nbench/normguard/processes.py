"""The processes of a training: accelerate's device, precision and collectives, and whether they share the weights."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nbench.errors import UsageError
from nbench.flow.load import pick_device
from nbench.normguard.config import TrainConfig
from nbench.normguard.sharding import shard, sharding_from_environment


def make_accelerator(config: TrainConfig, out: Path) -> Any:
    """Accelerate's Accelerator for a training.

    Raises:
        UsageError: it cannot be had as the config, or the launcher, wants it.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedType, InitProcessGroupKwargs, is_tensorboard_available

    if config.tensorboard and not is_tensorboard_available():
        raise UsageError("tensorboard is not installed: pip install tensorboard, or set tensorboard to false.")
    sharding = sharding_from_environment()
    device = config.model.device
    try:
        accelerator = Accelerator(
            cpu=device == "cpu" or (device == "auto" and pick_device("auto").type == "cpu"),
            mixed_precision=config.optim.mixed_precision,
            log_with="tensorboard" if config.tensorboard else None,
            project_dir=str(out),
            fsdp_plugin=None if sharding is None else sharding.plugin,
            # The other processes wait while the first one evaluates.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],
        )
    except ValueError as error:  # its state lives as long as the process
        raise UsageError(
            f"accelerate refuses to start ({' '.join(str(error).split())[:160]}): an earlier training of this process "
            "had other settings; use one process for each."
        ) from error
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise UsageError(
            f"{accelerator.distributed_type.value} is not supported: start with torchrun, accelerate launch "
            "--multi_gpu, or accelerate launch --use_fsdp --fsdp_version 2, which shards the weights."
        )
    if device != "auto":
        wanted, given = pick_device(device), accelerator.device
        if wanted.type != given.type or wanted.index not in (None, given.index or 0):
            raise UsageError(
                f"model.device is {device}, but this process trains on {given}: leave it at auto, and choose GPUs by "
                "CUDA_VISIBLE_DEVICES."
            )
    return accelerator


class Processes:
    """This process among those that train together.

    Attributes:
        accelerator: accelerate's.
        device: where this process computes.
        count: how many there are.
        index: of this one.
        main: whether this one writes and reports.
        sharded: whether each holds only its part of the weights, so that all must make the same forwards.
    """

    def __init__(self, accelerator: Any) -> None:
        """Look at `accelerator`, and at what the launcher says of sharding.

        Raises:
            UsageError: the launcher asks for a kind of sharding that is not supported.
        """
        self.accelerator = accelerator
        self.device = torch.device(accelerator.device)
        self.count: int = accelerator.num_processes
        self.index: int = accelerator.process_index
        self.main: bool = accelerator.is_main_process
        sharding = sharding_from_environment() if self.count > 1 else None
        self.sharded = sharding is not None
        self._blocks = None if sharding is None else sharding.blocks
        self._mesh: Any = None

    def shard(self, module: nn.Module, ignored: Collection[nn.Parameter] = ()) -> None:
        """Leave this process its part of a transformer; see `nbench.normguard.sharding.shard`."""
        if self._mesh is None:
            from torch.distributed.device_mesh import init_device_mesh

            self._mesh = init_device_mesh(self.device.type, (self.count,))
        shard(module, self._mesh, blocks=self._blocks, ignored=ignored)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes, on all of them."""
        if self.count == 1:
            return tensor
        summed: Tensor = self.accelerator.reduce(tensor, reduction="sum")
        return summed

    def gather(self, rows: list[Any]) -> list[Any]:
        """The rows of all processes, on all of them."""
        if self.count == 1:
            return rows
        from accelerate.utils import gather_object

        found: list[Any] = gather_object(rows)
        return found

    def from_main(self, number: int) -> int:
        """What the main process says; it is the same on all."""
        if self.count == 1:
            return number
        said = torch.tensor([number], device=self.device)
        torch.distributed.broadcast(said, src=0)
        return int(said)

    def wait(self) -> None:
        """Until all processes have come here."""
        self.accelerator.wait_for_everyone()
