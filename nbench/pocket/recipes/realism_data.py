"""Pictures that pocket-realism is trained and measured on: composed scenes against what generators drew of them.

    python -m nbench.pocket.recipes.realism_data --work WORK --generator sd3=pocket-sd3 --held-out flux=pocket-flux

Writes WORK/realism/pictures: shards of one batch each, so that a stopped run goes on where it was. Both sides show the
same sort of scene: each shard of a generator holds as many composed scenes of the same facts. Those are *round trips*
through that generator's own autoencoder, with a little noise on the latents, so that the codec is no cue; the scenes as
composed are kept beside them. Concepts of `HELD_OUT_CONCEPTS` appear in no training shard.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from PIL import Image

from nbench.flow.load import load_model
from nbench.flow.model import FlowModel
from nbench.flow.sample import noise_seed, sweep
from nbench.flow.spec import CheckpointSpec, parse_checkpoint
from nbench.pocket.recipes.data import Composer, build_sprites
from nbench.pocket.world import CONCEPTS, Scene, caption

STEPS = (2, 4, 8, 16, 28)
#: how often each step count is drawn for training, and each guidance (where the family takes one)
SHARES = (0.2, 0.25, 0.25, 0.15, 0.15)
GUIDANCES = (1.0, 2.5, 4.5, 7.0)
BATCH = 40
LATENT_NOISE = 0.08  # greatest standard deviation on the latents of a round trip, which are white

_rng = random.Random(20)
HELD_OUT_CONCEPTS: frozenset[int] = frozenset(_rng.sample(range(len(CONCEPTS)), 24))

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """Generated pictures and their composed counterparts, row by row.

    Attributes:
        fake: what the generator drew, uint8 [n, 64, 64, 3].
        real: a composed scene of the same facts after the autoencoder, likewise.
        raw: the same scene as composed, likewise.
        concept: index into CONCEPTS, [n].
        steps: step count of the fake, [n].
        guidance: of the fake, [n].
    """

    fake: Bytes
    real: Bytes
    raw: Bytes
    concept: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    guidance: npt.NDArray[np.float64]

    def where(self, chosen: npt.NDArray[np.bool_]) -> Pictures:
        """The rows that a mask chooses."""
        return Pictures(**{name: getattr(self, name)[chosen] for name in _COLUMNS})


_COLUMNS = tuple(Pictures.__dataclass_fields__)


def shards(folder: Path, generator: str, split: str) -> list[Path]:
    """The shards of a generator and split (`train`, `test`, `test-new`), in order."""
    return sorted(folder.glob(f"{generator}--{split}--*.npz"))


def read(paths: Sequence[Path]) -> Pictures:
    """All pictures of some shards."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
    for path in paths:
        with np.load(path) as stored:
            for name in _COLUMNS:
                parts[name].append(stored[name])
    return Pictures(**{name: np.concatenate(rows) for name, rows in parts.items()})


def make(
    folder: Path, spec: CheckpointSpec, plan: Sequence[tuple[str, int, float]], composer: Composer, *, seed: int
) -> None:
    """Write the shards of one generator that are not there yet.

    Args:
        folder: where shards are.
        spec: the generator; its name is in the file names.
        plan: split, step count and guidance of each shard.
        composer: of the scenes; it is seeded anew for each shard.
        seed: of scenes and noise.
    """
    names = [f"{spec.name}--{split}--{i:04d}.npz" for i, (split, _, _) in enumerate(plan)]
    missing = [i for i, name in enumerate(names) if not (folder / name).exists()]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    model = load_model(spec)
    vae: AutoencoderKL = model.pipeline.vae  # type: ignore[attr-defined]
    began = time.time()
    for done, i in enumerate(missing):
        split, steps, guidance = plan[i]
        composer.reseed(noise_seed(seed, spec.name, i) % 2**31)
        new = split == "test-new"
        allowed = [c for c in range(len(CONCEPTS)) if (c in HELD_OUT_CONCEPTS) == new]
        scenes = [replace(composer.scene(), concept=composer.rng.choice(allowed)) for _ in range(BATCH)]
        prompts = [_prompt(scene, composer.rng) for scene in scenes]
        seeds = [noise_seed(seed, f"{spec.name}/{i}", row) for row in range(BATCH)]
        raw = np.stack([np.asarray(composer.render(scene)) for scene in scenes])
        partial = folder / f".{names[i]}"
        np.savez_compressed(
            partial,
            fake=draw(model, prompts, seeds, steps, guidance),
            real=round_trip(vae, raw, torch.Generator().manual_seed(seeds[0])),
            raw=raw,
            concept=np.array([scene.concept for scene in scenes]),
            steps=np.full(BATCH, steps),
            guidance=np.full(BATCH, guidance),
        )
        partial.replace(folder / names[i])
        if done % 10 == 9 or done + 1 == len(missing):
            print(f"{spec.name}: {done + 1} of {len(missing)} shards, {time.time() - began:.0f} s", flush=True)


