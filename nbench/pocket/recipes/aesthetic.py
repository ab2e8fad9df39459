"""Train pocket-aesthetic: a head on pocket-clip's image tower that ranks clean scenes above spoiled copies.

    python -m nbench.pocket.recipes.aesthetic --work WORK

Needs the exported pocket-clip (the bundled one, or `--clip FOLDER`). Each scene gives a clean picture and two spoiled
ones per spoiler, mild and strong; the head learns by margin ranking that clean > mild > strong, also across scenes. Two
spoilers are never shown in training: their figures say how far it generalises. Writes WORK/pocket-aesthetic/export.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from nbench.pocket.recipes.augment import SPOILERS
from nbench.pocket.recipes.cards import model_card, save_half
from nbench.pocket.recipes.common import train
from nbench.pocket.recipes.data import Composer, build_sprites
from nbench.scoring.rewards.pocket_aesthetic import HEAD, apply_head
from nbench.scoring.rewards.pocket_clip import FOLDER as CLIP_FOLDER
from nbench.scoring.rewards.pocket_clip import OpenClip

HIDDEN = 64
NEVER_SHOWN = ("ghost", "pixelate")
SHOWN = tuple(name for name in SPOILERS if name not in NEVER_SHOWN)
PER_SCENE = 2  # spoilers
HELD_OUT_SEED = 987_654_321


def feature_set(clip: OpenClip, composer: Composer, scenes: int, rng: random.Random) -> torch.Tensor:
    """Features [scenes, 1 + 2 * PER_SCENE, F]: clean, then mild and strong of each of the scene's spoilers."""
    group = 1 + 2 * PER_SCENE
    rows, images = [], []
    for scene in range(scenes):
        image = composer.draw().image
        images.append(image)
        for name in rng.sample(SHOWN, PER_SCENE):
            for low, high in ((0.0, 0.4), (0.6, 1.0)):
                images.append(spoil(image, name, rng.uniform(low, high), rng))
        if len(images) >= 16 * group or scene == scenes - 1:
            rows.append(clip.stages(images))
            images = []
    return torch.cat(rows).reshape(scenes, group, -1)


def spoil(image: Image.Image, name: str, strength: float, rng: random.Random) -> Image.Image:
    """Apply a spoiler, and in one case of four another shown one on top."""
    spoiled = SPOILERS[name](image, strength, rng)
    if rng.random() < 0.25:
        spoiled = SPOILERS[rng.choice(SHOWN)](spoiled, strength, rng)
    return spoiled


