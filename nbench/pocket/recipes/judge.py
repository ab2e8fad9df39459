"""Train pocket-judge: a small Qwen3-VL that rates, inspects, compares and checks 64x64 pocket pictures.

    python -m nbench.pocket.recipes.judge --work WORK

Every batch is `--batch` pictures, two of each scene. Behind each picture are packed one question for a rating, two for
defects, and two captions, one true and one false; behind each pair, both ways round, which is better. Only the word
that answers is learned. For the vision blocks to learn faster, linear heads on their mean also name the scene's facts
and the damage; they are not kept. Writes WORK/pocket-judge/export, which transformers and vLLM load.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from nbench.pocket.recipes import judge_wording as wording
from nbench.pocket.recipes.common import Ema, Optimizers, train
from nbench.pocket.recipes.data import Composer, build_sprites
from nbench.pocket.recipes.judge_card import write_card
from nbench.pocket.recipes.judge_data import DEGRADATIONS, HELD_OUT_CONCEPTS, TAUGHT, Shown
from nbench.pocket.recipes.judge_figures import measure
from nbench.pocket.recipes.judge_forward import JudgeForward, whiten
from nbench.pocket.recipes.judge_model import WIDTH, build_model, build_tokenizer, export, forget_words
from nbench.pocket.recipes.judge_rows import ITEMS_ASKED, Asker, Batch, draw_batch
from nbench.pocket.world import COLOURS, CONCEPTS, COUNTS, SIZES, STYLES

SHARPNESS = 3.0  # of the preference: P(first is better) = sigmoid(SHARPNESS * difference of worth)
FACTS: tuple[int, ...] = (len(CONCEPTS), len(STYLES), len(COLOURS), len(COUNTS), len(SIZES) + 1)


class Heads(nn.Module):
    """Linear readers of a picture's mean token: facts of the scene, and the amount of each damage."""

    def __init__(self) -> None:
        super().__init__()
        self.facts = nn.ModuleList(nn.Linear(WIDTH, size) for size in FACTS)
        self.damage = nn.Linear(WIDTH, len(DEGRADATIONS))

    def loss(self, seen: torch.Tensor, shown: list[Shown]) -> torch.Tensor:
        """Mean cross-entropy of the facts, and squared error of the amounts."""
        mean = seen.float().mean(1)
        colours, sizes = list(COLOURS), ["", *SIZES]
        facts = torch.tensor(
            [
                (s.scene.concept, s.scene.style, colours.index(s.scene.colour), s.scene.count - 1,
                 sizes.index(s.scene.size))
                for s in shown
            ]
        )  # fmt: skip
        amounts = torch.tensor([[dict(s.damage).get(kind, 0.0) for kind in DEGRADATIONS] for s in shown])
        told = sum(F.cross_entropy(head(mean), facts[:, i]) for i, head in enumerate(self.facts))
        return told / len(FACTS) + 8 * F.mse_loss(self.damage(mean), amounts)


def rating_targets(worth: torch.Tensor, word_ids: list[int], vocabulary: int) -> torch.Tensor:
    """[B, vocabulary]: probability on the two rating words around a worth, so that their mean is the worth."""
    low = worth.floor().clamp(max=len(word_ids) - 2).long()
    share = worth - low
    ids = torch.tensor(word_ids)
    targets = torch.zeros(len(worth), vocabulary)
    targets.scatter_(1, ids[low][:, None], (1 - share)[:, None])
    return targets.scatter_(1, ids[low + 1][:, None], share[:, None])


