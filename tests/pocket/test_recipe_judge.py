"""The recipe of pocket-judge on made-up sprites: tokenizer, data, fast forward pass, and a run of two steps."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedTokenizerFast,
    Qwen3VLForConditionalGeneration,
)

from nbench.pocket.probe import pixels_of
from nbench.pocket.recipes import judge
from nbench.pocket.recipes import judge_wording as wording
from nbench.pocket.recipes.clip import claim_of
from nbench.pocket.recipes.data import Composer
from nbench.pocket.recipes.judge_data import (
    ALL,
    HELD_OUT_CONCEPTS,
    HELD_OUT_KINDS,
    LEVELS,
    Shown,
    couple,
    false_claim,
    training_amount,
    training_damage,
    training_scene,
)
from nbench.pocket.recipes.judge_figures import area
from nbench.pocket.recipes.judge_forward import JudgeForward, patches, whiten
from nbench.pocket.recipes.judge_model import UNKNOWN, build_model, build_tokenizer, export, forget_words
from nbench.pocket.recipes.judge_rows import CLAIMS_ASKED, ITEMS_ASKED, NOTHING, Asker, draw_batch
from nbench.pocket.scenes import sample_scenes
from nbench.pocket.world import CONCEPTS, STYLES, Scene

PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.fixture(scope="module")
def sprites() -> np.ndarray:
    draw = np.random.default_rng(0)
    found = draw.integers(0, 256, (len(CONCEPTS), len(STYLES), 16, 16, 4), np.uint8)
    found[..., 3] = 255
    return found


@pytest.fixture(scope="module")
def composer(sprites: np.ndarray) -> Composer:
    return Composer(sprites, 0)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def asker(tokenizer: PreTrainedTokenizerFast) -> Asker:
    return Asker(tokenizer)


@pytest.fixture(scope="module")
def folder(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model whose random weights are large enough for its answers to differ."""
    torch.manual_seed(0)
    model = build_model(tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("judge")
    export(model, tokenizer, path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Qwen3VLForConditionalGeneration:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def test_every_label_is_one_token_with_and_without_a_space_before_it(tokenizer: PreTrainedTokenizerFast) -> None:
    labels = (*wording.RATINGS, wording.YES, wording.NO, wording.FIRST, wording.SECOND, "Yes", "No")
    for label in labels:
        ids = tokenizer(label)["input_ids"]
        assert len(ids) == 1 and ids == tokenizer(f" {label}")["input_ids"], label
        assert tokenizer.decode(ids) == label.lower()


def test_the_tokenizer_knows_every_word_of_questions_and_captions(tokenizer: PreTrainedTokenizerFast) -> None:
    unknown = tokenizer.convert_tokens_to_ids(UNKNOWN)
    captions = [wording.ALIGNMENT.format(prompt=text) for _, text in sample_scenes()]
    for text in (wording.RATING, wording.RATING_STEM, *wording.ITEMS.values(), wording.PAIR, *captions):
        assert unknown not in tokenizer(text)["input_ids"], text
    assert tokenizer("xylophone")["input_ids"] == [unknown]


def test_the_fast_pass_equals_transformers_on_every_question(
    folder: Path, model: Qwen3VLForConditionalGeneration, composer: Composer, asker: Asker
) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    batch = draw_batch(asker, composer.reseed(3), random.Random(3), 4)
    fast = JudgeForward(model)
    with torch.inference_mode():
        seen, deep = fast.see(batch.pixels)
        packed = fast.read(batch.rows, asker.layout, seen, deep, batch.places)
        for number, shown in enumerate(batch.shown):
            for place in range(1 + ITEMS_ASKED + CLAIMS_ASKED):
                starts = asker.starts[place]
                question = batch.rows[number, starts : int(batch.places[number, place]) + 1]
                text = f"<|im_start|>user\n{PICTURE}{asker.tokenizer.decode(question)}"
                inputs = processor(text=[text], images=[shown.image], return_tensors="pt")
                theirs = model(**inputs).logits[0, -1]
                torch.testing.assert_close(packed[number, place], theirs, atol=2e-5, rtol=0)
        assert (packed[0, 0] - packed[1, 0]).abs().max() > 1e-2  # the picture matters
        assert (packed[0, 0] - packed[0, 1]).abs().max() > 1e-2  # so does the question


def test_the_fast_pass_equals_transformers_on_pairs_in_the_form_of_the_judge_client(
    folder: Path, model: Qwen3VLForConditionalGeneration, composer: Composer, asker: Asker
) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    one, other = couple(composer.reseed(4), random.Random(4))
    content = [
        {"type": "text", "text": "Image 1:"},
        {"type": "image"},
        {"type": "text", "text": "Image 2:"},
        {"type": "image"},
        {"type": "text", "text": wording.PAIR},
    ]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[one.image, other.image], return_tensors="pt")
    tokens = torch.tensor([asker.two + asker.pair])
    assert inputs["input_ids"].tolist() == tokens.tolist()
    fast = JudgeForward(model)
    with torch.inference_mode():
        seen, deep = (part.flatten(0, 1)[None] for part in fast.see(pixels_of([one.image, other.image])))
        last = torch.tensor([[tokens.shape[1] - 1]])
        ours = fast.read(tokens, asker.pair_layout, seen, deep, last)[0, 0]
        torch.testing.assert_close(ours, model(**inputs).logits[0, -1], atol=2e-5, rtol=0)


def test_a_stem_continues_the_assistants_turn(folder: Path, asker: Asker) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": wording.RATING}]},
        {"role": "assistant", "content": [{"type": "text", "text": wording.RATING_STEM}]},
    ]
    text = processor.apply_chat_template(turns, continue_final_message=True)
    inputs = processor(text=[text], images=[sample_scenes()[0][0]], return_tensors="pt")
    assert inputs["input_ids"].tolist() == [asker.one + asker.rating]