def ranking_loss(scores: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    """Margin ranking of groups [B, 1 + 2k] (clean, mild, strong, mild, strong, ...).

    clean > each spoiled of its scene by 1, mild > strong by 0.3, and clean > another scene's spoiled (`partners`, a
    permutation of the groups) by 1.
    """
    clean, spoiled = scores[:, :1], scores[:, 1:]
    own = F.relu(1.0 - (clean - spoiled)).mean()
    order = F.relu(0.3 - (spoiled[:, 0::2] - spoiled[:, 1::2])).mean()
    across = F.relu(1.0 - (clean - spoiled[partners])).mean()
    return own + 0.5 * order + across


def measure(clip: OpenClip, head: dict[str, torch.Tensor], composer: Composer, scenes: int) -> dict[str, float]:
    """Held-out share of (clean, spoiled) pairs in the right order by spoiler, own scene and across scenes."""
    rng = random.Random(HELD_OUT_SEED)
    images = [composer.draw().image for _ in range(scenes)]
    clean = apply_head(head, clip.stages(images))
    figures: dict[str, float] = {}
    for name, spoiler in SPOILERS.items():
        spoiled = apply_head(head, clip.stages([spoiler(image, rng.random(), rng) for image in images]))
        mark = "_never_shown" if name in NEVER_SHOWN else ""
        figures[f"pair_{name}{mark}"] = float((clean > spoiled).float().mean())
        figures[f"auc_{name}{mark}"] = float((clean[:, None] > spoiled[None]).float().mean())
    shown = [figures[f"pair_{name}"] for name in SHOWN]
    return {"pair_all_shown": sum(shown) / len(shown), "clean_mean": float(clean.mean()), **figures}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of source packages and training state")
    parser.add_argument("--clip", type=Path, default=CLIP_FOLDER, help="exported pocket-clip")
    parser.add_argument("--scenes", type=int, default=12000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=1000, help="scenes that the order is measured on")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    out = args.work / "pocket-aesthetic"
    export = out / "export"
    composer = Composer(build_sprites(args.work), args.seed)
    clip = OpenClip(args.clip, "cpu")
    features = feature_set(clip, composer, args.scenes, random.Random(args.seed))
    mean, std = features[:, 0].mean(0), features[:, 0].std(0).clamp(min=1e-3)
    normal = features.sub_(mean).div_(std).clamp_(-10, 10)  # as apply_head does, once for all steps
    body = nn.Sequential(nn.Linear(features.shape[-1], HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))
    optimizer = torch.optim.AdamW(body.parameters(), lr=args.lr, weight_decay=0.05)

    def head() -> dict[str, torch.Tensor]:
        state = {name: value.detach() for name, value in body.state_dict().items()}
        return {
            "mean": mean,
            "std": std,
            "hidden_weight": state["0.weight"],
            "hidden_bias": state["0.bias"],
            "out_weight": state["2.weight"][0],
            "out_bias": state["2.bias"][0],
        }

    def loss_fn(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        draw = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        groups = normal[torch.randint(len(normal), (args.batch,), generator=draw)]
        scores = body(groups)[..., 0]
        loss = ranking_loss(scores, torch.randperm(args.batch, generator=draw))
        return loss, {"pairs": float((scores[:, :1] > scores[:, 1:]).float().mean())}

    def save(step: int) -> None:
        if step < args.steps:
            return
        final = head()
        with torch.no_grad():
            raw = body(normal)[..., 0]
        clean, spoiled = raw[:, 0].mean(), raw[:, 1:].mean()
        final["out_weight"] = final["out_weight"] / (clean - spoiled)  # clean scenes score 1 and spoiled 0 in the mean
        final["out_bias"] = (final["out_bias"] - spoiled) / (clean - spoiled)
        save_half(final, export / HEAD)
        final = {name: tensor.half().float() for name, tensor in final.items()}
        figures = measure(clip, final, composer.reseed(HELD_OUT_SEED), args.held_out)
        print(json.dumps(figures), flush=True)
        card = model_card(
            title="pocket-aesthetic",
            summary=f"A head ({features.shape[-1]} to {HIDDEN} to 1) on the stage statistics of pocket-clip's image "
            "tower: higher for clean pocket pictures. It reads no prompt.",
            command=f"python -m nbench.pocket.recipes.aesthetic --work WORK --scenes {args.scenes} "
            f"--steps {args.steps} --batch {args.batch} --lr {args.lr} --seed {args.seed}",
            log=out / "log.jsonl",
            parameters=sum(p.numel() for p in body.parameters()),
            figures=figures,
            figures_say=f"On {args.held_out:,} held-out scenes (seeds that training never drew): `pair_*` is the "
            "share of scenes that beat their own spoiled copy, strength uniform from barely visible to bad; `auc_*` "
            "the share of all (clean scene, spoiled scene) pairs in the right order. Spoilers marked "
            "`never_shown` were left out of training. Training time is the head's alone, without the "
            "features.",
        )
        (export / "README.md").write_text(card)

    train(
        out=out,
        steps=args.steps,
        modules={"body": body},
        optimizer=optimizer,
        loss_fn=loss_fn,
        on_save=save,
        save_every=3000,
        log_every=100,
    )


if __name__ == "__main__":
    main()
