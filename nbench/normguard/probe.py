"""Calibrating guards: the gradient of a guard that has no weight yet, over one optimiser step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from nbench.normguard.guarding import Guard
from nbench.normguard.policy import Role
from nbench.normguard.processes import Processes
from nbench.normguard.sharding import is_sharded, local


class Probe:
    """Sums up the gradient of one guard's hinge with power 1, beside the base loss's.

    Args:
        trained: the policy's weights.
        processes: all of them; where weights are sharded, each must take in as many batches.
    """

    def __init__(self, trained: Mapping[str, nn.Parameter], processes: Processes) -> None:
        self._trained = list(trained.values())
        self._processes = processes
        self._sums = [torch.zeros_like(tensor) for tensor in self._trained]
        self._active = 0.0
        self._norm = 0.0

    def add(self, guard: Guard, v: Mapping[Role, Tensor], rows: int) -> None:
        """Take in one batch; its graph stays for the base loss."""
        linear = guard.linear(v)
        active = linear.detach() > 0
        if bool(active.any()):
            self._active += float(active.sum())
            self._norm += float(guard.reference_norm(v)[active].double().sum())
        elif not self._processes.sharded:
            return
        self.take(linear.sum() / rows)

    def take(self, value: Tensor) -> None:
        """Add the gradient of a scalar; the graph stays."""
        for total, grad in zip(self._sums, self._gradients(value), strict=True):
            if grad is not None:
                total += grad

    def _gradients(self, value: Tensor) -> list[Tensor | None]:
        if not is_sharded(self._trained[0]):
            return list(torch.autograd.grad(value, self._trained, retain_graph=True, allow_unused=True))
        # Forwards run on gathered weights, which the graph knows; a sharded gradient comes out of a backward only.
        kept = [tensor.grad for tensor in self._trained]
        for tensor in self._trained:
            tensor.grad = None
        value.backward(retain_graph=True)
        found = [tensor.grad for tensor in self._trained]
        for tensor, grad in zip(self._trained, kept, strict=True):
            tensor.grad = grad
        return found

    def calibrate(self, guard: Guard) -> float | None:
        """Set the guard's weight at the first step where it is active; it counts from the next step on.

        The trained weights' gradients must be the base loss's, summed over processes.

        Returns:
            The weight; None where there is nothing yet to set it by.
        """
        processes = self._processes
        if not is_sharded(self._trained[0]):
            self._sums = _summed(self._sums, processes)
        norm = total_norm(self._sums, processes)
        if not norm:
            return None
        counts = torch.tensor([self._active, self._norm], dtype=torch.float64, device=processes.device)
        active, reference = processes.sum(counts)
        base = total_norm([tensor.grad for tensor in self._trained if tensor.grad is not None], processes)
        if not base:
            return None  # a weight of 0 would switch the guard off for good
        return guard.calibrate(base, norm, float(reference / active))


def sum_gradients(trained: Iterable[nn.Parameter], processes: Processes) -> None:
    """Sum gradients over processes in place; those of sharded weights are summed already, by their backward."""
    grads = [tensor.grad for tensor in trained if tensor.grad is not None and not is_sharded(tensor)]
    if processes.count == 1 or not grads:
        return
    for grad, part in zip(grads, _summed(grads, processes), strict=True):
        grad.copy_(part)


def total_norm(tensors: list[Tensor], processes: Processes) -> float:
    """Euclidean norm of all tensors together; a collective where they are sharded."""
    norm = torch.cat([local(tensor).flatten() for tensor in tensors]).norm()
    if is_sharded(tensors[0]):
        norm = processes.sum(norm.double().square()).sqrt()
    return float(norm)


def _summed(tensors: list[Tensor], processes: Processes) -> list[Tensor]:
    """Over processes, in one collective."""
    flat = processes.sum(torch.cat([tensor.flatten() for tensor in tensors]))
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
