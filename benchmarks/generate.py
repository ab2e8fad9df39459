"""Pictures per second: nbench's sweep against the stock diffusers pipeline doing the same pictures.

    python benchmarks/generate.py [--checkpoints pocket-sd3,pocket-flux] [--steps 2,4,8,28] [--prompts 16] [--rounds 5]

Per base, in one process, rounds interleaved, the median of each:

    nbench      encode once, sweep all step counts from one noise (first velocity shared), norms recorded, decode
    diffusers   the pipeline called once per step count, (a) one prompt at a time, (b) in the same batch
    bare        nothing but the velocity calls that nbench's sweep needs, in the same batch

Same prompts, guidance, text length and size. The overhead over bare compares sampling alone (no text, no decoding).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from nbench.flow.load import CheckpointSpec, load_model
from nbench.flow.sample import noise_seed, sweep
from nbench.prompts import load_prompt_set


def clocked(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@torch.no_grad()
def measure(base: str, steps: list[int], prompts: list[str], rounds: int, device: str) -> dict[str, float]:
    model: Any = load_model(CheckpointSpec(name="measured", base=base, device=device))
    pipeline = model.pipeline
    pipeline.set_progress_bar_config(disable=True)
    height, width = model.resolution
    guidance, length = model.default_guidance, model.max_sequence_length
    noise = model.noise([noise_seed(0, text, 0) for text in prompts], height=height, width=width)
    grids = {n: model.sigmas(n, height=height, width=width) for n in steps}
    shared = {
        "guidance_scale": guidance,
        "height": height,
        "width": width,
        "max_sequence_length": length,
        "output_type": "pil",
    }

    def latents_of(rows: slice) -> torch.Tensor:
        rows_of_noise = noise[rows]
        if model.family != "flux":
            return rows_of_noise
        return pipeline._pack_latents(rows_of_noise, *rows_of_noise.shape)

    def nbench_sweep() -> None:
        cond = model.encode(prompts, guidance=guidance)
        for trajectory in sweep(model, cond, noise, grids, guidance=guidance).values():
            pipeline.image_processor.numpy_to_pil(model.decode(trajectory.latents).permute(0, 2, 3, 1).numpy())

    def plain(batches: list[slice]) -> None:
        for n in steps:
            for rows in batches:
                pipeline(prompt=prompts[rows], num_inference_steps=n, latents=latents_of(rows), **shared)

    cond = model.encode(prompts, guidance=guidance)

    def sampling_only() -> None:
        sweep(model, cond, noise, grids, guidance=guidance)

    def bare() -> None:
        model.velocity(noise, grids[steps[0]][0], cond, guidance=guidance)
        for grid in grids.values():
            for sigma in grid[1:-1]:
                model.velocity(noise, sigma, cond, guidance=guidance)

    everyone = [slice(0, len(prompts))]
    contenders: dict[str, Callable[[], None]] = {
        "nbench": nbench_sweep,
        "diffusers, one at a time": lambda: plain([slice(i, i + 1) for i in range(len(prompts))]),
        "diffusers, same batch": lambda: plain(everyone),
        "sampling": sampling_only,
        "bare": bare,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for name in ("nbench", "bare"):
        contenders[name]()  # warm up
    for _ in range(rounds):
        for name, work in contenders.items():
            seconds[name].append(clocked(work))
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", default="pocket-sd3,pocket-flux")
    parser.add_argument("--steps", default="2,4,8,28")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    steps = [int(n) for n in args.steps.split(",")]
    prompts = [prompt.text for prompt in load_prompt_set("pocket", limit=args.prompts).prompts]
    pictures = len(prompts) * len(steps)
    title = f"{pictures} pictures at {args.steps} steps, batch {len(prompts)}, median of {args.rounds} rounds"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("base", no_wrap=True)
    columns = ("nbench\npictures/s", "(a) diffusers\none at a time", "(b) diffusers\nsame batch")
    for column in (*columns, "nbench / (a)", "nbench / (b)", "overhead over\nbare velocity"):
        table.add_column(column, justify="right", no_wrap=True)
    for base in args.checkpoints.split(","):
        t = measure(base, steps, prompts, args.rounds, args.device)
        alone, batched = t["diffusers, one at a time"], t["diffusers, same batch"]
        table.add_row(
            base,
            *(f"{pictures / s:.1f}" for s in (t["nbench"], alone, batched)),
            f"{alone / t['nbench']:.2f}x",
            f"{batched / t['nbench']:.2f}x",
            f"{100 * (t['sampling'] / t['bare'] - 1):+.1f} %",
        )
    console = Console(width=120)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.device}")
    console.print(table)


if __name__ == "__main__":
    main()
