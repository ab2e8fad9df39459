"""Train pocket-clip: an open_clip model (small ResNet and text transformer) on composed scenes and their captions.

    python -m nbench.pocket.recipes.clip --work WORK

Batches are scenes with captions that name a random subset of the facts, so one caption may be true of several
pictures: the contrastive loss leaves those pairs out instead of calling them wrong. Among the texts are copies of the
captions with one fact altered, without which only the object would be learned. Half the pictures are lightly spoiled.
Writes WORK/pocket-clip/export, a folder that open_clip loads as `local-dir:`.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch.nn import functional as F

from nbench.pocket.probe import pixels_of
from nbench.pocket.recipes.augment import augment
from nbench.pocket.recipes.cards import model_card, save_half
from nbench.pocket.recipes.common import Ema, train
from nbench.pocket.recipes.data import Composer, Sample, build_sprites
from nbench.pocket.world import COLOURS, CONCEPTS, COUNTS, STYLES, Scene, caption, vocabulary

CONTEXT = 16  # tokens, start and end included
EMBED = 128
ALTERED = 2  # altered captions per picture and batch
HELD_OUT_SEED = 987_654_321  # far from any seed * 1_000_003 + step of a training run
STRANGE = "something"  # no pocket word: becomes <unknown>


@dataclass(frozen=True)
class Claim:
    """What a caption says: a scene, and which of its optional facts are named. Concept and count always are."""

    scene: Scene
    style: bool
    colour: bool
    size: bool

    @property
    def text(self) -> str:
        """The caption."""
        return caption(self.scene, style=self.style, colour=self.colour, size=self.size)

    def is_true_of(self, scene: Scene) -> bool:
        """Whether every named fact holds of `scene`."""
        mine = self.scene
        return (
            (mine.concept, mine.count) == (scene.concept, scene.count)
            and (not self.style or mine.style == scene.style)
            and (not self.colour or mine.colour == scene.colour)
            and (not (self.size and mine.size) or mine.size == scene.size)
        )


def claim_of(scene: Scene, rng: random.Random) -> Claim:
    """A caption that names a random subset of a scene's facts, with the chances of `world.random_caption`."""
    return Claim(scene, rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.6)


def altered(claim: Claim, rng: random.Random) -> Claim:
    """The claim with one named fact changed, so that it is false of its scene."""
    scene = claim.scene
    sized = claim.size and bool(scene.size)
    weights = {"concept": 1, "count": 2, "style": 2 * claim.style, "colour": 2 * claim.colour, "size": 2 * sized}
    fact = rng.choice([name for name, weight in weights.items() for _ in range(weight)])
    if fact == "concept":
        changed = replace(scene, concept=_other(range(len(CONCEPTS)), scene.concept, rng))
    elif fact == "count":
        changed = replace(scene, count=_other(tuple(COUNTS), scene.count, rng), size="")
    elif fact == "style":
        changed = replace(scene, style=1 - scene.style)
    elif fact == "colour":
        changed = replace(scene, colour=rng.choice([name for name in COLOURS if name != scene.colour]))
    else:
        changed = replace(scene, size="small" if scene.size == "big" else "big")
    return replace(claim, scene=changed)


def _other(options: range | tuple[int, ...], current: int, rng: random.Random) -> int:
    return rng.choice([option for option in options if option != current])


def disturbed(text: str, rng: random.Random) -> str:
    """One text in ten gets an unknown word somewhere, so that one does not upset the rest."""
    if rng.random() < 0.1:
        words = text.split()
        words.insert(rng.randint(0, len(words)), STRANGE)
        return " ".join(words)
    return text