def draw(model: FlowModel, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float) -> Bytes:
    """One picture per prompt, uint8 [n, 64, 64, 3]."""
    height, width = model.resolution
    cond = model.encode(prompts, guidance=guidance)
    noise = model.noise(seeds, height=height, width=width)
    grid = {steps: model.sigmas(steps, height=height, width=width)}
    return _bytes(model.decode(sweep(model, cond, noise, grid, guidance=guidance)[steps].latents))


@torch.no_grad()
def round_trip(vae: AutoencoderKL, raw: Bytes, generator: torch.Generator) -> Bytes:
    """Encode and decode pictures, with noise of a random strength up to LATENT_NOISE on each one's latents."""
    pixels = torch.from_numpy(raw).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = vae.encode(pixels).latent_dist.mean
    strength = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1, generator=generator)
    latents = latents + strength * torch.randn(latents.shape, generator=generator)
    return _bytes((vae.decode(latents).sample / 2 + 0.5).clamp(0, 1))


def training_plan(pictures: int, seed: int) -> Iterator[tuple[str, int, float]]:
    """Shards of one generator in training: step count and guidance at random, in the shares above."""
    rng = random.Random(seed)
    for _ in range(-(-pictures // BATCH)):
        yield "train", rng.choices(STEPS, SHARES)[0], rng.choice(GUIDANCES)


def test_plan(pictures: int, guidance: float, splits: Sequence[str]) -> Iterator[tuple[str, int, float]]:
    """Shards of one generator for measuring: as many pictures at each step count, at the generator's own guidance."""
    for split in splits:
        for steps in STEPS:
            for _ in range(-(-pictures // BATCH)):
                yield split, steps, guidance


def _prompt(scene: Scene, rng: random.Random) -> str:
    """A caption that leaves each optional fact out one time in five: the two sides should show the same things."""
    return caption(scene, style=rng.random() < 0.8, colour=rng.random() < 0.8, size=rng.random() < 0.8)


def _bytes(decoded: torch.Tensor) -> Bytes:
    return (decoded.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()


def pictures_of(rows: Bytes) -> list[Image.Image]:
    """PIL pictures of uint8 [n, H, W, 3]."""
    return [Image.fromarray(row) for row in rows]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of source packages and training state")
    parser.add_argument("--generator", action="append", default=[], metavar="NAME=BASE[+LORA]", help="train on it")
    parser.add_argument("--held-out", action="append", default=[], metavar="NAME=BASE[+LORA]", help="measure on it")
    parser.add_argument("--pictures", type=int, default=2400, help="training pictures of each generator")
    parser.add_argument("--test-pictures", type=int, default=240, help="of each generator, step count and split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    composer = Composer(build_sprites(args.work), args.seed)
    folder = args.work / "realism" / "pictures"
    for text in args.generator:
        spec = replace(parse_checkpoint(text), device="cpu")
        make(folder, spec, list(training_plan(args.pictures, args.seed)), composer, seed=args.seed)
    for text, splits in [(text, ("test-new",)) for text in args.generator] + [
        (text, ("test", "test-new")) for text in args.held_out
    ]:
        spec = replace(parse_checkpoint(text), device="cpu")
        guidance = load_model(spec).default_guidance
        make(folder, spec, list(test_plan(args.test_pictures, guidance, splits)), composer, seed=args.seed + 1)


if __name__ == "__main__":
    main()
