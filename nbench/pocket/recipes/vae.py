"""Train the pocket autoencoder: a diffusers AutoencoderKL, factor 8, 16 latent channels, on composed scenes.

    python -m nbench.pocket.recipes.vae --work WORK

Loss: L1 on pixels and on their horizontal and vertical differences, and a light KL. `--decoder-only`
goes on with the encoder frozen, so that latents stay what they were, and noise on the latents, so that the decoder
forgives generated ones. The export folds a whitening of
the latents (zero mean, unit covariance) into the two 1x1 convolutions, so that the flow models see
unit-variance latents with `scaling_factor=1`.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from nbench.pocket.recipes.common import Ema, Optimizers, train
from nbench.pocket.recipes.data import Composer, build_sprites

LATENT_CHANNELS = 16


def build() -> AutoencoderKL:
    """The architecture, with random weights."""
    channels = (16, 32, 64, 128)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=1,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        mid_block_add_attention=False,
        sample_size=64,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def pictures(composer: Composer, count: int) -> torch.Tensor:
    """float32 [count, 3, 64, 64] in [-1, 1]."""
    arrays = np.stack([np.asarray(composer.draw().image) for _ in range(count)])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_loss(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """L1 on values and on first differences."""
    loss = F.l1_loss(found, wanted)
    for dim in (2, 3):
        loss = loss + 0.5 * F.l1_loss(found.diff(dim=dim), wanted.diff(dim=dim))
    return loss


@torch.no_grad()
def fold_whitening(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Make the latent means of `images` white, by an affine map folded into quant_conv and post_quant_conv."""
    means = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in images.split(64)])
    flat = means.permute(0, 2, 3, 1).reshape(-1, LATENT_CHANNELS).double()
    centre = flat.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(flat.T))
    whiten = vectors @ torch.diag(values.rsqrt()) @ vectors.T  # symmetric: channels keep their meaning
    unwhiten = vectors @ torch.diag(values.sqrt()) @ vectors.T
    quant, post = vae.quant_conv, vae.post_quant_conv
    weight, bias = quant.weight[:LATENT_CHANNELS, :, 0, 0].double(), quant.bias[:LATENT_CHANNELS].double()
    quant.weight[:LATENT_CHANNELS, :, 0, 0] = (whiten @ weight).float()
    quant.bias[:LATENT_CHANNELS] = (whiten @ (bias - centre)).float()
    quant.bias[LATENT_CHANNELS:] += torch.log(torch.diagonal(whiten) ** 2).float()
    weight = post.weight[:, :, 0, 0].double()
    post.bias.copy_((post.bias.double() + weight @ centre).float())
    post.weight[:, :, 0, 0] = (weight @ unwhiten).float()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of source packages and training state")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--muon-lr", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--decoder-only", type=Path, help="go on from this exported VAE, encoder frozen")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    composer = Composer(build_sprites(args.work), args.seed)
    vae = AutoencoderKL.from_pretrained(args.decoder_only) if args.decoder_only else build()
    vae.to(args.device)
    if args.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    trained = {name: p for name, p in vae.named_parameters() if p.requires_grad}
    hidden = {name for name, p in trained.items() if p.ndim == 4 and "conv_in" not in name and "conv_out" not in name}
    optimizer = Optimizers(
        [p for name, p in trained.items() if name in hidden],
        [p for name, p in trained.items() if name not in hidden],
        muon_lr=args.muon_lr,
        lr=args.lr,
    )
    ema = Ema(vae, 0.995)

    def loss_fn(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        images = pictures(composer.reseed(args.seed * 1_000_003 + step), args.batch).to(args.device)
        noise = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        with torch.autocast(images.device.type, torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            draw = torch.randn(posterior.mean.shape, generator=noise).to(images.device)
            spread = posterior.std
            if args.decoder_only:  # generated latents are a little off: teach the decoder to forgive
                spread = 0.25 * torch.rand(len(images), 1, 1, 1, generator=noise).to(images.device)
            found = vae.decode(posterior.mean + spread * draw).sample
        found = found.float()
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        pixels = F.mse_loss(found.detach(), images).item()
        loss = reconstruction_loss(found, images) + (0 if args.decoder_only else 5e-4) * kl
        return loss, {"kl": kl.item(), "psnr": float(-10 * np.log10(pixels / 4))}

    out = args.work / ("vae-decoder" if args.decoder_only else "vae")

    def export(step: int) -> None:
        final: AutoencoderKL = ema.module
        if not args.decoder_only:
            final = copy.deepcopy(ema.module)
            fold_whitening(final, pictures(composer.reseed(77), 1024))
        final.save_pretrained(out / "export")

    train(
        out=out,
        steps=args.steps,
        modules={"vae": vae},
        optimizer=optimizer,
        loss_fn=loss_fn,
        emas=[("vae", ema)],
        on_save=export,
        save_every=300,
    )


if __name__ == "__main__":
    main()
