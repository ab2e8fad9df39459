"""The bundled pocket-judge: what its card claims holds on the bundled scenes, whose concepts it never saw."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from transformers import AutoModelForImageTextToText, AutoProcessor

from nbench.pocket.recipes import judge_wording as wording
from nbench.pocket.recipes.judge_data import ALL, DEGRADATIONS, HELD_OUT_KINDS, LEVELS
from nbench.pocket.recipes.judge_figures import Reader
from nbench.pocket.scenes import sample_scenes
from nbench.scoring.judge.spec import load_judge

FOLDER = Path(wording.__file__).parents[1] / "weights" / "pocket-judge"
Seen = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(FOLDER)


@pytest.fixture(scope="module")
def ladders(reader: Reader) -> dict[str, list[Seen]]:
    """Each kind's rungs: the clean scenes, and five amounts."""
    rng = random.Random(17)
    images = [image for image, _ in sample_scenes()]
    clean = reader.see(images)
    return {
        kind: [clean, *(reader.see([ALL[kind](image, level, rng) for image in images]) for level in LEVELS)]
        for kind in DEGRADATIONS
    }


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_the_rating_falls_with_every_kind(reader: Reader, ladders: dict[str, list[Seen]], kind: str) -> None:
    rungs = np.array([reader.rate(rung).values for rung in ladders[kind]])
    assert np.mean([spearmanr(range(6), values).statistic for values in rungs.T]) < -0.8


def test_pairs_two_levels_apart_are_told_in_both_orders(reader: Reader, ladders: dict[str, list[Seen]]) -> None:
    right, same = [], []
    for rungs in ladders.values():
        for better, worse in zip(rungs, rungs[2:], strict=False):
            both = (torch.cat([better[0], worse[0]]), torch.cat([better[1], worse[1]]))
            ahead = reader.prefer(both, [(i, i + 16) for i in range(16)]).values
            behind = reader.prefer(both, [(i + 16, i) for i in range(16)]).values
            right.append(ahead + 1 - behind > 1)
            same.append((ahead - 0.5) * (behind - 0.5) < 0)
    assert np.mean(right) > 0.9
    assert np.mean(same) > 0.9


def test_labels_hold_nearly_all_of_the_probability(reader: Reader, ladders: dict[str, list[Seen]]) -> None:
    rung = ladders["noise"][3]
    told = [reader.rate(rung), *(reader.ask(rung, [question] * 16) for question in wording.ITEMS.values())]
    assert min(one.mass.min() for one in told) > 0.98


def test_captions_of_other_scenes_are_told_from_true_ones(reader: Reader, ladders: dict[str, list[Seen]]) -> None:
    captions = [wording.ALIGNMENT.format(prompt=text) for _, text in sample_scenes()]
    clean = ladders["blur"][0]
    true, other = reader.ask(clean, captions).values, reader.ask(clean, captions[5:] + captions[:5]).values
    assert (true > other).mean() > 0.9  # by count, colour, style: the nouns are unknown words to it


def test_the_folder_gives_the_same_through_transformers_own_classes(reader: Reader) -> None:
    processor = AutoProcessor.from_pretrained(FOLDER)
    model = AutoModelForImageTextToText.from_pretrained(FOLDER, dtype=torch.float32).eval()
    image = sample_scenes()[3][0]
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": wording.RATING}]},
        {"role": "assistant", "content": [{"type": "text", "text": wording.RATING_STEM}]},
    ]
    text = processor.apply_chat_template(turns, continue_final_message=True)
    with torch.inference_mode():
        chances = model(**processor(text=[text], images=[image], return_tensors="pt")).logits[0, -1].softmax(0)
    words = chances[processor.tokenizer.convert_tokens_to_ids(list(wording.RATINGS))]
    value = float(words @ torch.arange(5.0) / words.sum())
    assert value == pytest.approx(float(reader.rate(reader.see([image])).values[0]), abs=1e-4)


def test_the_bundled_specs_ask_what_it_was_taught() -> None:
    rating, items = load_judge("quality-pocket"), load_judge("items-pocket")
    assert (rating.rubric + rating.question, rating.stem) == (wording.RATING, wording.RATING_STEM)
    assert rating.labels == wording.RATINGS
    assert sorted(rating.scale, key=lambda label: rating.scale[label]) == list(wording.RATINGS)
    assert (items.rubric, items.texts) == ("", tuple(wording.ITEMS.values()))
    assert load_judge("alignment-pocket").texts == (wording.ALIGNMENT,)
    pair = load_judge("pairwise-pocket")
    assert pair.rubric + pair.question == wording.PAIR
    assert pair.scale == {wording.FIRST: 1, wording.SECOND: 0}


def test_the_card_and_figures_are_those_of_the_recipe_and_reach_the_targets() -> None:
    figures = json.loads((FOLDER / "figures.json").read_text())
    assert set(figures["kinds"]) == set(ALL)
    for kind in DEGRADATIONS:
        row = figures["kinds"][kind]
        assert row["spearman_in_picture"] >= 0.8, kind
        assert row["pairs_right"] >= 0.9, kind
        assert row["swap_consistency"] >= 0.9, kind
    assert all(figures["kinds"][kind]["held_out"] for kind in HELD_OUT_KINDS)
    assert "nbench.pocket.recipes.judge --work" in (FOLDER / "README.md").read_text()


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 25_000_000
