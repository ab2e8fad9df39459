"""What pocket-judge is worth on scenes of concepts that it never saw, in plain figures.

    python -m nbench.pocket.recipes.judge_figures --work WORK --model WORK/pocket-judge/export

Nothing here is drawn from a seed of the training; kinds of `HELD_OUT_KINDS` and the amounts `LEVELS` are new to it too.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.stats import rankdata, spearmanr
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from nbench.pocket.probe import pixels_of
from nbench.pocket.recipes import judge_wording as wording
from nbench.pocket.recipes.clip import Claim
from nbench.pocket.recipes.data import Composer, build_sprites
from nbench.pocket.recipes.judge_data import ALL, DEGRADATIONS, HELD_OUT_CONCEPTS, HELD_OUT_KINDS, LEVELS, TAUGHT
from nbench.pocket.recipes.judge_forward import JudgeForward, Layout
from nbench.pocket.recipes.judge_rows import Asker
from nbench.pocket.world import COLOURS, CONCEPTS, COUNTS, Scene

HELD_OUT_SEED = 987_654_321
CHUNK = 64
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Told:
    """Answers to one question about some pictures: the value of each, and the probability of all its labels."""

    values: Floats
    mass: Floats


class Reader:
    """Asks a judge one question at a time, as transformers and vLLM would, over many pictures at once.

    Args:
        folder: the exported model.
    """

    def __init__(self, folder: Path) -> None:
        model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.forward = JudgeForward(model)
        self.asker = Asker(AutoTokenizer.from_pretrained(folder))
        picture = self.asker.ids("<|image_pad|>")[0]
        self._one, self._two = ([token == picture for token in row] for row in (self.asker.one, self.asker.two))

    @torch.inference_mode()
    def see(self, images: Sequence[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens of pictures, for `rate`, `ask` and `prefer`."""
        parts = [self.forward.see(part) for part in torch.split(pixels_of(list(images)), CHUNK)]
        return torch.cat([seen for seen, _ in parts]), torch.cat([deep for _, deep in parts])

    def rate(self, seen: tuple[torch.Tensor, torch.Tensor]) -> Told:
        """Expected rating of each picture, 0..4."""
        scale = {word: float(value) for value, word in enumerate(wording.RATINGS)}
        return self._told(seen, [self.asker.rating] * len(seen[0]), scale)

    def ask(self, seen: tuple[torch.Tensor, torch.Tensor], questions: Sequence[str]) -> Told:
        """P(yes) of one question per picture."""
        turns = [self.asker.turn(question) for question in questions]
        return self._told(seen, turns, {wording.YES: 1.0, wording.NO: 0.0})

    def prefer(self, seen: tuple[torch.Tensor, torch.Tensor], pairs: Sequence[tuple[int, int]]) -> Told:
        """P(the first is better) of pairs of pictures, by index."""
        order = torch.tensor(pairs)
        both = (seen[0][order].flatten(1, 2), seen[1][order].flatten(1, 2))
        scale = {wording.FIRST: 1.0, wording.SECOND: 0.0}
        return self._told(both, [self.asker.pair] * len(pairs), scale, two=True)

    @torch.inference_mode()
    def _told(
        self,
        seen: tuple[torch.Tensor, torch.Tensor],
        turns: Sequence[list[int]],
        scale: Mapping[str, float],
        *,
        two: bool = False,
    ) -> Told:
        before, pictures = (self.asker.two, self._two) if two else (self.asker.one, self._one)
        ids, worth = [self.asker.word[word] for word in scale], np.array(list(scale.values()))
        values, mass = [], []
        for start in range(0, len(turns), CHUNK):
            some = turns[start : start + CHUNK]
            length = max(map(len, some))
            rows = torch.tensor([before + turn + [self.asker.pad] * (length - len(turn)) for turn in some])
            last = torch.tensor([[len(before) + len(turn) - 1] for turn in some])
            part = slice(start, start + CHUNK)
            logits = self.forward.read(rows, Layout.of(pictures, [length]), seen[0][part], seen[1][part], last)
            chances = logits[:, 0].double().softmax(1)[:, ids].numpy()
            mass.append(chances.sum(1))
            values.append(chances @ worth / mass[-1])
        return Told(np.concatenate(values), np.concatenate(mass))


def area(positive: Floats, negative: Floats) -> float:
    """Area under the ROC curve; ties count half."""
    ranks = rankdata(np.concatenate((positive, negative)))
    wins = ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
    return float(wins / (len(positive) * len(negative)))


def measure(folder: Path, sprites: npt.NDArray[np.uint8], *, count: int) -> dict[str, Any]:
    """All figures, as plain values.

    Args:
        folder: the exported model.
        sprites: of `data.build_sprites`.
        count: scenes of held-out concepts; as many of known ones check the captions.
    """
    reader, composer = Reader(folder), Composer(sprites, HELD_OUT_SEED)
    rng = random.Random(HELD_OUT_SEED)
    scenes = [replace(composer.scene(), concept=rng.choice(sorted(HELD_OUT_CONCEPTS))) for _ in range(count)]
    clean = [composer.render(scene) for scene in scenes]
    seen = {"clean": [reader.see(clean)]}
    for kind in ALL:
        seen[kind] = [reader.see([ALL[kind](image, level, rng) for image in clean]) for level in LEVELS]
    rated = {kind: [reader.rate(one) for one in levels] for kind, levels in seen.items()}
    kinds = {kind: _ladder(reader, kind, seen, rated) for kind in ALL}
    masses = np.concatenate([told.mass for levels in rated.values() for told in levels])
    return {
        "scenes": count,
        "levels": list(LEVELS),
        "held_out_concepts": sorted(CONCEPTS[index].noun for index in HELD_OUT_CONCEPTS),
        "held_out_kinds": list(HELD_OUT_KINDS),
        "clean_rating": float(rated["clean"][0].values.mean()),
        "least_label_mass": float(masses.min()),
        "kinds": kinds,
        "items": _items(reader, seen),
        "alignment": {
            "known concepts": _alignment(reader, composer, rng, TAUGHT, count * 4),
            "held-out concepts": _alignment(reader, composer, rng, sorted(HELD_OUT_CONCEPTS), count * 4),
        },
    }


