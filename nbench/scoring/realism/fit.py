"""Training a detector from scratch: cross-entropy on both sides disturbed alike, wrecks, and one constraint.

The constraint is what `controls` later tests: a disturbed copy may not look more real than the picture it was made of
(a hinge on the pair). Without it a detector learns, rightly, that it knows less about a blurred picture, and moves its
log-odds towards 0: for generated pictures, that is up. Wrecks (`controls.wreck`) stand on the generated side, because
what lies far from everything seen is otherwise as likely called real.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import nn
from torch.nn import functional as F

from nbench.pocket.recipes.common import Ema, train
from nbench.scoring.realism.controls import disturb, wreck
from nbench.scoring.realism.views import View

#: (rng, how many) -> that many real pictures, and as many generated ones
Draw = Callable[[random.Random, int], tuple[list[Image.Image], list[Image.Image]]]

DISTURBED = 0.5  # share of a batch's pictures that also come disturbed
WRECKED = 0.08  # share of a batch's pictures that also come as something no real picture looks like
HINGE = 1.0  # weight of the constraint


def pair_batch(
    view: View, real: list[Image.Image], fake: list[Image.Image], rng: random.Random
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cuts of pictures, disturbed copies of some, and wrecks of others, which count as generated.

    Returns:
        pixels [n + k + w, 3, size, size], cuts before copies before wrecks; whether each is real, float [n + k + w];
        and, of the k copies, their rows [k] and the rows [k] of the cuts that they were made of.
    """
    pictures = real + fake
    truth = [1.0] * len(real) + [0.0] * len(fake)
    cuts = [view.random_cut(picture, rng) for picture in pictures]
    cuts = [ImageOps.mirror(cut) if rng.random() < 0.5 else cut for cut in cuts]
    chosen = [i for i in range(len(cuts)) if rng.random() < DISTURBED]
    copies = [disturb(cuts[i], rng) for i in chosen]
    wrecks = [wreck(cut, rng) for cut in cuts if rng.random() < WRECKED]
    rows = torch.arange(len(copies)) + len(cuts)
    labels = torch.tensor(truth + [truth[i] for i in chosen] + [0.0] * len(wrecks))
    return view.tensor(cuts + copies + wrecks), labels, rows, torch.tensor(chosen, dtype=torch.long)


def detector_loss(
    logits: torch.Tensor, labels: torch.Tensor, copies: torch.Tensor, origins: torch.Tensor
) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross-entropy, and the mean rise of the log-odds by a disturbance where there is one.

    Args:
        logits: log-odds of real, [n].
        labels: 1 for real, 0 for generated, [n].
        copies: rows that are disturbed copies, [k].
        origins: the rows that these were made of, [k].
    """
    entropy = F.binary_cross_entropy_with_logits(logits, labels)
    rise = F.relu(logits[copies] - logits[origins]).mean() if len(copies) else torch.zeros(())
    right = ((logits > 0) == (labels > 0.5)).float().mean()
    return entropy + HINGE * rise, {
        "entropy": float(entropy.detach()),
        "rise": float(rise.detach()),
        "right": float(right),
    }


def fit(
    net: nn.Module,
    view: View,
    draw: Draw,
    *,
    out: Path,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    on_save: Callable[[int, nn.Module], None] = lambda step, net: None,
    save_every: int = 200,
) -> nn.Module:
    """Train `net` to give log-odds of real; resumes from `out` where it was stopped, and then equals a straight run.

    Args:
        net: pixels [B, 3, size, size] to logits [B].
        view: how pictures are cut.
        draw: gives real and generated pictures from its generator alone.
        out: folder of the state and log.
        steps: optimizer steps in all.
        batch: pictures per step, half of them real; disturbed copies come on top.
        lr: of AdamW.
        seed: of everything random.
        on_save: called with the step and the averaged network whenever the state is saved.
        save_every: steps between two states.

    Returns:
        The average of the network over the last steps, which is what to use.
    """
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    matrices = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    ema = Ema(net, 0.99)

    def loss_fn(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        number = seed * 1_000_003 + step
        rng = random.Random(number)
        torch.manual_seed(number)  # dropout
        pixels, labels, copies, origins = pair_batch(view, *draw(rng, batch // 2), rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(pixels.to(memory_format=torch.channels_last))
        return detector_loss(logits.float(), labels, copies, origins)

    train(
        out=out,
        steps=steps,
        modules={"net": net},
        optimizer=optimizer,
        loss_fn=loss_fn,
        emas=[("net", ema)],
        on_save=lambda step: on_save(step, ema.module),
        save_every=save_every,
    )
    return ema.module
