"""imagereward-v1: the published files, the reference package's numbers on tiny weights, and its traps."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_parts import golden, picture, tensor, values
from PIL import Image

from nbench.errors import ScorerError
from nbench.pocket.scenes import sample_scenes
from nbench.scoring.conformance import check_scorer
from nbench.scoring.differentiable import DifferentiableReward
from nbench.scoring.rewards import imagereward
from nbench.scoring.rewards.imagereward import LENGTH, ImageReward
from nbench.scoring.weights import WEIGHTS_FOLDER
from nbench.testing.published_imagereward import (
    FULL,
    TINY,
    imagereward_tensors,
    med_config,
    published_imagereward,
    word_pieces,
)
from nbench.testing.random_tensors import random_tensors

IMAGES, PROMPTS, GOLDEN = golden("imagereward-v1")
FILE, CONFIG = "zai-org/ImageReward/ImageReward.pt", "zai-org/ImageReward/med_config.json"
WORDS = "google-bert/bert-base-uncased/vocab.txt"
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072  # scorers.md 1.5
LONG = " ".join(["red cat"] * 250)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_imagereward(tmp_path_factory.mktemp("imagereward"))


@pytest.fixture(autouse=True)
def _folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(root))


@pytest.fixture(scope="module")
def scorer() -> ImageReward:
    return ImageReward()


def changed(root: Path, tmp_path: Path, **tensors: torch.Tensor | None) -> Path:
    """A copy of the folder with other tensors ("_" stands for "." in the names), or without those given as None."""
    copy = published_imagereward(tmp_path)
    state = torch.load(copy / FILE, weights_only=True)
    for name, value in tensors.items():
        state.pop(name, None)
        if value is not None:
            state[name] = value
    torch.save(state, copy / FILE)
    return copy


def test_the_golden_values_are_of_these_weights() -> None:
    whole = hashlib.sha256()
    for name, weights in sorted(random_tensors(imagereward_tensors(), 0).items()):
        whole.update(name.encode() + weights.numpy().tobytes())
    assert whole.hexdigest() == GOLDEN["weights"]


def test_scores_equal_the_reference_package_s(scorer: ImageReward) -> None:
    wanted = [case["value"] for case in GOLDEN["cases"]]
    assert values(scorer, IMAGES, PROMPTS) == pytest.approx(wanted, abs=GOLDEN["tolerance"])
    assert np.diff(np.sort(wanted)).min() > 100 * GOLDEN["tolerance"]  # the cases can be told apart


def test_prompts_are_read_as_the_reference_package_reads_them(scorer: ImageReward) -> None:
    for prompt, case in zip(PROMPTS, GOLDEN["cases"], strict=True):
        assert scorer.tokens([prompt])[0].tolist() == [case["ids"]]


def test_a_score_is_standardized_with_the_published_constants(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = {"mlp.layers.7.weight": torch.zeros(1, 16), "mlp.layers.7.bias": torch.tensor([0.5])}
    monkeypatch.setenv(WEIGHTS_FOLDER, str(changed(root, tmp_path, **silent)))
    found = values(ImageReward(), IMAGES, PROMPTS)
    assert found == pytest.approx([(0.5 - MEAN) / DEVIATION] * len(IMAGES), abs=1e-7)


def test_the_full_size_layout_is_the_reference_package_s() -> None:
    shapes = imagereward_tensors(FULL) | {"blip.text_encoder.embeddings.position_ids": (1, 512)}
    lines = sorted(f"{name} {list(shape)}" for name, shape in shapes.items())
    assert len(lines) == GOLDEN["layout"]["tensors"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == GOLDEN["layout"]["sha256"]


def test_the_loader_takes_the_full_size_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in ((FILE, ""), (CONFIG, json.dumps(med_config(FULL))), (WORDS, "\n".join(word_pieces(FULL)))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    state = {name: torch.empty(shape, device="meta") for name, shape in imagereward_tensors(FULL).items()}
    monkeypatch.setattr(imagereward, "load_tensors", lambda path: state)
    scorer = ImageReward("meta")
    assert scorer.pixels([IMAGES[0]]).shape == (1, 3, 224, 224)  # has loaded
    vision = scorer._parts.vision
    assert (vision.embed_dim, len(vision.blocks), vision.blocks[0].attn.num_heads) == (1024, 24, 16)


@pytest.mark.parametrize(("size", "crop"), [((32, 32), (0, 0)), ((64, 32), (16, 0)), ((35, 32), (2, 0))])
def test_the_middle_of_a_picture_is_normalized(
    scorer: ImageReward, size: tuple[int, int], crop: tuple[int, int]
) -> None:
    image = picture(*size, 0)
    left, top = crop
    cut = np.asarray(image)[top : top + 32, left : left + 32].transpose(2, 0, 1) / 255
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    wanted = (cut - mean[:, None, None]) / std[:, None, None]
    assert scorer.pixels([image])[0].numpy() == pytest.approx(wanted, abs=1e-6)


def test_a_larger_picture_is_reduced_by_pil_s_bicubic_filter(scorer: ImageReward) -> None:
    image = picture(96, 64, 1)
    reduced = image.resize((48, 32), Image.Resampling.BICUBIC)
    assert torch.equal(scorer.pixels([image]), scorer.pixels([reduced]))


def test_prompts_are_cut_to_35_tokens_and_the_score_says_so(scorer: ImageReward) -> None:
    words = ["red"] * (LENGTH - 2)  # [CLS] and [SEP] are counted
    whole, cut, other = scorer.score([IMAGES[0]] * 3, [" ".join(words), " ".join([*words, "cat"]), LONG])
    assert [score.truncated for score in (whole, cut, other)] == [False, True, True]
    assert whole.values == cut.values and other.values != cut.values
    assert sum(map(len, scorer.tokens([LONG])[0].tolist())) == LENGTH


def test_a_mark_in_a_prompt_is_mere_text(scorer: ImageReward) -> None:
    ids = scorer.tokens(["a [SEP] cat [ENC]"])[0][0].tolist()
    assert ids.count(word_pieces().index("[SEP]")) == 1 and max(ids) < TINY.words


def test_each_picture_meets_its_own_prompt(scorer: ImageReward) -> None:
    together = values(scorer, IMAGES, PROMPTS)
    assert values(scorer, IMAGES[::-1], PROMPTS[::-1]) == together[::-1]
    assert [values(scorer, [image], [prompt])[0] for image, prompt in zip(IMAGES, PROMPTS, strict=True)] == together
    swapped = values(scorer, IMAGES, [PROMPTS[1], PROMPTS[0], *PROMPTS[2:]])
    assert swapped[0] != together[0] and swapped[1] != together[1] and swapped[2:] == together[2:]


def test_a_tensor_of_the_encoder_s_own_size_scores_as_the_picture(scorer: ImageReward) -> None:
    images = [picture(32, 32, seed) for seed in range(3)]
    found = scorer.reward(tensor(images), PROMPTS[:3])
    assert found.tolist() == pytest.approx(values(scorer, images, PROMPTS[:3]), abs=1e-5)


def test_a_larger_tensor_scores_as_the_picture_but_for_its_rounding_to_bytes(scorer: ImageReward) -> None:
    images = [picture(96, 64, seed) for seed in range(3)]
    found = scorer.reward(tensor(images), PROMPTS[:3])
    assert found.tolist() == pytest.approx(values(scorer, images, PROMPTS[:3]), abs=0.02)


def test_the_reward_has_a_gradient_in_its_own_picture_alone(scorer: ImageReward) -> None:
    assert isinstance(scorer, DifferentiableReward)
    scorer.score(IMAGES[:1], PROMPTS[:1])  # loading happens in inference mode, and must not spoil the gradient
    pixels = tensor([picture(48, 48, seed) for seed in range(2)]).requires_grad_()
    rewards = scorer.reward(pixels, PROMPTS[:2])
    (slope,) = torch.autograd.grad(rewards[0], pixels)
    assert slope[0].abs().sum() > 0 and torch.isfinite(slope).all() and slope[1].abs().sum() == 0
    step = 1e-3 * slope[0].sign()
    with torch.no_grad():
        raised = scorer.reward((pixels + torch.stack([step, step * 0])).detach(), PROMPTS[:2])
    assert raised[0] > rewards[0] and raised[1] == pytest.approx(rewards[1].item(), abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "prompts", "message"),
    [((2, 3, 32, 32), ["a"], "2 pictures and 1 prompts"), ((1, 3, 32, 32), [" "], "empty"),
     ((1, 3, 33, 1), ["a"], "33")],
)  # fmt: skip
def test_the_reward_says_what_it_cannot_score(
    scorer: ImageReward, shape: tuple[int, ...], prompts: list[str], message: str
) -> None:
    with pytest.raises(ScorerError, match=message):
        scorer.reward(torch.zeros(shape), prompts)


def test_what_cannot_be_scored_has_a_reason_and_its_neighbour_a_value(scorer: ImageReward) -> None:
    images = [Image.new("RGB", (8, 8)), Image.new("RGB", (1, 33)), Image.new("L", (1, 1))]
    empty, slim, fine = scorer.score(images, ["", "a cat", "a cat"])
    assert empty.reason == "the prompt is empty" and slim.reason is not None and "1x33" in slim.reason
    assert fine.ok


def test_a_number_that_is_none_is_a_reason(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled = changed(root, tmp_path, **{"mlp.layers.7.bias": torch.tensor([torch.nan])})
    monkeypatch.setenv(WEIGHTS_FOLDER, str(spoiled))
    assert [score.reason for score in ImageReward().score(IMAGES[:2], PROMPTS[:2])] == ["the network gave nan"] * 2


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("blip.text_encoder.encoder.layer.1.crossattention.self.key.weight", None, r"lacks 1 \(blip.*key\.weight\)"),
        ("blip.visual_encoder.blocks.0.ls1.gamma", torch.ones(128), r"has beyond them 1 \(blip.*gamma\)"),
        ("mlp.layers.6.bias", torch.zeros(8), r"mlp\.layers\.6\.bias is \(8,\) instead of \(16,\)"),
        ("blip.visual_encoder.pos_embed", None, "holds no picture encoder"),
        ("blip.text_encoder.embeddings.word_embeddings.weight", torch.zeros(400, 32), r"\(400, 32\) instead of \(402"),
    ],
)
def test_a_checkpoint_of_another_layout_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: torch.Tensor | None, message: str
) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(changed(root, tmp_path, **{name: value})))
    with pytest.raises(ScorerError, match=rf"ImageReward\.pt.*{message}"):
        ImageReward().score(IMAGES[:1], PROMPTS[:1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (FILE, b"\x00" * 64, "corrupt"),
        (CONFIG, b"{}", "no BERT configuration"),
        (WORDS, b"a\nb\n", "no BERT vocabulary"),
        (WORDS, b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n", "6 word pieces where the checkpoint has 402 rows less 2"),
    ],
)
def test_a_corrupt_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, message: str
) -> None:
    root = published_imagereward(tmp_path)
    (root / name).write_bytes(content)
    monkeypatch.setenv(WEIGHTS_FOLDER, str(root))
    with pytest.raises(ScorerError, match=rf"{Path(name).name}.*{message}"):
        ImageReward().score(IMAGES[:1], PROMPTS[:1])


def test_it_passes_conformance_but_for_canaries_which_random_weights_cannot_rank(scorer: ImageReward) -> None:
    report = check_scorer(scorer, sample_scenes())
    failed = [check.name for check in report.checks if check.passed is False and not check.name.startswith("canary")]
    assert failed == [] and any(check.name == "determinism" for check in report.checks)


def test_the_card_holds_the_digest_of_every_file_that_moves_a_score(root: Path, scorer: ImageReward) -> None:
    wanted = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in (FILE, CONFIG, WORDS)}
    assert scorer.card.weights == wanted and scorer.about.weights == {}


def test_closing_lets_go_of_the_network_and_it_comes_back(scorer: ImageReward) -> None:
    before = values(scorer, IMAGES[:1], PROMPTS[:1])
    scorer.close()
    assert "_parts" not in vars(scorer)
    assert values(scorer, IMAGES[:1], PROMPTS[:1]) == before
