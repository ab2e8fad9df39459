"""Scoring speed: pictures per second of each scorer against the loop that its reference's read-me shows, and memory.

    python benchmarks/score.py [--scorers pocket-clip,pocket-diversity,...] [--pictures 16] [--size 512] [--rounds 3]

    nbench   as a run does it: PNG files decoded once, 32 pictures per call, each prompt encoded once
    loop     the reference usage of benchmarks/score_loops.py: one file, one prompt, one forward (for a set: one pair)

A scorer whose reference does not run here is compared with itself, one picture per call and forward (*). "a+b" scores
the same decoded pictures with several scorers, and the loops one after the other. Each contender has a process of its
own, whose peak memory is reported (libraries included, some 400 MiB); fresh pictures and prompts each round, so that
nothing is remembered; one warm-up; medians. Full-size networks get random weights in their published files:
speed and memory are real, values are not, yet both contenders must agree on them ("differ": largest difference /
max(1, size)).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

POCKET = "image-stats,pocket-clip,pocket-aesthetic,pocket-realism,pocket-diversity"
SEEDS = 4  # pictures of a prompt


def published(name: str, root: Path) -> None:
    """Write the weights of a full-size scorer, in their published files, where they are not yet under `root`."""
    from nbench.testing import (
        clip_layout,
        clip_weights,
        published_diversity,
        published_hpsv3,
        published_imagereward,
        published_realism,
    )

    def made(folder: str, make: Callable[[Path], Any]) -> None:
        if not (root / folder).exists():
            print(f"making random weights of {folder} ...", file=sys.stderr, flush=True)
            make(root / folder)

    if name in ("clipscore-l14", "aesthetic-laion-v2", "diversity-clip-l14"):
        made("openai/clip-vit-large-patch14", lambda path: clip_weights.clip_folder(path, clip_layout.CLIP_L14))
    if name == "aesthetic-laion-v2":
        file = "sac+logos+ava1-l14-linearMSE.pth"
        made(
            "christophschuhmann/improved-aesthetic-predictor",
            lambda path: clip_weights.aesthetic_head(path / file, clip_layout.CLIP_L14.joint),
        )
    if name == "pickscore-v1":
        sizes = clip_layout.CLIP_H14
        made("yuvalkirstain/PickScore_v1", lambda path: clip_weights.clip_folder(path, sizes))
        made("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", lambda path: clip_weights.processor_folder(path, sizes))
    for version, file in (("hpsv2.0", "HPS_v2_compressed.pt"), ("hpsv2.1", "HPS_v2.1_compressed.pt")):
        if name == version:
            made(f"xswu/HPSv2/{file}", lambda path: clip_weights.open_clip_checkpoint(path, clip_layout.CLIP_H14))
    if name == "diversity-dinov2":
        made(published_diversity.DINOV2, lambda _: published_diversity.published_dinov2(root, published_diversity.FULL))
    if name == "diversity-lpips":
        made(published_diversity.ALEXNET, lambda _: published_diversity.published_alexnet(root))
    if name == "commfor-384":
        made(published_realism.COMMFOR, lambda _: published_realism.commfor_folder(root))
    if name == "omniaid-v2-clip":
        full = published_realism.OMNIAID_FULL
        made(published_realism.OMNIAID, lambda _: published_realism.omniaid_folder(root, full))
    if name == "imagereward-v1":
        size = published_imagereward.FULL
        made(published_imagereward.MODEL, lambda _: published_imagereward.published_imagereward(root, size))
    if name == "hpsv3":
        made(published_hpsv3.MODEL, lambda _: published_hpsv3.published_hpsv3(root, published_hpsv3.FULL))


def get(name: str, device: str) -> Any:
    """The scorer; LPIPS without the check that its AlexNet is the published one, which random weights cannot pass."""
    from nbench.scoring.registry import get_any_scorer

    if name == "diversity-lpips":
        from nbench.scoring import diversity
        from nbench.scoring.lpips import ALEXNET, Lpips
        from nbench.scoring.weights import Source

        source = Source(ALEXNET.repo, None, ALEXNET.files, ALEXNET.url)
        return diversity.LpipsDiversity(diversity.LPIPS, Lpips(device, source))
    return get_any_scorer(name, device)


def draw(folder: Path, names: Sequence[str], pictures: int, size: int, rounds: int) -> None:
    """Pictures and prompts of the warm-up and of each round: FOLDER/ROUND/NNN.png and FOLDER/ROUND/prompts.json."""
    from nbench.pocket.scenes import sample_scenes
    from nbench.prompts import load_prompt_set

    scenes = [image for image, _ in sample_scenes()]
    texts = [prompt.text for prompt in load_prompt_set("pocket").prompts]
    written = any(name.startswith(("ocr-", "vqa")) for name in names)
    for turn in range(rounds + 1):
        (folder / str(turn)).mkdir(parents=True)
        prompts = []
        for i in range(pictures if turn else SEEDS):
            dice = np.random.default_rng([turn, i])
            image = scenes[i % len(scenes)].resize((size, size), Image.Resampling.BICUBIC)
            noisy = np.asarray(image, np.float64) + dice.normal(0, 2, (size, size, 3))
            image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
            prompt = texts[(turn * pictures + i // SEEDS) % len(texts)]
            if written:
                sign = f"ROOM {100 * turn + i // SEEDS}"
                ImageDraw.Draw(image).text((size // 8, size // 3), sign, fill=(0, 0, 0), font_size=size // 10)
                prompt = f'{prompt}, with the text "{sign}"'
            image.save(folder / str(turn) / f"{i:04d}.png")
            prompts.append(prompt)
        (folder / str(turn) / "prompts.json").write_text(json.dumps(prompts))


def read(folder: Path) -> tuple[list[Path], list[str]]:
    return sorted(folder.glob("*.png")), json.loads((folder / "prompts.json").read_text())


def sets_of(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + SEEDS] for start in range(0, len(items), SEEDS)]


def first(score: Any) -> float:
    """A score's first number; nan for a reason."""
    return float("nan") if score.values is None else next(iter(score.values.values()))


