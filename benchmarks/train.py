"""Training speed: samples per second of each method, where the time goes, and what a guard costs.

    python benchmarks/train.py [--base pocket-sd3] [--repeats 5] [--device auto]

One rollout per method, then the same optimiser step again and again, with the guard and without in turn, so that both
see the same data and the same machine. The guard's cost is measured where the reference forward is paid already (the
base method has a reference KL, or is DPO) and where it is not.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from nbench.normguard.checkpoint import TrainingFolder
from nbench.normguard.config_file import make_config
from nbench.normguard.tally import Tally
from nbench.normguard.trainer import Quiet, Trainer

METHODS: dict[str, dict[str, Any]] = {
    "nft": {"name": "nft"},
    "awm": {"name": "awm"},
    "dpo": {"name": "dpo"},
    "grpo": {"name": "grpo"},
}


def build(
    method: str, base: str, device: str, batch: int, folder: Path, *, kl: bool, guidance: float | None
) -> Trainer:
    guards: list[dict[str, Any]] = [{"name": "norm_hinge", "weight": 0.1}]
    if kl:
        guards.append({"name": "reference_kl", "weight": 1e-4})
    config = make_config(
        {
            "name": f"bench-{method}",
            "model": {"base": base, "device": device, "guidance": guidance},
            "method": METHODS[method],
            "guards": guards,
            "rewards": [{"scorer": "image-stats", "metric": "saturation"}],
            "prompts": {"set": "pocket", "holdout": 8},
            "rollout": {"prompts": 8, "group_size": 8, "steps": 8, "batch_size": batch},
            "times": {"count": 4},
            "optim": {"epochs": 1, "batch_size": batch, "learning_rate": 1e-5},
        }
    )
    accelerator = Accelerator(cpu=device == "cpu" or not torch.cuda.is_available())
    return Trainer(config, TrainingFolder(folder), accelerator, Quiet(), exact_times=True)


def timed_updates(trainer: Trainer, epoch: Any) -> tuple[float, dict[str, float]]:
    """(seconds of one optimiser step, seconds by section)."""
    trainer.watch.seconds.clear()
    started = time.perf_counter()
    trainer.updates(epoch, Tally())
    return time.perf_counter() - started, dict(trainer.watch.seconds)


def measure(trainer: Trainer, repeats: int) -> dict[str, float]:
    """Medians over `repeats` steps with the guard and as many without, in turn."""
    started = time.perf_counter()
    epoch, facts = trainer.collect()
    rollout = time.perf_counter() - started
    guard = trainer.guards[0]
    timed_updates(trainer, epoch)  # warm up
    pairs, seconds, forwards = [], [], []
    for i in range(repeats):
        found = {}
        for weight in (0.1, None) if i % 2 else (None, 0.1):
            kept = trainer.guards
            if weight is None:
                trainer.guards = kept[1:]
            else:
                guard.weight = weight
            found[weight], sections = timed_updates(trainer, epoch)
            trainer.guards = kept
            if weight is None:
                seconds.append(found[weight])
                paid = sum(value for name, value in sections.items() if name.startswith("forward_"))
                forwards.append(paid / found[weight])
        pairs.append(found[0.1] / found[None] - 1)
    rows = len(trainer.method.units(epoch)) * trainer.method.rows_per_unit * trainer.config.times.count
    return {
        "rollout": facts["samples"] / rollout,
        "update": rows / statistics.median(seconds),
        "forwards": statistics.median(forwards),
        "guard": statistics.median(pairs),
        "spread": (max(pairs) - min(pairs)) / 2,
    }


def memory(trainer: Trainer) -> str:
    """Peak so far, and the weights that are held."""
    weights = {p.data_ptr(): p.numel() * p.element_size() for p in trainer.policy.model.transformer.parameters()}
    trained = sum(p.numel() * p.element_size() for p in trainer.policy.tensors("policy").values())
    roles = len(trainer.policy.roles)
    base = sum(weights.values()) - roles * trained
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    where = "process"
    if torch.cuda.is_available() and trainer.device.type == "cuda":
        peak, where = torch.cuda.max_memory_allocated() / 2**20, "GPU"
    return (
        f"peak {where} memory {peak:.0f} MiB; transformer held once, {base / 2**20:.1f} MiB; "
        f"{roles} adapters of {trained / 2**20:.1f} MiB; the reference adds none"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="pocket-sd3")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--methods", default=",".join(METHODS))
    args = parser.parse_args()
    console = Console(width=120)
    table = Table(
        "method",
        "reference forward",
        "rollout samples/s",
        "update rows/s",
        "in forwards",
        "guard adds",
        title=f"{args.base}, threads: {torch.get_num_threads()}, batches of {args.batch}",
        title_justify="left",
    )
    notes = []
    for method in args.methods.split(","):
        for kl in (False, True):
            if method == "dpo" and kl:
                continue  # DPO pays for the reference anyway
            with tempfile.TemporaryDirectory() as folder:
                trainer = build(method, args.base, args.device, args.batch, Path(folder), kl=kl, guidance=args.guidance)
                found = measure(trainer, args.repeats)
                paid = "paid" if kl or method == "dpo" else "not paid"
                table.add_row(
                    method,
                    paid,
                    f"{found['rollout']:.1f}",
                    f"{found['update']:.1f}",
                    f"{found['forwards']:.0%}",
                    f"{found['guard']:+.1%} (± {found['spread']:.1%})",
                )
                notes = [memory(trainer)]
    console.print(table)
    console.print(
        "rows: a picture at one time, or one step of a trajectory. guard adds: norm_hinge with the reference KL in the "
        "base loss (paid) or without (not paid: the reference forward comes with the guard), median of pairs and half "
        "their range."
    )
    for note in notes:
        console.print(note)


if __name__ == "__main__":
    main()
