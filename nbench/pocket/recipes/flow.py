"""Train a pocket base: `pocket-sd3` or `pocket-flux`, real diffusers pipelines at 64x64 pixels.

    python -m nbench.pocket.recipes.flow --family sd3 --work WORK --vae VAE_FOLDER

Plain conditional flow matching, x_t = (1 - t) x0 + t eps, target eps - x0, t logit-normal, captions that name a
random subset of a scene's facts, 10 % of them empty. Transformer and text encoders are trained together, from
scratch. `--family flux` ends with a guidance-distillation stage (`--distill-steps`): the student learns
v_u + g (v_c - v_u) of its own frozen average, g in [1, 5], through the guidance embedding, as FLUX.1-dev did.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from nbench.pocket.recipes.architectures import Family, build_family
from nbench.pocket.recipes.common import Ema, Optimizers, train
from nbench.pocket.recipes.data import Composer, build_sprites
from nbench.pocket.world import COLOURS, SIZES, Scene, random_caption

_COLOURS = list(COLOURS)
_SIZES = ("", *SIZES)


def build_pool(work: Path, vae_folder: Path, count: int, seed: int) -> tuple[torch.Tensor, list[Scene]]:
    """Latent means float16 [count, 16, 8, 8] and the scenes behind them, cached in `work`."""
    cache = work / f"pool-{seed}-{count}.npz"
    if not cache.exists():
        vae = AutoencoderKL.from_pretrained(vae_folder).eval()
        composer = Composer(build_sprites(work), seed)
        latents, facts = [], []
        for _ in range(0, count, 64):
            samples = [composer.draw() for _ in range(64)]
            arrays = np.stack([np.asarray(sample.image) for sample in samples])
            images = torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.no_grad():
                latents.append(vae.encode(images).latent_dist.mean.half().numpy())
            for sample in samples:
                s = sample.scene
                facts.append((s.concept, s.style, _COLOURS.index(s.colour), s.count, _SIZES.index(s.size)))
        np.savez(cache, latents=np.concatenate(latents)[:count], facts=np.array(facts[:count], np.int16))
    with np.load(cache) as stored:
        scenes = [
            Scene(int(c), int(style), _COLOURS[colour], int(n), _SIZES[size])
            for c, style, colour, n, size in stored["facts"]
        ]
        return torch.from_numpy(stored["latents"]), scenes


def optimizers(family: Family, *, muon_lr: float, lr: float) -> Optimizers:
    """Muon for the matrices inside blocks and text layers, AdamW for embeddings, heads, norms and biases."""
    muon: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in family.named_parameters():
        hidden = parameter.ndim == 2 and ("blocks." in name or "layers." in name or ".block." in name)
        (muon if hidden and "relative_attention_bias" not in name else rest).append(parameter)
    return Optimizers(muon, rest, muon_lr=muon_lr, lr=lr)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("sd3", "flux"), required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of source packages and training state")
    parser.add_argument("--vae", type=Path, required=True, help="exported pocket autoencoder")
    parser.add_argument("--init", type=Path, help="start from this released base, not from scratch")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--distill-steps", type=int, default=0)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--pool", type=int, default=48_000, help="scenes encoded once and drawn from")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--decay", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the transformer: 1.4x on a CPU")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    latents, scenes = build_pool(args.work, args.vae, args.pool, seed=1)
    family = build_family(args.family, args.work / "tokenizers").to(args.device)
    if args.init:
        family.load_pipeline(args.init)
    out = args.work / f"flow-{args.family}"
    ema: Ema[Family] = Ema(family, 0.998)
    if args.compile:
        family.transformer.compile()

    def draw(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
        """x_t, t, target velocity and captions of one step; a function of (seed, step) alone."""
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        rng = random.Random(args.seed * 1_000_003 + step)
        rows = torch.randint(len(scenes), (args.batch,), generator=generator)
        x0 = latents[rows].float()
        noise = torch.randn(x0.shape, generator=generator)
        t = torch.sigmoid(torch.randn(args.batch, generator=generator))
        captions = ["" if rng.random() < 0.1 else random_caption(scenes[i], rng) for i in rows.tolist()]
        mix = t[:, None, None, None]
        x_t, target = (1 - mix) * x0 + mix * noise, noise - x0
        return x_t.to(args.device), t.to(args.device), target.to(args.device), captions

    def loss_fn(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        x_t, t, target, captions = draw(step)
        with torch.autocast(x_t.device.type, torch.bfloat16):
            found = family(x_t, t, captions, torch.ones_like(t))
        per_sample = (found.float() - target).pow(2).mean(dim=(1, 2, 3))
        noisy = t > 0.5
        figures = {"noisy": per_sample[noisy].mean().item(), "clean": per_sample[~noisy].mean().item()}
        return per_sample.mean(), figures

    def export(step: int) -> None:
        ema.module.save_pipeline(out / "export", AutoencoderKL.from_pretrained(args.vae))

    train(
        out=out,
        steps=args.steps,
        modules={"family": family},
        optimizer=optimizers(family, muon_lr=args.muon_lr, lr=args.lr),
        loss_fn=loss_fn,
        emas=[("family", ema)],
        decay=args.decay,
        on_save=export,
        save_every=100,
    )
    if not args.distill_steps:
        return
    teacher = ema.module
    student_ema: Ema[Family] = Ema(teacher, 0.99)
    if args.compile:
        teacher.transformer.compile()
    family.load_state_dict(teacher.state_dict())
    out = args.work / f"flow-{args.family}-distilled"

    def distill_loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        x_t, t, _, captions = draw(step + args.steps)
        generator = torch.Generator().manual_seed(step)
        guidance = (1 + 4 * torch.rand(len(captions), generator=generator)).to(x_t.device)
        with torch.autocast(x_t.device.type, torch.bfloat16):
            with torch.no_grad():
                ones = torch.ones_like(guidance)
                conditional = teacher(x_t, t, captions, ones).float()
                free = teacher(x_t, t, [""] * len(captions), ones).float()
            target = free + guidance[:, None, None, None] * (conditional - free)
            found = family(x_t, t, captions, guidance)
        return F.mse_loss(found.float(), target), {}

    def export_distilled(step: int) -> None:
        student_ema.module.save_pipeline(out / "export", AutoencoderKL.from_pretrained(args.vae))

    train(
        out=out,
        steps=args.distill_steps,
        modules={"family": family},
        optimizer=optimizers(family, muon_lr=args.muon_lr / 2, lr=args.lr / 2),
        loss_fn=distill_loss,
        emas=[("family", student_ema)],
        decay=0.6,
        on_save=export_distilled,
        save_every=100,
    )


if __name__ == "__main__":
    main()
