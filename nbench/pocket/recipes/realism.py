"""Train pocket-realism: a detector that tells composed pocket scenes from generated ones, and measure it.

    python -m nbench.pocket.recipes.realism --work WORK --train sd3 --train sd3-nft --held-out flux

The pictures are those of `nbench.pocket.recipes.realism_data`. First the convolutions learn to read composed scenes of
the concepts that are not held out, as pocket-probe does of all; then batches, disturbances and the loss are those of
`nbench realism train`. Three real pictures of four are round trips through the autoencoder, so that the codec is no
cue. Pictures of both sides are turned, mirrored, and their colours exchanged, so that the detector knows fewer of them
by heart. Writes WORK/realism/export: a detector folder with figures.json, README.md and calibration.svg.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from nbench.pocket.probe import ProbeNet
from nbench.pocket.recipes.cards import save_half
from nbench.pocket.recipes.common import Ema, train
from nbench.pocket.recipes.data import Composer, build_sprites
from nbench.pocket.recipes.probe import batch_loss
from nbench.pocket.recipes.realism_data import HELD_OUT_CONCEPTS, Bytes, read, shards
from nbench.pocket.recipes.realism_figures import measure, write_card
from nbench.pocket.world import CONCEPTS
from nbench.scoring.realism.detector import CONFIG, WEIGHTS, DetectorConfig
from nbench.scoring.realism.fit import fit
from nbench.scoring.realism.network import RealismNet
from nbench.scoring.realism.views import View

WIDTHS = (32, 64, 128, 256)
RAW = 0.25  # share of real pictures that are as composed, not after the autoencoder


def learn_to_read(work: Path, sprites: Bytes, *, steps: int, seed: int) -> nn.Module:
    """Convolutions that read concept, style, colour and count off composed scenes of the concepts not held out."""
    composer = Composer(sprites, seed)
    kept = [concept for concept in range(len(CONCEPTS)) if concept not in HELD_OUT_CONCEPTS]
    net = ProbeNet(WIDTHS).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = Ema(net, 0.99)

    def loss_fn(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = random.Random(seed * 1_000_003 + step)
        composer.reseed(seed * 1_000_003 + step)
        scenes = [replace(composer.scene(), concept=rng.choice(kept)) for _ in range(96)]
        return batch_loss(net, [composer.draw(scene) for scene in scenes], rng)

    train(
        out=work / "realism" / "reading",
        steps=steps,
        modules={"net": net},
        optimizer=torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.02),
        loss_fn=loss_fn,
        emas=[("net", ema)],
    )
    body: nn.Module = ema.module.body
    return body


def turned(rows: Bytes, rng: random.Random) -> Image.Image:
    """One of some pictures, turned, mirrored, and its colour channels exchanged."""
    pixels = np.rot90(rows[rng.randrange(len(rows))], rng.randrange(4))
    pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
    return Image.fromarray(np.ascontiguousarray(pixels[..., rng.sample(range(3), 3)]))


class Pool:
    """Training pictures of several generators, each generator as often as any other."""

    def __init__(self, folder: Path, generators: Sequence[str]) -> None:
        self.parts = []
        for name in generators:
            found = shards(folder, name, "train")
            if not found:
                raise SystemExit(f"no training pictures of {name!r} in {folder}: run recipes.realism_data first")
            part = read(found)
            if HELD_OUT_CONCEPTS & set(part.concept.tolist()):
                raise SystemExit(f"training pictures of {name!r} show held-out concepts: make them again")
            self.parts.append(part)

    def draw(self, rng: random.Random, count: int) -> tuple[list[Image.Image], list[Image.Image]]:
        """`count` real and `count` generated pictures, of independent scenes."""
        real, fake = [], []
        for _ in range(count):
            part = rng.choice(self.parts)
            real.append(turned(part.raw if rng.random() < RAW else part.real, rng))
            fake.append(turned(rng.choice(self.parts).fake, rng))
        return real, fake

    def __len__(self) -> int:
        return sum(len(part.fake) for part in self.parts)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of source packages and training state")
    parser.add_argument("--train", action="append", required=True, metavar="NAME", help="generator to train on")
    parser.add_argument("--held-out", action="append", default=[], metavar="NAME", help="generator to measure on only")
    parser.add_argument("--data", default="...", help="arguments that the pictures were made with, for the card")
    parser.add_argument("--note", default="", help="a sentence for the card on the generators")
    parser.add_argument("--reading-steps", type=int, default=900, help="steps of the convolutions on scenes alone")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    folder = args.work / "realism" / "pictures"
    out, export = args.work / "realism" / "training", args.work / "realism" / "export"
    pool = Pool(folder, args.train)
    names = " ".join([f"--train {name}" for name in args.train] + [f"--held-out {name}" for name in args.held_out])
    command = (
        f"python -m nbench.pocket.recipes.realism --work WORK {names} --reading-steps {args.reading_steps} "
        f"--steps {args.steps} --batch {args.batch} --lr {args.lr:g} --seed {args.seed}"
    )
    config = DetectorConfig(
        name="pocket-realism",
        summary="Log-odds that a pocket picture is a composed scene, not a generated one, by a small conv net.",
        view=View("resize", 64),
        widths=WIDTHS,
        licence="MIT (weights), Apache-2.0 (code)",
        source="recipe nbench.pocket.recipes.realism",
    )
    body = learn_to_read(args.work, build_sprites(args.work), steps=args.reading_steps, seed=args.seed)
    net = RealismNet(WIDTHS, dropout=0.4)
    net.body.load_state_dict(body.state_dict())

    def save(step: int, average: nn.Module) -> None:
        save_half(average.state_dict(), export / WEIGHTS)
        (export / CONFIG).write_text(config.as_json())

    fit(
        net,
        config.view,
        pool.draw,
        out=out,
        steps=args.steps,
        batch=args.batch,
        lr=args.lr,
        seed=args.seed,
        on_save=save,
    )
    figures = measure(export, folder, args.train, args.held_out)
    (export / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    commands = [f"python -m nbench.pocket.recipes.realism_data --work WORK {args.data}", command]
    write_card(export, figures, commands=commands, log=out / "log.jsonl", pictures=len(pool), note=args.note)


if __name__ == "__main__":
    main()