def write_config(folder: Path) -> None:
    """The open_clip config and a word-level tokenizer whose only words are the pocket world's."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    words = ["<pad>", "<unknown>", *vocabulary(), "<start>", "<end>"]  # <end> last: the text tower pools the highest id
    ids = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s]+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", ids["<start>"]), ("<end>", ids["<end>"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unknown>",
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=CONTEXT,
    ).save_pretrained(folder)
    config = {
        "model_cfg": {
            "embed_dim": EMBED,
            "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 24, "head_width": 32},
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": len(words),
                "hf_tokenizer_name": "local",
                "width": 128,
                "heads": 4,
                "layers": 2,
            },
        },
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, claims: list[Claim], scenes: list[Scene]
) -> torch.Tensor:
    """Symmetric cross-entropy in which a claim that happens to be true of another picture is not a negative.

    Args:
        images: [B, D], unit rows.
        texts: [T, D], unit rows; the first B are the captions of `images`, the rest are altered.
        scale: what cosines are multiplied by.
        claims: what the texts say.
        scenes: the facts of the pictures.
    """
    count = len(scenes)
    logits = scale * images @ texts.T
    by_concept: dict[int, list[int]] = {}
    for column, claim in enumerate(claims):
        by_concept.setdefault(claim.scene.concept, []).append(column)
    true = np.zeros(logits.shape, bool)
    for row, scene in enumerate(scenes):
        for column in by_concept.get(scene.concept, ()):
            true[row, column] = column != row and claims[column].is_true_of(scene)
    logits = logits.masked_fill(torch.from_numpy(true), float("-inf"))
    wanted = torch.arange(count)
    return 0.5 * (F.cross_entropy(logits, wanted) + F.cross_entropy(logits[:, :count].T, wanted))


@torch.inference_mode()
def measure(
    model: open_clip.CLIP, tokenize: open_clip.tokenizer.HFTokenizer, composer: Composer, count: int
) -> dict[str, float]:
    """Retrieval among a quarter of `count` scenes with full captions, and the choice of each fact, all others given."""
    samples = [composer.draw() for _ in range(count)]
    few = samples[: count // 4]
    rng = random.Random(HELD_OUT_SEED)

    def encode_images(pictures: list[Sample], *, spoil: bool) -> torch.Tensor:
        ready = [augment(s.image, rng) if spoil else s.image for s in pictures]
        return torch.cat([model.encode_image(part, normalize=True) for part in torch.split(pixels_of(ready), 100)])

    def encode_texts(texts: list[str]) -> torch.Tensor:
        return torch.cat([model.encode_text(part, normalize=True) for part in torch.split(tokenize(texts), 500)])

    figures: dict[str, float] = {}
    clean = encode_images(samples, spoil=False)
    for kind, images in (("clean", clean[: len(few)]), ("spoiled", encode_images(few, spoil=True))):
        claims = [Claim(s.scene, True, True, True) for s in few]
        cosines = images @ encode_texts([c.text for c in claims]).T
        true = torch.tensor([[c.is_true_of(s.scene) for c in claims] for s in few])
        for name, matrix, right in (("image_to_text", cosines, true), ("text_to_image", cosines.T, true.T)):
            for depth in (1, 5):
                hits = right.gather(1, matrix.topk(depth, 1).indices).any(1)
                figures[f"{name}_recall@{depth}_{kind}"] = float(hits.float().mean())
    options: dict[str, list[dict[str, int | str]]] = {
        "concept": [{"concept": i} for i in range(len(CONCEPTS))],
        "style": [{"style": i} for i in range(len(STYLES))],
        "colour": [{"colour": name} for name in COLOURS],
        "count": [{"count": number} for number in COUNTS],
        "size": [{"size": name} for name in ("small", "big")],
    }
    for fact, choices in options.items():
        right_count, asked = 0, 0
        for sample, image in zip(samples, clean, strict=True):
            scene = sample.scene
            if (fact == "size" and not scene.size) or (fact == "concept" and asked == len(few)):
                continue
            base = replace(scene, size="") if fact == "count" else scene
            texts = [caption(replace(base, **choice)) for choice in choices]  # type: ignore[arg-type]
            best = choices[int((encode_texts(texts) @ image).argmax())]
            right_count += all(getattr(scene, key) == value for key, value in best.items())
            asked += 1
        figures[f"{fact}_choice"] = right_count / max(1, asked)
    positive = encode_texts([claim_of(s.scene, rng).text for s in samples])
    figures["cosine_true_caption"] = float((clean * positive).sum(1).mean())
    figures["cosine_other_caption"] = float((clean * positive.roll(1, 0)).sum(1).mean())
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of source packages and training state")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=2000, help="scenes that the figures are measured on")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    out = args.work / "pocket-clip"
    export = out / "export"
    write_config(export)
    composer = Composer(build_sprites(args.work), args.seed)
    tokenize = open_clip.get_tokenizer(f"local-dir:{export}")
    model = open_clip.create_model(f"local-dir:{export}", load_weights=False).to(memory_format=torch.channels_last)
    matrices = [p for name, p in model.named_parameters() if p.ndim > 1 and "embedding" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim <= 1 or "embedding" in name]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.98),
    )
    ema = Ema(model, 0.99)

    def loss_fn(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = random.Random(args.seed * 1_000_003 + step)
        composer.reseed(args.seed * 1_000_003 + step)
        samples = [composer.draw() for _ in range(args.batch)]
        claims = [claim_of(s.scene, rng) for s in samples]
        claims += [altered(claim, rng) for claim in claims for _ in range(ALTERED)]
        pictures = [augment(s.image, rng) if rng.random() < 0.5 else s.image for s in samples]
        pixels = pixels_of(pictures).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            images = model.encode_image(pixels)
            texts = model.encode_text(tokenize([disturbed(claim.text, rng) for claim in claims]))
        images, texts = F.normalize(images.float(), dim=1), F.normalize(texts.float(), dim=1)
        scale = model.logit_scale.exp().clamp(max=100)
        loss = contrastive_loss(images, texts, scale, claims, [s.scene for s in samples])
        own = (images.detach() * texts[: args.batch].detach()).sum(1, keepdim=True)
        wrong = torch.einsum(
            "bd,bkd->bk", images.detach(), texts[args.batch :].detach().reshape(args.batch, ALTERED, -1)
        )
        return loss, {"scale": float(scale.detach()), "prefers_own": float((own > wrong).float().mean())}

    def save(step: int) -> None:
        save_half(ema.module.state_dict(), export / "open_clip_model.safetensors")
        if step < args.steps:
            return
        final = open_clip.create_model(f"local-dir:{export}", require_pretrained=True).eval()
        figures = measure(final, tokenize, composer.reseed(HELD_OUT_SEED), args.held_out)
        print(json.dumps(figures), flush=True)
        card = model_card(
            title="pocket-clip",
            summary="An open_clip model (ResNet of four bottlenecks, text transformer of two layers, word-level "
            "tokenizer) for 64x64 pocket pictures. nbench scores with the cosine of its image and text features.",
            command=f"python -m nbench.pocket.recipes.clip --work WORK --steps {args.steps} --batch {args.batch} "
            f"--lr {args.lr} --seed {args.seed}",
            log=out / "log.jsonl",
            parameters=sum(p.numel() for p in model.parameters()),
            figures=figures,
            figures_say=f"On {args.held_out:,} held-out scenes (seeds that training never drew; the same source "
            f"sprites): recall among {args.held_out // 4} full captions, clean and lightly spoiled pictures (captions "
            "that are true of several count for all of them); `*_choice` is how often the right value of one"
            " fact wins when everything else in the caption is right (124 concepts, 2 styles, 10 colours, 3 "
            "counts, 2 sizes); mean cosines with a true caption and with another picture's.",
        )
        (export / "README.md").write_text(card)

    train(
        out=out,
        steps=args.steps,
        modules={"model": model},
        optimizer=optimizer,
        loss_fn=loss_fn,
        emas=[("model", ema)],
        on_save=save,
        save_every=150,
    )


if __name__ == "__main__":
    main()