def as_a_run(names: Sequence[str], device: str) -> Callable[[Path], list[float]]:
    from nbench.runs.plan import SCORE_BATCH
    from nbench.scoring.sets import SetScorer

    scorers = [get(name, device) for name in names]

    def work(folder: Path) -> list[float]:
        found: list[list[float]] = [[] for _ in scorers]
        files, prompts = read(folder)
        for start in range(0, len(files), SCORE_BATCH):
            images = [Image.open(path).convert("RGB") for path in files[start : start + SCORE_BATCH]]
            for scorer, values in zip(scorers, found, strict=True):
                if isinstance(scorer, SetScorer):
                    values += [first(scorer.score_set(one)) for one in sets_of(images)]
                else:
                    values += map(first, scorer.score(images, prompts[start : start + SCORE_BATCH]))
        return [value for values in found for value in values]

    return work


def as_a_loop(names: Sequence[str], device: str) -> Callable[[Path], list[float]]:
    from score_loops import LOOPS, SET_LOOPS, opened

    root = Path(os.environ["NBENCH_WEIGHTS"])

    def loop(name: str) -> Callable[[Path], list[float]]:
        if name in SET_LOOPS:
            whole = SET_LOOPS[name](root, device)
            return lambda folder: [whole(part) for part in sets_of(read(folder)[0])]
        if name in LOOPS:
            one = LOOPS[name](root, device)
        else:
            scorer = get(name, device)
            if hasattr(scorer, "rows_per_forward"):
                scorer.rows_per_forward = 1

            def one(path: Path, prompt: str) -> float:
                return first(scorer.score([opened(path)], [prompt])[0])

        return lambda folder: [one(path, prompt) for path, prompt in zip(*read(folder), strict=True)]

    loops = [loop(name) for name in names]
    return lambda folder: [value for work in loops for value in work(folder)]


