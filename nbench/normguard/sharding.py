"""FSDP: transformers of which every process holds its part, gathered block by block while they run.

`accelerate launch --use_fsdp --fsdp_version 2` asks for it, through the environment; torch's `fully_shard` does it.
With LoRA the frozen base is sharded, and the adapters, which are small, stay whole on every process. With full tuning
the policy and the copies of the other roles are sharded, and with them gradients and moments (as `DTensor`s).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nbench.errors import UsageError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from nbench.flow.family import DiffusersFlowModel


@dataclass(frozen=True)
class Sharding:
    """What the launcher asks for.

    Attributes:
        plugin: accelerate's `FullyShardedDataParallelPlugin`.
        blocks: class names of the modules that are gathered one at a time; None: those that the transformer names.
    """

    plugin: Any
    blocks: tuple[str, ...] | None


def sharding_from_environment() -> Sharding | None:
    """What `accelerate launch` put into the environment; None where it does not ask for FSDP.

    Afterwards transformers loads text encoders and scorers whole on every process: its own way with FSDP is to leave
    them empty on all but the first, for accelerate to fill.

    Raises:
        UsageError: it asks for something that is not supported; each such setting is named.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() not in ("true", "1"):
        return None
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UsageError(
            "only version 2 of FSDP is supported: start with accelerate launch --use_fsdp --fsdp_version 2."
        )
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import CPUOffloadPolicy

    try:
        plugin = FullyShardedDataParallelPlugin(cpu_ram_efficient_loading=False)
    except (ValueError, ImportError, KeyError) as error:
        raise UsageError(f"accelerate refuses the FSDP settings: {' '.join(str(error).split())[:200]}") from error
    wrong = {
        "fsdp_offload_params": isinstance(plugin.cpu_offload, CPUOffloadPolicy),
        "fsdp_reshard_after_forward false": plugin.reshard_after_forward is False,
        "fsdp_activation_checkpointing (set model.gradient_checkpointing)": plugin.activation_checkpointing,
        "fsdp_auto_wrap_policy SIZE_BASED_WRAP": os.environ.get("FSDP_AUTO_WRAP_POLICY", "").upper()
        == "SIZE_BASED_WRAP",
        "fsdp_ignored_modules": plugin.ignored_modules is not None,
    }
    found = [name for name, is_set in wrong.items() if is_set]
    if found:
        raise UsageError(f"not supported with FSDP: {', '.join(found)}. Leave it out.")
    names = plugin.transformer_cls_names_to_wrap
    return Sharding(plugin, None if names is None else tuple(name.strip() for name in names))


def shard(
    module: nn.Module,
    mesh: DeviceMesh,
    *,
    blocks: Collection[str] | None = None,
    ignored: Collection[nn.Parameter] = (),
) -> None:
    """Leave this process its part of a module's parameters, on the mesh's device.

    Gradients, where there are any, are summed over processes, not averaged. Each forward and each backward of the
    module is from now on a collective: all processes must come to it, in the same order.

    Args:
        module: a transformer; its class is changed in place.
        mesh: of all processes, one dimension.
        blocks: class names of the modules that are gathered one at a time; None: those that the module names.
        ignored: parameters that are neither sharded nor moved.

    Raises:
        UsageError: no module of the transformer has such a class, or it names none.
    """
    from torch.distributed.fsdp import fully_shard

    names = tuple(getattr(module, "_no_split_modules", None) or ()) if blocks is None else tuple(blocks)
    kind = type(module).__name__
    parts = [part for part in module.modules() if type(part).__name__ in names]
    # A model may name classes that this one has none of; a user should not.
    missing = [name for name in blocks or () if not any(type(part).__name__ == name for part in parts)]
    if missing or not parts:
        reason = f"it has no {missing[0]}" if missing else "it does not say what its blocks are"
        raise UsageError(
            f"the {kind} cannot be sharded, since {reason}: name the class of its blocks by --fsdp_auto_wrap_policy "
            "TRANSFORMER_BASED_WRAP and --fsdp_transformer_layer_cls_to_wrap."
        )
    for part in (*reversed(parts), module):  # from the inside out
        sharded = fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=set(ignored))
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # else gloo cannot divide by 1


def settle(model: DiffusersFlowModel, device: torch.device) -> None:
    """Move what is not sharded of a model that was loaded on the CPU; text encoders move when they encode."""
    model.device = device
    for name, part in model.pipeline.components.items():
        if part is model.pipeline.transformer:
            for layer in part.modules():  # the adapters' own
                weights = list(layer.parameters(recurse=False))
                if weights and not any(is_sharded(weight) for weight in weights):
                    layer.to(device)
        elif isinstance(part, nn.Module) and not name.startswith("text_encoder"):
            part.to(device)


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds only a part of a tensor."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; a collective where it is sharded."""
    if not is_sharded(tensor):
        return tensor
    full: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return full


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor."""
    if not is_sharded(tensor):
        return tensor
    part: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part


def placed_as(tensor: Tensor, value: Tensor) -> Tensor:
    """A whole `value`, which every process has, held as `tensor` is; no communication."""
    if not is_sharded(tensor):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    held: Tensor = distribute_tensor(value.to(mesh.device_type), mesh, placements, src_data_rank=None)
    return held


def whole_state(module: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """Parameters and buffers of a module, whole, on the CPU; a collective where they are sharded.

    Args:
        module: a transformer.
        keep: whether this process wants them; the others get an empty dictionary.
    """
    return kept(module.state_dict(), keep=keep)


def kept(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Copies of tensors, whole, on the CPU, gathered one by one; empty where this process does not want them."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if keep:
            found[name] = full.cpu().clone().contiguous()
    return found
