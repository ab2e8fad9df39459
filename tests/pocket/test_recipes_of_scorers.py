"""The recipes of probe, pocket-clip and pocket-aesthetic, on made-up sprites: logic, and a run of two steps each."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F

from nbench.pocket.probe import load_probe
from nbench.pocket.recipes import aesthetic, clip, probe
from nbench.pocket.recipes.cards import save_half
from nbench.pocket.recipes.data import Composer
from nbench.pocket.scenes import sample_scenes
from nbench.pocket.world import CONCEPTS, STYLES, Scene, random_caption
from nbench.scoring.rewards.pocket_aesthetic import PocketAesthetic
from nbench.scoring.rewards.pocket_clip import PocketClip


@pytest.fixture(scope="module")
def sprites() -> np.ndarray:
    draw = np.random.default_rng(0)
    found = draw.integers(0, 256, (len(CONCEPTS), len(STYLES), 16, 16, 4), np.uint8)
    found[..., 3] = 255
    return found


@pytest.fixture(scope="module")
def work(sprites: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    np.savez(folder / "sprites.npz", sprites=sprites)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, recipe: object, work: Path, *flags: str) -> None:
    options = ["--work", str(work), "--steps", "2", "--held-out", "32", *flags]
    monkeypatch.setattr(sys, "argv", ["recipe", *options])
    recipe.main()  # type: ignore[attr-defined]


def test_probe_recipe_makes_a_probe_that_loads_and_a_card(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, probe, work, "--batch", "4")
    folder = work / "pocket-probe" / "export"
    found = load_probe(folder).predict([image for image, _ in sample_scenes()])
    assert found["count"].min() >= 1
    assert "concept_clean" in (folder / "README.md").read_text()


def test_clip_and_aesthetic_recipes_make_scorers_that_load(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, clip, work, "--batch", "6")
    clip_folder = work / "pocket-clip" / "export"
    images, prompts = map(list, zip(*sample_scenes(), strict=True))
    assert all(score.ok for score in PocketClip(clip_folder).score(images, prompts))
    assert "concept_choice" in (clip_folder / "README.md").read_text()

    run(monkeypatch, aesthetic, work, "--clip", str(clip_folder), "--scenes", "20", "--batch", "4")
    folder = work / "pocket-aesthetic" / "export"
    assert all(score.ok for score in PocketAesthetic(folder, clip_folder).score(images, prompts))
    assert "pair_ghost_never_shown" in (folder / "README.md").read_text()


def test_claims_speak_like_the_world_and_are_true_of_their_scene(sprites: np.ndarray) -> None:
    composer = Composer(sprites, 1, size=16)
    for index in range(300):
        scene = composer.scene()
        claim = clip.claim_of(scene, random.Random(index))
        assert claim.is_true_of(scene)
        assert claim.text == random_caption(scene, random.Random(index))


def test_an_altered_claim_is_false_and_reads_differently(sprites: np.ndarray) -> None:
    composer = Composer(sprites, 2, size=16)
    rng = random.Random(0)
    for _ in range(500):
        scene = composer.scene()
        claim = clip.claim_of(scene, rng)
        wrong = clip.altered(claim, rng)
        assert not wrong.is_true_of(scene), (claim.text, wrong.text)
        assert wrong.text != claim.text


def test_a_claim_is_judged_by_what_it_names_alone() -> None:
    dog = Scene(0, 0, "red", 1, "big")
    bare = clip.Claim(dog, style=False, colour=False, size=False)
    full = clip.Claim(dog, style=True, colour=True, size=True)
    other = Scene(0, 1, "blue", 1, "")
    assert bare.is_true_of(other) and not full.is_true_of(other)
    assert not bare.is_true_of(Scene(0, 0, "red", 2, ""))
    assert not bare.is_true_of(Scene(1, 0, "red", 1, "big"))


def test_captions_that_happen_to_be_true_are_no_negatives() -> None:
    draw = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(3, 8, generator=draw), dim=1) for _ in range(2))
    scenes = [Scene(0, 0, "red", 1, ""), Scene(0, 1, "blue", 1, ""), Scene(5, 0, "red", 1, "")]
    bare, coloured = (False, False, False), (False, True, False)
    claims = [clip.Claim(scenes[0], *bare), clip.Claim(scenes[1], *coloured), clip.Claim(scenes[2], *coloured)]
    scale = torch.tensor(5.0)
    logits = scale * images @ texts.T
    logits[1, 0] = float("-inf")  # "a dog" is true of the second dog, too; the second dog's caption is not of the first
    wanted = torch.arange(3)
    by_hand = 0.5 * (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted))
    torch.testing.assert_close(clip.contrastive_loss(images, texts, scale, claims, scenes), by_hand)


def test_the_tokenizer_knows_every_pocket_word_and_says_when_it_does_not(tmp_path: Path) -> None:
    clip.write_config(tmp_path)
    tokenize = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    unknown = vocabulary["<unknown>"]
    for _, text in sample_scenes():
        ids = tokenize([text])[0].tolist()
        assert unknown not in ids
        assert len([i for i in ids if i != vocabulary["<pad>"]]) == len(text.split()) + 2
    assert (tokenize(["A Dog, on a red background!"]) == tokenize(["a dog on a red background"])).all()
    assert tokenize(["a xylophone"])[0].tolist()[2] == unknown
    long = tokenize(["dog " * 40])[0]
    assert len(long) == clip.CONTEXT and long.argmax() == clip.CONTEXT - 1  # <end>, the highest id, is kept


def test_ranking_loss_is_zero_exactly_when_every_margin_is_kept() -> None:
    partners = torch.tensor([1, 0])
    kept = torch.tensor([[3.0, 1.0, 0.5, 1.5, 0.0], [4.0, 2.0, 1.0, 1.0, 0.7]])
    assert aesthetic.ranking_loss(kept, partners) == 0
    assert aesthetic.ranking_loss(kept[:, [0, 2, 1, 4, 3]], partners) > 0  # strong above mild
    assert aesthetic.ranking_loss(kept - torch.tensor([[3.0], [0.0]]), partners) > 0  # clean below another's spoiled


def test_weights_are_stored_in_half_and_integers_are_kept(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state = {"weight": torch.tensor([1.0, 2.5]), "count": torch.tensor(7)}
    save_half(state, tmp_path / "a.safetensors")
    save_half(state, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    found = load_file(tmp_path / "a.safetensors")
    assert found["weight"].dtype == torch.float16 and found["weight"].tolist() == [1.0, 2.5]
    assert found["count"].dtype == torch.int64