def _ladder(
    reader: Reader,
    kind: str,
    seen: Mapping[str, list[tuple[torch.Tensor, torch.Tensor]]],
    rated: Mapping[str, list[Told]],
) -> dict[str, Any]:
    """How ratings fall with the amount of a kind, and pairs two levels apart (of the clean picture and the five)."""
    steps = [rated["clean"][0].values, *(told.values for told in rated[kind])]
    amount = np.repeat(np.arange(len(steps)), len(steps[0]))
    within = [float(spearmanr(range(len(steps)), [step[i] for step in steps]).statistic) for i in range(len(steps[0]))]
    rungs = [*seen["clean"], *seen[kind]]
    right, same, first = [], [], []
    for low in range(len(rungs) - 2):
        both = (torch.cat([rungs[low][0], rungs[low + 2][0]]), torch.cat([rungs[low][1], rungs[low + 2][1]]))
        half = len(rungs[low][0])
        ahead = reader.prefer(both, [(i, i + half) for i in range(half)]).values
        behind = reader.prefer(both, [(i + half, i) for i in range(half)]).values
        right.append((ahead + 1 - behind) / 2 > 0.5)
        same.append((ahead - 0.5) * (behind - 0.5) < 0)
        first.append((ahead + behind) / 2)
    return {
        "spearman": -float(spearmanr(amount, np.concatenate(steps)).statistic),
        "spearman_in_picture": -float(np.nanmean(within)),
        "auc_of_rating": [area(steps[0], step) for step in steps[1:]],
        "mean_rating": [float(step.mean()) for step in steps],
        "pairs_right": float(np.mean(right)),
        "swap_consistency": float(np.mean(same)),
        "order_bias": float(np.mean(first) - 0.5),
        "held_out": kind in HELD_OUT_KINDS,
    }


def _items(reader: Reader, seen: Mapping[str, list[tuple[torch.Tensor, torch.Tensor]]]) -> dict[str, dict[str, float]]:
    """How well each item tells its kind, at all levels, from clean pictures and from the other items' kinds."""
    found = {}
    for item, question in wording.ITEMS.items():
        said = {
            kind: np.concatenate([reader.ask(one, [question] * len(one[0])).values for one in seen[kind]])
            for kind in ("clean", *DEGRADATIONS)
        }
        others = np.concatenate([said[kind] for kind in DEGRADATIONS if kind != item])
        found[item] = {
            "auc_against_clean": area(said[item], said["clean"]),
            "auc_against_other_kinds": area(said[item], others),
            "mean_with": float(said[item].mean()),
            "mean_without": float(np.concatenate([said["clean"], others]).mean()),
        }
    return found


def _alignment(
    reader: Reader, composer: Composer, rng: random.Random, concepts: Sequence[int], count: int
) -> dict[str, float]:
    """Share of true captions taken for true, of captions with one fact changed taken for false, and the area."""
    scenes = [replace(composer.scene(), concept=rng.choice(concepts)) for _ in range(count)]
    seen = reader.see([composer.render(scene) for scene in scenes])

    def said(shown: Sequence[Scene]) -> Floats:
        texts = [Claim(scene, style=True, colour=True, size=True).text for scene in shown]
        return reader.ask(seen, [wording.ALIGNMENT.format(prompt=text) for text in texts]).values

    true = said(scenes)
    found = {"true_accepted": float((true > 0.5).mean())}
    for fact in ("concept", "colour", "style", "count"):
        wrong = said([_changed(scene, fact, concepts, rng) for scene in scenes])
        found[f"wrong_{fact}_refused"] = float((wrong < 0.5).mean())
        found[f"wrong_{fact}_auc"] = area(true, wrong)
    return found


def _changed(scene: Scene, fact: str, concepts: Sequence[int], rng: random.Random) -> Scene:
    if fact == "concept":
        return replace(scene, concept=rng.choice([concept for concept in concepts if concept != scene.concept]))
    if fact == "colour":
        return replace(scene, colour=rng.choice([colour for colour in COLOURS if colour != scene.colour]))
    if fact == "style":
        return replace(scene, style=1 - scene.style)
    return replace(scene, count=rng.choice([count for count in COUNTS if count != scene.count]), size="")


def main() -> None:
    """Command line: measure a model, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of source packages")
    parser.add_argument("--model", type=Path, required=True, help="folder of the judge")
    parser.add_argument("--held-out", type=int, default=64, help="scenes")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps(measure(args.model, build_sprites(args.work), count=args.held_out), indent=1))


if __name__ == "__main__":
    main()