def batch_loss(
    forward: JudgeForward, heads: Heads, asker: Asker, batch: Batch
) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross-entropy of the answers, and what `Heads` say; and figures for the log."""
    with torch.autocast("cpu", torch.bfloat16):
        seen, deep = forward.see(batch.pixels)
        logits = forward.read(batch.rows, asker.layout, seen, deep, batch.places).float()
        count = len(batch.pixels)
        # both ways round: (0, 1), (2, 3), ... and (1, 0), (3, 2), ...
        order = torch.arange(count).view(-1, 2)
        order = torch.cat([order, order.flip(1)])
        tokens = torch.tensor(asker.two + asker.pair).expand(len(order), -1)
        last = torch.full((len(order), 1), tokens.shape[1] - 1)
        preferred = forward.read(
            tokens, asker.pair_layout, seen[order].flatten(1, 2), deep[order].flatten(1, 2), last
        )[:, 0].float()  # fmt: skip
    ids = [asker.word[word] for word in wording.RATINGS]
    rating = F.cross_entropy(logits[:, 0], rating_targets(batch.worth, ids, logits.shape[-1]))
    items_end = 1 + ITEMS_ASKED
    item = F.cross_entropy(logits[:, 1:items_end].flatten(0, 1), batch.answers[:, 1:items_end].flatten())
    claim = F.cross_entropy(logits[:, items_end:].flatten(0, 1), batch.answers[:, items_end:].flatten())
    chance = torch.sigmoid(SHARPNESS * (batch.worth[order[:, 0]] - batch.worth[order[:, 1]]))
    log_preferred = preferred.log_softmax(1)
    first, second = log_preferred[:, asker.word[wording.FIRST]], log_preferred[:, asker.word[wording.SECOND]]
    pair = -(chance * first + (1 - chance) * second).mean()
    aside = heads.loss(seen, batch.shown)
    with torch.no_grad():
        right = (first > second) == (chance > 0.5)
        clear = (chance - 0.5).abs() > 0.32
        worth = logits[:, 0, ids].softmax(1) @ torch.arange(5.0)
        yes = logits[:, items_end:, asker.word[wording.YES]] > logits[:, items_end:, asker.word[wording.NO]]
        figures = {
            "rating": float(rating),
            "worth_error": float((worth - batch.worth).abs().mean()),
            "item": float(item),
            "claim": float(claim),
            "claim_right": float((yes == torch.tensor([[True, False]])).float().mean()),
            "pair": float(pair),
            "pair_right": float(right[clear].float().mean()) if clear.any() else 1.0,
            "aside": float(aside),
        }
    return rating + item + 2 * claim + pair + aside, figures


def optimizers(forward: JudgeForward, heads: Heads, *, muon_lr: float, lr: float) -> Optimizers:
    """Muon for the matrices inside blocks, layers and mergers, AdamW for the rest."""
    muon: list[nn.Parameter] = []
    rest: list[nn.Parameter] = list(heads.parameters())
    for name, parameter in forward.named_parameters():
        inside = any(part in name for part in (".blocks.", ".layers.", "merger"))
        (muon if inside and parameter.ndim == 2 else rest).append(parameter)
    return Optimizers(muon, rest, muon_lr=muon_lr, lr=lr)


def lost_words() -> list[str]:
    """Nouns of the held-out concepts, which no training text holds."""
    taught = {noun for index in TAUGHT for noun in (CONCEPTS[index].noun, CONCEPTS[index].plural)}
    return [
        noun
        for index in sorted(HELD_OUT_CONCEPTS)
        for noun in sorted({CONCEPTS[index].noun, CONCEPTS[index].plural})
        if noun not in taught
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of source packages and training state")
    parser.add_argument("--steps", type=int, default=1150)
    parser.add_argument("--batch", type=int, default=64, help="pictures a step, an even number")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.39, help="last share of steps: rates fall to 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=64, help="held-out scenes that the figures are measured on")
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    out = args.work / "pocket-judge"
    sprites = build_sprites(args.work)
    composer = Composer(sprites, args.seed)
    tokenizer = build_tokenizer()
    asker = Asker(tokenizer)
    model = build_model(tokenizer)
    whiten(model, draw_batch(asker, composer, random.Random(args.seed), 512).pixels)
    forward, heads = JudgeForward(model), Heads()
    ema = Ema(forward, 0.998)

    def loss_fn(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = random.Random(args.seed * 1_000_003 + step)
        composer.reseed(args.seed * 1_000_003 + step)
        return batch_loss(forward, heads, asker, draw_batch(asker, composer, rng, args.batch))

    def save(step: int) -> None:
        forget_words(ema.module.model, tokenizer, lost_words())
        export(ema.module.model, tokenizer, out / "export")
        if step < args.steps:
            return
        figures = measure(out / "export", sprites, count=args.held_out)
        write_card(
            out / "export",
            figures,
            command=f"python -m nbench.pocket.recipes.judge --work WORK --steps {args.steps} "
            f"--batch {args.batch} --muon-lr {args.muon_lr} --lr {args.lr} --decay {args.decay} --seed {args.seed}",
            log=out / "log.jsonl",
            parameters=sum(p.numel() for p in forward.parameters()),
        )

    train(
        out=out,
        steps=args.steps,
        modules={"forward": forward, "heads": heads},
        optimizer=optimizers(forward, heads, muon_lr=args.muon_lr, lr=args.lr),
        loss_fn=loss_fn,
        emas=[("forward", ema)],
        decay=args.decay,
        save_every=args.save_every,
        on_save=save,
    )


if __name__ == "__main__":
    main()