def contend(kind: str, names: Sequence[str], folder: Path, rounds: int, device: str, clock: str) -> None:
    """Run in a process of its own; prints one line of JSON."""
    import torch

    import nbench  # noqa: F401  before torchvision, which a CPU build of torch needs

    began = time.perf_counter()
    work = (as_a_run if kind == "nbench" else as_a_loop)(names, device)
    work(folder / "0")
    load = time.perf_counter() - began
    now = time.process_time if clock == "cpu" else time.perf_counter
    seconds, values = [], []
    for turn in range(1, rounds + 1):
        began = now()
        values.append(work(folder / str(turn)))
        seconds.append(now() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.device(device).type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"load": load, "seconds": seconds, "values": values[0], "peak": peak}))


def run(kind: str, name: str, folder: Path, args: argparse.Namespace, root: Path) -> dict[str, Any]:
    print(f"{name}: {kind} ...", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--contender", kind, "--scorers", name, "--inputs", str(folder)]
    command += ["--rounds", str(args.rounds), "--device", args.device, "--clock", args.clock]
    environment = {
        **os.environ,
        "NBENCH_WEIGHTS": str(root),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def compare(name: str, args: argparse.Namespace, root: Path) -> list[str]:
    """One row of the table."""
    from score_loops import LOOPS, SET_LOOPS

    names = name.split("+")
    size = 64 if name.startswith("pocket") and args.size is None else args.size or 512
    for one in names:
        published(one, root)
    with tempfile.TemporaryDirectory() as inputs:
        draw(Path(inputs), names, args.pictures, size, args.rounds)
        ours, theirs = (run(kind, name, Path(inputs), args, root) for kind in ("nbench", "loop"))
    speeds = [args.pictures / statistics.median(found["seconds"]) for found in (ours, theirs)]
    a, b = (np.array(found["values"], np.float64) for found in (ours, theirs))
    differ = float(np.nanmax(np.abs(a - b) / np.maximum(1, np.abs(b)), initial=0.0))
    known = all(one in LOOPS or one in SET_LOOPS for one in names)
    return [
        name.replace("+", "\n+ "),
        str(size),
        *(f"{speed:.3g}" for speed in speeds),
        f"{speeds[0] / speeds[1]:.2f}x" + ("" if known else " *"),
        f"{differ:.1e}",
        *(f"{found['peak'] / 2**20:.0f}" for found in (ours, theirs)),
        *(f"{found['load']:.1f}" for found in (ours, theirs)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorers", default=POCKET, help="names; a+b for several on the same pictures")
    parser.add_argument("--pictures", type=int, default=16, help=f"of a round, {SEEDS} of each prompt")
    parser.add_argument("--size", type=int, help="pixels a side; 64 for pocket scorers and else 512 when not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine with other work")
    parser.add_argument("--weights", type=Path, help="folder for random weights, kept; a temporary one when not given")
    parser.add_argument("--contender", choices=("nbench", "loop"), help=argparse.SUPPRESS)
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        contend(args.contender, args.scorers.split("+"), args.inputs, args.rounds, args.device, args.clock)
        return

    import torch
    from rich import box
    from rich.console import Console
    from rich.table import Table

    import nbench  # noqa: F401

    table = Table(
        title=f"{args.pictures} pictures a round, {SEEDS} of each prompt, median of {args.rounds} rounds",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    headings = ("size", "nbench\npictures/s", "loop\npictures/s", "nbench\n/ loop", "differ")
    for heading in ("scorer", *headings, "peak MiB\nnbench", "peak MiB\nloop", "load s\nnbench", "load s\nloop"):
        table.add_column(heading, justify="left" if heading == "scorer" else "right", no_wrap=True)
    console = Console(width=120)
    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.scorers.split(","):
            try:
                table.add_row(*compare(name, args, args.weights or Path(temporary)))
            except RuntimeError as error:
                failed.append(f"{name}: {error}")
    threads, busy = torch.get_num_threads(), ", ".join(f"{value:.1f}" for value in os.getloadavg())
    console.print(
        f"torch {torch.__version__}, {threads} threads, {args.device}; {args.clock} time, load average {busy}"
    )
    console.print(table)
    console.print("* against the scorer itself, one picture per call and forward")
    for line in failed:
        console.print(f"not measured: {line}", style="red", highlight=False)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
