"""Rows of tokens that teach pocket-judge: the questions of a picture packed behind it, and what should follow each."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from nbench.pocket.probe import pixels_of
from nbench.pocket.recipes import judge_wording as wording
from nbench.pocket.recipes.clip import STRANGE, claim_of
from nbench.pocket.recipes.data import Composer
from nbench.pocket.recipes.judge_data import Shown, couple, false_claim, items_for
from nbench.pocket.recipes.judge_forward import Layout
from nbench.pocket.recipes.judge_model import PICTURE, PICTURE_TOKENS, START, STOP, VISION_END, VISION_START
from nbench.pocket.world import CONCEPTS

ITEMS_ASKED = 2
CLAIMS_ASKED = 2
RATING_LENGTH, ITEM_LENGTH, CLAIM_LENGTH = 14, 14, 22
NOTHING = -100  # the answer that cross-entropy leaves out
NOUNS = {noun for concept in CONCEPTS for noun in (concept.noun, concept.plural)}


class Asker:
    """Makes the token rows of a batch and says which word should follow where.

    Args:
        tokenizer: of the judge.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.pad = int(tokenizer.pad_token_id)
        self.unknown = int(tokenizer.unk_token_id)
        picture = VISION_START + PICTURE * PICTURE_TOKENS + VISION_END
        self.one = self.ids(f"{START}user\n{picture}")
        self.two = self.ids(f"{START}user\nImage 1:{picture}Image 2:{picture}")
        self.rating = self.turn(wording.RATING, wording.RATING_STEM)
        self.items = {name: self.turn(text) for name, text in wording.ITEMS.items()}
        self.pair = self.turn(wording.PAIR)
        self.word = {word: int(tokenizer.convert_tokens_to_ids(word)) for word in wording.words()}
        image = int(tokenizer.convert_tokens_to_ids(PICTURE))
        lengths = [RATING_LENGTH] + [ITEM_LENGTH] * ITEMS_ASKED + [CLAIM_LENGTH] * CLAIMS_ASKED
        self.starts = [len(self.one) + sum(lengths[:place]) for place in range(len(lengths))]
        self.layout = Layout.of([token == image for token in self.one], lengths)
        self.pair_layout = Layout.of([token == image for token in self.two], [len(self.pair)])

    def ids(self, text: str) -> list[int]:
        """Tokens of a text."""
        return [int(index) for index in self.tokenizer(text)["input_ids"]]

    def turn(self, question: str, stem: str = "") -> list[int]:
        """Tokens of a question, from after the pictures to where its answer begins."""
        return self.ids(f"{question}{STOP}\n{START}assistant\n{stem}")

    def single(self, shown: Shown, rng: random.Random) -> tuple[list[int], list[int], list[int]]:
        """Row of one picture's questions, the places of their last tokens, and the answers; a rating's is `NOTHING`."""
        claim = claim_of(shown.scene, rng)
        wrong = false_claim(claim, rng)
        row, places, answers = list(self.one), [], [NOTHING]

        def add(tokens: list[int], length: int) -> None:
            if len(tokens) > length:
                raise ValueError(f"a question of {len(tokens)} tokens, more than {length}")
            places.append(len(row) + len(tokens) - 1)
            row.extend(tokens + [self.pad] * (length - len(tokens)))

        add(self.rating, RATING_LENGTH)
        for name, present in items_for(shown, rng, ITEMS_ASKED):
            add(self.items[name], ITEM_LENGTH)
            answers.append(NOTHING if present is None else self.word[wording.YES if present else wording.NO])
        claims = [(claim, wording.YES), (wrong, wording.NO)]
        hidden = rng.random() < 0.06 and wrong.scene.concept == claim.scene.concept
        for said, answer in claims:
            text = said.text
            if hidden:  # a noun it does not know must not upset the rest
                text = " ".join(STRANGE if word in NOUNS else word for word in text.split())
            add(self.turn(wording.ALIGNMENT.format(prompt=text)), CLAIM_LENGTH)
            answers.append(self.word[answer])
        return row, places, answers


@dataclass(frozen=True)
class Batch:
    """Pictures 2i and 2i + 1 are a pair. Everything that a step needs, as tensors, but for the facts in `shown`."""

    shown: list[Shown]
    pixels: torch.Tensor
    rows: torch.Tensor
    places: torch.Tensor
    answers: torch.Tensor
    worth: torch.Tensor


def draw_batch(asker: Asker, composer: Composer, rng: random.Random, count: int) -> Batch:
    """`count` pictures (an even number) and the questions about them."""
    shown = [picture for _ in range(count // 2) for picture in couple(composer, rng)]
    rows, places, answers = zip(*(asker.single(picture, rng) for picture in shown), strict=True)
    return Batch(
        shown,
        pixels_of([picture.image for picture in shown]),
        torch.tensor(rows),
        torch.tensor(places),
        torch.tensor(answers),
        torch.tensor([picture.worth for picture in shown]),
    )
