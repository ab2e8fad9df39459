"""What every pocket recipe shares: resumable state, a JSONL log, an average of the weights."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Ema(Generic[ModuleT]):
    """Exponential moving average of a module's parameters, with the usual warm-up of the decay."""

    def __init__(self, module: ModuleT, decay: float = 0.999) -> None:
        self.module: ModuleT = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: ModuleT, step: int) -> None:
        """Move towards the weights that `module` has after `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average: list[torch.Tensor] = list(self.module.parameters())
        current: list[torch.Tensor] = [p.detach() for p in module.parameters()]
        torch._foreach_mul_(average, decay)
        torch._foreach_add_(average, current, alpha=1 - decay)
        for target, source in zip(self.module.buffers(), module.buffers(), strict=True):
            target.copy_(source)


def warmup_decay(step: int, steps: int, *, warmup: int, decay: float = 0.3) -> float:
    """Learning-rate factor in (0, 1]: linear warm-up, constant, and linear to 0 over the last `decay` of `steps`.

    The constant part does not depend on `steps`, so a run may be resumed with another number of them.
    """
    if step < warmup:
        return (step + 1) / warmup
    return min(1.0, (steps - step) / max(1.0, decay * steps))


def train(
    *,
    out: Path,
    steps: int,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer | Optimizers,
    loss_fn: Callable[[int], tuple[torch.Tensor, dict[str, float]]],
    emas: Iterable[tuple[str, Ema[Any]]] = (),
    warmup: int = 50,
    decay: float = 0.3,
    clip: float = 1.0,
    save_every: int = 200,
    log_every: int = 20,
    on_save: Callable[[int], None] | None = None,
) -> None:
    """Run `loss_fn(step)` to `steps`, resuming from `out/state.pt` when it is there.

    `loss_fn` draws everything random from generators seeded by (seed, step), so that a resumed run
    equals a straight one. The log is `out/log.jsonl`, one line every `log_every` steps.
    """
    out.mkdir(parents=True, exist_ok=True)
    state_path = out / "state.pt"
    start, spent = 0, 0.0
    averages = dict(emas)
    if state_path.exists():
        state = torch.load(state_path, map_location="cpu", weights_only=True)
        start, spent = int(state["step"]), float(state["seconds"])
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        for name, ema in averages.items():
            ema.module.load_state_dict(state["emas"][name])
        optimizer.load_state_dict(state["optimizer"])
        print(f"resuming {out} at step {start}", flush=True)
    base_rates = [group.setdefault("base_lr", group["lr"]) for group in optimizer.param_groups]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    began = time.time()

    def save(step: int) -> None:
        state: dict[str, Any] = {
            "step": step,
            "seconds": spent + time.time() - began,
            "modules": {name: module.state_dict() for name, module in modules.items()},
            "emas": {name: ema.module.state_dict() for name, ema in averages.items()},
            "optimizer": optimizer.state_dict(),
        }
        partial = state_path.with_suffix(".tmp")
        torch.save(state, partial)
        partial.replace(state_path)
        if on_save is not None:
            on_save(step)

    for step in range(start, steps):
        factor = warmup_decay(step, steps, warmup=warmup, decay=decay)
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        loss, figures = loss_fn(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        for name, ema in averages.items():
            ema.update(modules[name], step)
        if step % log_every == 0 or step == steps - 1:
            line = {
                "step": step,
                "loss": round(float(loss.detach()), 5),
                "grad": round(float(norm), 4),
                "seconds": round(spent + time.time() - began, 1),
                **{key: round(value, 5) for key, value in figures.items()},
            }
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(line, flush=True)
        if (step + 1) % save_every == 0 or step == steps - 1:
            save(step + 1)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised per weight matrix; convolutions are taken as [out, in * kh * kw].

    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks": Newton-Schulz iteration with
    the quintic (3.4445, -4.7750, 2.0315). It reaches a given loss in several times fewer steps than AdamW on the
    pocket models, which is what makes CPU training feasible. `torch.optim.Muon` takes 2-D parameters only.

    Args:
        params: weights of two or more dimensions.
        lr: spectral size of an update of a square matrix.
        momentum: Nesterov momentum.
        weight_decay: decoupled, times lr.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Apply one update; takes no closure."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, torch.Tensor]]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "buffer" not in state:
                    state["buffer"] = torch.zeros_like(p)
                buffer = state["buffer"].mul_(group["momentum"]).add_(p.grad)
                update = p.grad.add(buffer, alpha=group["momentum"]).reshape(p.shape[0], -1)
                by_shape.setdefault((update.shape[0], update.shape[1]), []).append((p, update))
            for (rows, columns), entries in by_shape.items():
                stacked = _orthogonalise(torch.stack([update for _, update in entries]))
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for (p, _), update in zip(entries, stacked, strict=True):
                    if group["weight_decay"]:
                        p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update.reshape(p.shape), alpha=-scale)


def _orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Nearest semi-orthogonal matrices, roughly (singular values land in 0.7-1.2); [n, rows, columns]."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: torch.Tensor = matrices.bfloat16()
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    result: torch.Tensor = (x.mT if tall else x).to(matrices.dtype)
    return result


class Optimizers:
    """Muon for hidden weight matrices, AdamW for everything else, behind one optimizer-like face."""

    def __init__(
        self, muon: Iterable[nn.Parameter], rest: Iterable[nn.Parameter], *, muon_lr: float, lr: float
    ) -> None:
        self.parts: list[torch.optim.Optimizer] = [
            Muon(muon, lr=muon_lr),
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.0),
        ]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """All groups, Muon's first."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """Update all parameters."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """State of both optimizers."""
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])
