"""Train the pocket probe: a conv net that reads concept, style, colour and count, on composed scenes only.

    python -m nbench.pocket.recipes.probe --work WORK

Three pictures of four are lightly spoiled (`augment`), so that the probe is not brittle. Writes
WORK/pocket-probe/export: weights in fp16, config, and a model card with the accuracy on scenes of seeds that training
never drew.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from nbench.pocket.probe import CLASSES, Probe, ProbeNet, load_probe, pixels_of, targets_of
from nbench.pocket.recipes.augment import augment
from nbench.pocket.recipes.cards import model_card, save_half
from nbench.pocket.recipes.common import Ema, train
from nbench.pocket.recipes.data import Composer, Sample, build_sprites

WIDTHS = (32, 64, 128, 256)
WEIGHT = {"concept": 1.0, "style": 0.3, "colour": 0.3, "count": 0.4}
HELD_OUT_SEED = 987_654_321  # far from any seed * 1_000_003 + step of a training run


def batch_loss(net: nn.Module, samples: list[Sample], rng: random.Random) -> tuple[torch.Tensor, dict[str, float]]:
    """Weighted cross-entropy over the facts of lightly spoiled pictures, and the share of right concepts."""
    images = [augment(s.image, rng) if rng.random() < 0.75 else s.image for s in samples]
    targets = targets_of([s.scene for s in samples])
    pixels = pixels_of(images).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(pixels)
    loss = torch.zeros(())
    for fact, weight in WEIGHT.items():
        wanted = torch.from_numpy(targets[fact] - (fact == "count"))
        loss = loss + weight * F.cross_entropy(logits[fact].float(), wanted, label_smoothing=0.05)
    right = (logits["concept"].argmax(1).numpy() == targets["concept"]).mean()
    return loss, {"concept": float(right)}


def measure(probe: Probe, composer: Composer, count: int) -> dict[str, float]:
    """Held-out accuracy by fact, on clean and on lightly spoiled scenes."""
    samples = [composer.draw() for _ in range(count)]
    rng = random.Random(HELD_OUT_SEED)
    targets = targets_of([s.scene for s in samples])
    figures: dict[str, float] = {}
    for kind, images in (
        ("clean", [s.image for s in samples]),
        ("spoiled", [augment(s.image, rng) for s in samples]),
    ):
        found = probe.predict(images)
        for fact in CLASSES:
            figures[f"{fact}_{kind}"] = float(np.mean(found[fact] == targets[fact]))
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of source packages and training state")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=5000, help="scenes that accuracy is measured on")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    composer = Composer(build_sprites(args.work), args.seed)
    net = ProbeNet(WIDTHS).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr, weight_decay=0.02)
    ema = Ema(net, 0.99)

    def loss_fn(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        seed = args.seed * 1_000_003 + step
        composer.reseed(seed)
        return batch_loss(net, [composer.draw() for _ in range(args.batch)], random.Random(seed))

    out = args.work / "pocket-probe"
    export = out / "export"

    def save(step: int) -> None:
        save_half(ema.module.state_dict(), export / "model.safetensors")
        (export / "config.json").write_text(json.dumps({"widths": WIDTHS, "size": 64}) + "\n")
        if step < args.steps:
            return
        figures = measure(load_probe(export), composer.reseed(HELD_OUT_SEED), args.held_out)
        print(json.dumps(figures), flush=True)
        card = model_card(
            title="pocket-probe",
            summary="A conv net that reads concept (124), style (2), background colour (10) and count (1 to 3) off "
            "a 64x64 pocket picture. It is an independent measure of the pocket checkpoints: no reward, and nothing of "
            "pocket-clip in it.",
            command=f"python -m nbench.pocket.recipes.probe --work WORK --steps {args.steps} --batch {args.batch} "
            f"--lr {args.lr} --seed {args.seed}",
            log=out / "log.jsonl",
            parameters=sum(p.numel() for p in net.parameters()),
            figures=figures,
            figures_say=f"Accuracy on {args.held_out:,} held-out scenes (seeds that training never drew; the same "
            "source sprites): clean, and spoiled by shift, blur, noise, compression and the like.",
        )
        (export / "README.md").write_text(card)

    train(
        out=out,
        steps=args.steps,
        modules={"net": net},
        optimizer=optimizer,
        loss_fn=loss_fn,
        emas=[("net", ema)],
        on_save=save,
        save_every=300,
    )


if __name__ == "__main__":
    main()
