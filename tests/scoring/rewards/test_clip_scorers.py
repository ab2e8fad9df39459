"""PickScore, CLIPScore, HPS and the LAION aesthetic: the reference's numbers, conformance, gradients, faults."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from clip_parts import FILES, PICTURES, PROMPTS, golden, picture, tensor, tensors_digest, values
from PIL import Image

from nbench.errors import ScorerError
from nbench.pocket.scenes import sample_scenes
from nbench.scoring.conformance import check_scorer
from nbench.scoring.differentiable import DifferentiableReward
from nbench.scoring.registry import card_identity
from nbench.scoring.rewards import clipscore, hps, laion_aesthetic, pickscore
from nbench.scoring.weights import WEIGHTS_FOLDER

Create = Callable[[str], Any]

SCORERS: dict[str, Create] = {
    "pickscore-v1": pickscore.create,
    "clipscore-l14": clipscore.create,
    "hpsv2.0": hps.create_v20,
    "hpsv2.1": hps.create_v21,
    "aesthetic-laion-v2": laion_aesthetic.create,
}
READ_PROMPTS = [name for name in SCORERS if name != "aesthetic-laion-v2"]
SCALE = {"pickscore-v1": 100.0}  # of the numbers, where it is not about one


def no_hub(*_: object, **__: object) -> None:
    raise OSError("no network in tests")


@functools.cache
def scorer_of(name: str) -> Any:
    """One scorer for all tests that do not care what it has scored before."""
    return SCORERS[name]("cpu")


every = pytest.mark.parametrize("name", SCORERS)
pytestmark = pytest.mark.usefixtures("published")


@every
def test_values_are_those_of_the_reference_code(name: str, published: Path) -> None:
    images, prompts, recorded = golden(name)
    assert tensors_digest(published / FILES[name]) == recorded["tensors"]
    wanted = [case["value"] for case in recorded["cases"]]
    assert values(scorer_of(name), images, prompts) == pytest.approx(wanted, abs=recorded["tolerance"])
    assert max(wanted) - min(wanted) > 1000 * recorded["tolerance"]


@every
def test_it_passes_conformance_as_far_as_random_weights_can(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorer_of(name)
    score = scorer.score
    monkeypatch.setattr(scorer, "score", lambda *given: scorer.forget() or score(*given))  # else it repeats itself
    report = check_scorer(scorer, sample_scenes()[:9])
    checks = {check.name: check for check in report.checks if not check.name.startswith("canary")}
    assert {"determinism", "batch independence", "order independence", "empty batch"} <= set(checks)
    assert ("reads the prompt" in checks) == (name in READ_PROMPTS)
    assert not [check for check in checks.values() if not check.passed]


@every
def test_a_score_has_the_same_bits_in_any_batch(name: str) -> None:
    images, prompts = [picture(40, 32, seed) for seed in range(18)], [f"picture number {i}" for i in range(18)]
    together = values(SCORERS[name]("cpu"), images, prompts)
    for row in (0, 9, 17):
        assert values(SCORERS[name]("cpu"), images[row : row + 1], prompts[row : row + 1]) == [together[row]]
    assert values(SCORERS[name]("cpu"), images[::-1], prompts[::-1]) == together[::-1]


@every
def test_the_card_names_every_file_and_can_be_read_in_part_without_them(
    name: str, published: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scorer = SCORERS[name]("cpu")
    card = scorer.card
    assert card.name == scorer.about.name == name and card.kind == "reward" and card.metrics[0].orientation == "higher"
    files = sum(len(source.files) for source in scorer.sources)
    assert len(card.weights) == files and all(len(digest) == 64 for digest in card.weights.values())
    assert all(source.revision is not None and len(source.revision) == 40 for source in scorer.sources)
    changed = dataclasses.replace(card, weights=dict.fromkeys(card.weights, "0"))
    assert card_identity(changed) != card_identity(card)
    assert not scorer.about.weights
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_hub)
    with pytest.raises(ScorerError, match=rf"{name}: .*NBENCH_WEIGHTS"):
        _ = SCORERS[name]("cpu").card


@every
def test_a_weight_file_cut_short_is_an_error_that_names_it(
    name: str, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    scorer = SCORERS[name]("cpu")
    for source in scorer.sources:
        shutil.copytree(published / source.repo, tmp_path / source.repo, dirs_exist_ok=True)
    path = scorer.sources[0].path(scorer.sources[0].files[-1 if name == "pickscore-v1" else 0])
    if name == "clipscore-l14":
        path = scorer.sources[0].path("model.safetensors|pytorch_model.bin")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ScorerError, match=f"{path.name.replace('+', '.')} is corrupt"):
        scorer.score(PICTURES, PROMPTS)


# Pictures and prompts that are unusual


@every
def test_a_picture_of_another_mode_scores_as_its_rgb_self(name: str) -> None:
    image = picture(48, 32, 3)
    others = [image.convert(mode) for mode in ("L", "RGBA", "P", "1", "CMYK")] + [image.convert("L").convert("I;16")]
    found = values(scorer_of(name), others, PROMPTS)
    assert found == values(scorer_of(name), [other.convert("RGB") for other in others], PROMPTS)
    assert len(set(found)) > 3


@every
def test_a_strip_has_a_reason_and_its_neighbours_their_values(name: str) -> None:
    scorer = scorer_of(name)
    strip = Image.new("RGB", (331, 10))
    first, second, third = scorer.score([PICTURES[0], strip, PICTURES[2]], PROMPTS[:3])
    assert second.reason == "picture of 331x10 pixels: one side is over 32 times the other"
    assert [first, third] == scorer.score([PICTURES[0], PICTURES[2]], [PROMPTS[0], PROMPTS[2]])
    assert scorer.score([Image.new("RGB", (320, 10)), Image.new("RGB", (1, 1))], PROMPTS[:2])[0].ok
    assert scorer.score([Image.new("RGB", (1, 1))], PROMPTS[:1])[0].ok


@every
def test_an_empty_prompt_counts_only_where_prompts_are_read(name: str) -> None:
    scores = scorer_of(name).score(PICTURES[:3], ["", " \n", PROMPTS[0]])
    wanted = "the prompt is empty" if name in READ_PROMPTS else None
    assert [score.reason for score in scores] == [wanted, wanted, None]


@every
def test_a_prompt_of_500_words_is_cut_and_says_so(name: str) -> None:
    long = "many coloured birds " * 167
    plain, cut, short = scorer_of(name).score(PICTURES[:1] * 3, [PROMPTS[0], long, " ".join(long.split()[:60])])
    assert plain.ok and cut.ok
    wanted: tuple[bool | None, ...] = (False, True, False) if name in READ_PROMPTS else (None, None, None)
    assert (plain.truncated, cut.truncated, short.truncated) == wanted


@pytest.mark.parametrize("name", READ_PROMPTS)
def test_what_is_cut_off_does_not_count(name: str) -> None:
    scorer = scorer_of(name)
    long = "many coloured birds " * 40
    one, other = values(scorer, PICTURES[:1] * 2, [long, long + "and a submarine"])
    assert one == other


@pytest.mark.parametrize("name", READ_PROMPTS)
def test_each_picture_is_scored_with_its_own_prompt_only(name: str) -> None:
    scorer = scorer_of(name)
    paired = values(scorer, PICTURES, PROMPTS)
    shifted = values(scorer, PICTURES, PROMPTS[1:] + PROMPTS[:1])
    moved = [abs(a - b) for a, b in zip(paired, shifted, strict=True)]
    assert min(moved) > 0 and max(moved) > 0.05
    for row, value in enumerate(paired):
        assert values(scorer, [PICTURES[row]] * 6, PROMPTS)[row] == value


# Gradients


@every
def test_the_reward_of_a_picture_of_the_network_s_size_is_its_score(name: str) -> None:
    scorer = scorer_of(name)
    assert isinstance(scorer, DifferentiableReward)
    wanted = torch.tensor(values(scorer, PICTURES, PROMPTS))
    found = scorer.reward(tensor(PICTURES), PROMPTS)
    assert found.dtype == torch.float32 and found.shape == (6,)
    assert (found - wanted).abs().max() < 2e-6 * SCALE.get(name, 1.0)  # float rounding in other batches


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("pickscore-v1", 0.2),
        ("clipscore-l14", 5e-3),
        ("hpsv2.0", 2e-6),
        ("hpsv2.1", 2e-6),
        ("aesthetic-laion-v2", 2e-3),
    ],
)
@pytest.mark.parametrize("size", [(64, 48), (50, 75), (24, 20)])
def test_elsewhere_it_is_that_within_the_rounding_of_pil_s_filter(
    name: str, tolerance: float, size: tuple[int, int]
) -> None:
    images = [picture(*size, seed) for seed in range(6)]
    scorer = scorer_of(name)
    wanted = torch.tensor(values(scorer, images, PROMPTS))
    difference = (scorer.reward(tensor(images), PROMPTS) - wanted).abs().max()
    assert difference < tolerance < float(wanted.std())


@every
def test_each_picture_has_its_own_gradient_and_it_points_uphill(name: str) -> None:
    scorer = scorer_of(name)
    scorer.score(PICTURES, PROMPTS)  # loads and remembers everything in inference mode, which must not show
    pixels = (0.1 + 0.8 * tensor([picture(48, 40, seed) for seed in range(4)])).requires_grad_()
    before = scorer.reward(pixels, PROMPTS[:4])
    (gradient,) = torch.autograd.grad(before[1], pixels, retain_graph=True)
    assert gradient[1].any() and not gradient[[0, 2, 3]].any()
    (gradient,) = torch.autograd.grad(before.sum(), pixels)
    step = 1e-3 / gradient.flatten(1).norm(dim=1)
    after = scorer.reward(pixels + step.view(-1, 1, 1, 1) * gradient, PROMPTS[:4])
    assert (after > before).all()
    scorer.score(PICTURES, PROMPTS)
    assert torch.equal(scorer.reward(pixels, PROMPTS[:4]), before)


@every
def test_a_reward_that_has_no_score_is_an_error(name: str) -> None:
    scorer = scorer_of(name)
    with pytest.raises(ScorerError, match=f"{name}: picture of 400x10 pixels"):
        scorer.reward(torch.zeros(1, 3, 10, 400), ["a strip"])
    if name in READ_PROMPTS:
        with pytest.raises(ScorerError, match=f"{name}: the prompt of row 1 is empty"):
            scorer.reward(torch.zeros(2, 3, 32, 32), ["a cat", " "])
        with pytest.raises(ScorerError, match=f"{name}: 2 pictures and 1 prompts"):
            scorer.reward(torch.zeros(2, 3, 32, 32), ["a cat"])
