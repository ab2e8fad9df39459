"""Measure a pocket base against what it is for, with the independent probe.

    python -m nbench.pocket.recipes.evaluate pocket-sd3 --work WORK --sheets FOLDER

Object top-1 over all concepts, style, colour and count followed where the prompt names them (with chance), the
distance between seeds of a prompt against real pictures that share the caption, speed, all at several step counts,
and an unselected sheet. The probe has seen real pictures only.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nbench.flow.load import CheckpointSpec, load_model
from nbench.flow.sample import noise_seed, sweep
from nbench.pocket.probe import load_probe
from nbench.pocket.recipes.data import Composer, build_sprites
from nbench.pocket.world import COLOURS, CONCEPTS, COUNTS, STYLES, Scene, caption

STEPS = (2, 4, 8, 28)


@dataclass(frozen=True)
class Case:
    """A prompt and the facts that it names; a fact it does not name is None."""

    prompt: str
    concept: int
    style: int | None = None
    colour: int | None = None
    count: int = 1


def cases(per_concept: int, seed: int = 0) -> list[Case]:
    """`per_concept` prompts of each concept, naming random facts."""
    rng = random.Random(seed)
    found = []
    for concept in range(len(CONCEPTS)):
        for _ in range(per_concept):
            colour = rng.randrange(len(COLOURS))
            scene = Scene(concept, rng.randrange(len(STYLES)), list(COLOURS)[colour], rng.choice(list(COUNTS)), "")
            named_style, named_colour = rng.random() < 0.5, rng.random() < 0.5
            found.append(
                Case(
                    prompt=caption(scene, style=named_style, colour=named_colour),
                    concept=concept,
                    style=scene.style if named_style else None,
                    colour=colour if named_colour else None,
                    count=scene.count,
                )
            )
    return found


def generate(
    spec: CheckpointSpec, prompts: Sequence[str], seeds: Sequence[int], steps: Sequence[int], guidance: float | None
) -> tuple[dict[int, list[Image.Image]], float]:
    """Pictures by step count, and seconds per picture at the largest step count, in batches of 16."""
    model = load_model(spec)
    height, width = model.resolution
    strength = model.default_guidance if guidance is None else guidance
    pictures: dict[int, list[Image.Image]] = {n: [] for n in steps}
    spent = 0.0
    for start in range(0, len(prompts), 16):
        cond = model.encode(prompts[start : start + 16], guidance=strength)
        noise = model.noise(seeds[start : start + 16], height=height, width=width)
        for n in steps:
            began = time.perf_counter()
            grid = {n: model.sigmas(n, height=height, width=width)}
            latents = sweep(model, cond, noise, grid, guidance=strength)[n].latents
            decoded = model.decode(latents)
            spent += (time.perf_counter() - began) if n == max(steps) else 0.0
            arrays = (decoded.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
            pictures[n] += [Image.fromarray(array) for array in arrays]
    return pictures, spent / len(prompts)


def following(images: Sequence[Image.Image], wanted: Sequence[Case]) -> dict[str, float]:
    """Share of pictures in which the probe reads what the prompt named, by fact."""
    read = load_probe().predict(images)
    hits: dict[str, list[bool]] = {"concept": [], "style": [], "colour": [], "count": []}
    for i, case in enumerate(wanted):
        hits["concept"].append(read["concept"][i] == case.concept)
        hits["count"].append(read["count"][i] == case.count)
        if case.style is not None:
            hits["style"].append(read["style"][i] == case.style)
        if case.colour is not None:
            hits["colour"].append(read["colour"][i] == case.colour)
    return {fact: float(np.mean(values)) for fact, values in hits.items()}


def pixel_distance(groups: Sequence[Sequence[Image.Image]]) -> float:
    """Mean over groups of the mean pairwise RMS difference of pixels in [0, 1]."""
    means = []
    for group in groups:
        arrays = [np.asarray(image, np.float32) / 255 for image in group]
        pairs = [(i, j) for i in range(len(arrays)) for j in range(i)]
        means.append(np.mean([np.sqrt(np.mean((arrays[i] - arrays[j]) ** 2)) for i, j in pairs]))
    return float(np.mean(means))


def diversity(spec: CheckpointSpec, work: Path, steps: int, guidance: float | None, seeds: int = 4) -> dict[str, float]:
    """Mean pixel distance between seeds of a prompt, and between real scenes that share its caption."""
    composer = Composer(build_sprites(work), 4242)
    wanted = [composer.scene() for _ in range(48)]
    named = [(composer.rng.random() < 0.5, composer.rng.random() < 0.5) for _ in wanted]
    prompts = [caption(s, style=a, colour=b) for s, (a, b) in zip(wanted, named, strict=True)]
    real = []
    for scene, (style, colour) in zip(wanted, named, strict=True):
        group = []
        for _ in range(seeds):
            variant = Scene(
                scene.concept,
                scene.style if style else composer.rng.randrange(len(STYLES)),
                scene.colour if colour else composer.rng.choice(list(COLOURS)),
                scene.count,
                scene.size,
            )
            group.append(composer.render(variant))
        real.append(group)
    flat = [prompt for prompt in prompts for _ in range(seeds)]
    noise = [noise_seed(1, prompt, i) for prompt in prompts for i in range(seeds)]
    made = generate(spec, flat, noise, [steps], guidance)[0][steps]
    groups = [made[i : i + seeds] for i in range(0, len(made), seeds)]
    return {"seeds": pixel_distance(groups), "real": pixel_distance(real)}


def sheet(images: Sequence[Image.Image], columns: int = 20) -> Image.Image:
    """Pictures side by side, in order."""
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * 66, rows * 66), "white")
    for i, image in enumerate(images):
        page.paste(image, ((i % columns) * 66 + 1, (i // columns) * 66 + 1))
    return page


def measure(
    checkpoint: str,
    *,
    work: Path,
    sheets: Path,
    per_concept: int = 2,
    guidance: float | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """All figures of a base as plain JSON values; unselected sheets by step count go to `sheets`."""
    torch.set_num_threads(threads)
    sheets.mkdir(parents=True, exist_ok=True)
    spec = CheckpointSpec(name="measured", base=checkpoint, device="cpu")
    wanted = cases(per_concept)
    seeds = [noise_seed(0, case.prompt, i) for i, case in enumerate(wanted)]
    pictures, seconds = generate(spec, [case.prompt for case in wanted], seeds, STEPS, guidance)
    for n, images in pictures.items():
        sheet(images[::per_concept]).save(sheets / f"sheet-{n}.png")
    return {
        "prompts": len(wanted),
        "guidance": load_model(spec).default_guidance if guidance is None else guidance,
        "following": {str(n): following(images, wanted) for n, images in pictures.items()},
        "chance": {"concept": 1 / len(CONCEPTS), "style": 1 / 2, "colour": 1 / len(COLOURS), "count": 1 / 3},
        "seconds": seconds,
        "threads": threads,
        "mean_pixel_distance": diversity(spec, work, max(STEPS), guidance),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="pocket-sd3, pocket-flux, or a pipeline folder")
    parser.add_argument("--work", type=Path, required=True, help="folder of source packages, for the real pictures")
    parser.add_argument("--sheets", type=Path, required=True, help="where the sheets go")
    parser.add_argument("--per-concept", type=int, default=2)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    figures = measure(
        args.checkpoint,
        work=args.work,
        sheets=args.sheets,
        per_concept=args.per_concept,
        guidance=args.guidance,
        threads=args.threads,
    )
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