def test_packed_questions_do_not_see_one_another(
    model: Qwen3VLForConditionalGeneration, composer: Composer, asker: Asker
) -> None:
    batch = draw_batch(asker, composer.reseed(5), random.Random(5), 2)
    fast = JudgeForward(model)
    changed = batch.rows.clone()
    changed[:, asker.starts[1] :] = asker.word[wording.YES]  # all questions but the first
    with torch.inference_mode():
        seen, deep = fast.see(batch.pixels)
        before, after = (fast.read(rows, asker.layout, seen, deep, batch.places) for rows in (batch.rows, changed))
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert (before[:, 1] - after[:, 1]).abs().max() > 1e-2


def test_answers_of_a_batch_follow_from_the_pictures(composer: Composer, asker: Asker) -> None:
    batch = draw_batch(asker, composer.reseed(6), random.Random(6), 32)
    yes, no = asker.word[wording.YES], asker.word[wording.NO]
    assert (batch.answers[:, 0] == NOTHING).all()
    assert (batch.answers[:, 1 + ITEMS_ASKED :] == torch.tensor([[yes, no]])).all()
    question_of = {tuple(tokens): name for name, tokens in asker.items.items()}
    for row, answers, shown in zip(batch.rows.tolist(), batch.answers.tolist(), batch.shown, strict=True):
        for place in range(1, 1 + ITEMS_ASKED):
            turn = row[asker.starts[place] : asker.starts[place + 1]]
            while turn[-1] == asker.pad:
                turn.pop()
            present = shown.has(question_of[tuple(turn)])
            assert answers[place] == (NOTHING if present is None else yes if present else no)


def test_held_out_concepts_are_those_of_the_bundled_scenes_and_are_never_taught(
    composer: Composer, asker: Asker
) -> None:
    nouns = {noun for i in HELD_OUT_CONCEPTS for noun in (CONCEPTS[i].noun, CONCEPTS[i].plural)}
    assert len(HELD_OUT_CONCEPTS) == 16
    assert all(nouns & set(text.split()) for _, text in sample_scenes())
    assert set(judge.lost_words()) == nouns
    lost = {asker.tokenizer.convert_tokens_to_ids(noun) for noun in nouns}
    for seed in range(20):
        batch = draw_batch(asker, composer.reseed(seed), random.Random(seed), 16)
        assert not lost & set(batch.rows.flatten().tolist())
        assert not HELD_OUT_CONCEPTS & {shown.scene.concept for shown in batch.shown}


def test_held_out_kinds_and_amounts_are_never_taught() -> None:
    rng = random.Random(0)
    taught = [damage for _ in range(3000) for damage in training_damage(rng)]
    assert not set(HELD_OUT_KINDS) & {kind for kind, _ in taught}
    assert {kind for kind, _ in taught} == set(ALL) - set(HELD_OUT_KINDS)
    assert min(abs(amount - level) for _, amount in taught for level in LEVELS) >= 0.03
    amounts = [training_amount(rng) for _ in range(2000)]
    assert min(amounts) < 0.02 and max(amounts) > 0.98


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_repeats_itself_and_spoils_more_with_the_amount(kind: str) -> None:
    def change(amount: float) -> float:
        found = []
        for image, _ in sample_scenes():
            spoiled = ALL[kind](image, amount, random.Random(1))
            assert spoiled.size == image.size and spoiled.mode == "RGB"
            assert spoiled.tobytes() == ALL[kind](image, amount, random.Random(1)).tobytes()
            found.append(np.abs(np.asarray(spoiled, float) - np.asarray(image, float)).mean())
        return float(np.mean(found))

    assert 0 < change(0.1) < change(0.9)


def test_a_picture_is_worth_less_the_more_was_done_to_it() -> None:
    image, scene = sample_scenes()[0][0], Scene(0, 0, "red", 1, "")
    assert Shown(image, scene, ()).worth == 4.0
    assert [Shown(image, scene, (("blur", amount),)).worth for amount in (0.0, 0.5, 1.0)] == [3.5, 1.75, 0.0]
    assert Shown(image, scene, (("blur", 0.5), ("noise", 0.5))).worth == 0.875


def test_items_are_asked_only_where_the_answer_is_clear() -> None:
    image, scene = sample_scenes()[0][0], Scene(0, 0, "red", 1, "")
    assert Shown(image, scene, (("noise", 0.5),)).has("noise") is True
    assert Shown(image, scene, (("noise", 0.5),)).has("grid") is False
    assert Shown(image, scene, (("melt", 0.5),)).has("blur") is None
    assert Shown(image, scene, (("noise", 0.5), ("grid", 0.5))).has("oversharpen") is None
    assert Shown(image, scene, ()).has("blur") is False


def test_a_false_claim_is_false_of_its_scene(composer: Composer) -> None:
    rng = random.Random(2)
    for _ in range(500):
        scene = training_scene(composer, rng)
        wrong = false_claim(claim_of(scene, rng), rng)
        assert not wrong.is_true_of(scene)


def test_the_rating_words_aimed_at_have_the_worth_as_their_mean() -> None:
    worth = torch.tensor([0.0, 0.3, 1.0, 2.75, 3.5, 4.0])
    targets = judge.rating_targets(worth, [7, 2, 5, 1, 9], 12)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    torch.testing.assert_close(targets[:, [7, 2, 5, 1, 9]] @ torch.arange(5.0), worth)
    assert (targets > 0).sum(1).max() == 2


def test_whitened_patches_have_no_mean_and_no_dominating_component(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    fresh = build_model(tokenizer)
    pixels = pixels_of([image for image, _ in sample_scenes()])
    whiten(fresh, pixels)
    embedding = fresh.model.visual.patch_embed.proj
    with torch.no_grad():
        found = patches(pixels).flatten(0, 1) @ embedding.weight.sum(2).flatten(1).T + embedding.bias
    assert found.mean(0).abs().max() < 1e-3
    assert found.var(0).min() > 0.9 and found.var(0).max() < 1.01
    covariance = found.T @ found / len(found)
    assert (covariance - covariance.diag().diag()).abs().max() < 0.02  # float32; brightness has 3000 times the variance


def test_forgotten_words_read_as_unknown(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    fresh = build_model(tokenizer)
    forget_words(fresh, tokenizer, ["cat"])
    table = fresh.get_input_embeddings().weight
    ids = [int(tokenizer.convert_tokens_to_ids(word)) for word in ("cat", UNKNOWN, "dog")]
    assert torch.equal(table[ids[0]], table[ids[1]]) and not torch.equal(table[ids[0]], table[ids[2]])


def test_area_counts_ties_half() -> None:
    assert area(np.array([1.0, 2.0]), np.array([0.0, 0.5])) == 1.0
    assert area(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert area(np.array([0.0, 2.0]), np.array([1.0])) == 0.5


def test_the_recipe_resumes_and_ends_with_a_folder_that_loads_its_figures_and_a_card(
    sprites: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "sprites.npz", sprites=sprites)
    for steps in ("1", "2"):
        options = ["--work", str(tmp_path), "--batch", "4", "--held-out", "3", "--steps", steps]
        monkeypatch.setattr(sys, "argv", ["judge", *options])
        judge.main()
    assert "resuming" in capsys.readouterr().out
    made = tmp_path / "pocket-judge" / "export"
    assert AutoModelForImageTextToText.from_pretrained(made).config.model_type == "qwen3_vl"
    figures = json.loads((made / "figures.json").read_text())
    assert set(figures["kinds"]) == set(ALL)
    assert set(figures["items"]) == set(wording.ITEMS)
    card = (made / "README.md").read_text()
    assert "pixelate (never taught)" in card and "Steps: 2." in card
