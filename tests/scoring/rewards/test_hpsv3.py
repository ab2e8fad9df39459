"""hpsv3: the published files, the reference package's numbers on tiny weights, and what it refuses."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_parts import golden, picture
from PIL import Image
from safetensors.torch import load_file, save_file

from nbench.errors import ScorerError
from nbench.pocket.scenes import sample_scenes
from nbench.scoring.conformance import check_scorer
from nbench.scoring.rewards import hpsv3
from nbench.scoring.rewards.hpsv3 import HPSv3, picture_patches
from nbench.scoring.rewards.hpsv3_prompt import REWARD, reward_text
from nbench.scoring.variants import in_variant
from nbench.scoring.weights import WEIGHTS_FOLDER
from nbench.testing.published_hpsv3 import FULL, TINY, base_config, hpsv3_tensors, published_hpsv3, write_tokenizer
from nbench.testing.random_tensors import random_tensors

IMAGES, PROMPTS, GOLDEN = golden("hpsv3")
FILE = "MizzenAI/HPSv3/HPSv3.safetensors"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_hpsv3(tmp_path_factory.mktemp("hpsv3"))


@pytest.fixture(autouse=True)
def _folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(root))


@pytest.fixture(scope="module")
def scorer() -> HPSv3:
    return HPSv3()


def numbers(scorer: HPSv3, images: list[Image.Image], prompts: list[str]) -> list[float]:
    found = []
    for score in scorer.score(images, prompts):
        assert score.values is not None, score.reason
        found.append(score.values[""])
    return found


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        whole.update(name.encode() + tensor.numpy().tobytes())
    return whole.hexdigest()


def test_the_golden_values_are_of_these_weights() -> None:
    assert digest(random_tensors(hpsv3_tensors(), 0)) == GOLDEN["weights"]


def test_both_outputs_equal_the_reference_package_s() -> None:
    scorer = HPSv3()
    scorer.precision = "float32"
    with torch.inference_mode():
        found = [scorer.outputs(image, prompt) for image, prompt in zip(IMAGES, PROMPTS, strict=True)]
    wanted = [(case["mu"], case["log_sigma"]) for case in GOLDEN["cases"]]
    assert np.array(found) == pytest.approx(np.array(wanted), abs=GOLDEN["tolerance"])
    mu = np.sort(np.array(wanted)[:, 0])
    assert np.diff(mu).min() > 10 * GOLDEN["tolerance"]  # the cases can be told apart


def test_scores_in_bfloat16_equal_the_reference_package_s_within_its_rounding(scorer: HPSv3) -> None:
    wanted = [case["mu_bfloat16"] for case in GOLDEN["cases"]]
    assert numbers(scorer, IMAGES, PROMPTS) == pytest.approx(wanted, abs=GOLDEN["tolerance_bfloat16"])


@pytest.mark.parametrize("change", ["grid positions", "exact frequencies"])
def test_what_transformers_5_would_do_by_itself_gives_other_scores(change: str) -> None:
    scorer = HPSv3()
    scorer.precision = "float32"
    pairs = list(zip(IMAGES[:2], PROMPTS[:2], strict=True))
    with torch.inference_mode():
        plain = [scorer.outputs(image, prompt)[0] for image, prompt in pairs]
        body = scorer._parts.body
        if change == "grid positions":
            forward = body.forward

            def with_grid(**given: torch.Tensor) -> object:
                del given["position_ids"]
                kinds = (given["input_ids"] == body.config.image_token_id).int()
                return forward(mm_token_type_ids=kinds, **given)

            body.forward = with_grid
        else:
            rotary = body.language_model.rotary_emb
            rotary.inv_freq = 1.0e6 ** (-torch.arange(0, 32, 2).float() / 32)
        other = [scorer.outputs(image, prompt)[0] for image, prompt in pairs]
    assert np.abs(np.array(plain) - np.array(other)).max() > 10 * GOLDEN["tolerance"]


def test_the_text_is_the_published_rubric_in_the_base_model_s_template() -> None:
    assert hashlib.sha256(reward_text("a cat", 256).encode()).hexdigest() == GOLDEN["text"]
    assert "Textual prompt - {a} %s\n\n\n\nPlease provide" in reward_text("{a} %s", 1)


@pytest.mark.parametrize("sizes", GOLDEN["sizes"], ids=lambda sizes: f"{sizes[0]}x{sizes[1]}")
def test_picture_sizes_are_the_reference_package_s(sizes: list[int]) -> None:
    width, height, to_width, to_height = sizes
    patches, grid = picture_patches(Image.new("RGB", (width, height)))
    assert (grid * 14).tolist() == [[14, to_height, to_width]]
    assert patches.shape == (int(grid.prod()), 3 * 2 * 14 * 14) and patches.dtype == torch.float32


def test_a_picture_at_its_own_size_is_normalized_and_nothing_else() -> None:
    image = picture(448, 448, 0)
    patches, _ = picture_patches(image)
    corner = np.asarray(image)[:14, :14].transpose(2, 0, 1) / 255
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    wanted = (corner - mean[:, None, None]) / std[:, None, None]
    first = patches[0].reshape(3, 2, 14, 14)
    for frame in (first[:, 0], first[:, 1]):
        assert frame.numpy() == pytest.approx(wanted, abs=1e-6)


def test_the_full_size_layout_is_the_reference_package_s() -> None:
    lines = sorted(f"{name} {list(shape)}" for name, shape in hpsv3_tensors(FULL).items())
    assert len(lines) == GOLDEN["layout"]["tensors"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == GOLDEN["layout"]["sha256"]


def test_the_loader_takes_the_full_size_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "Qwen/Qwen2-VL-7B-Instruct"
    base.mkdir(parents=True)
    (base / "config.json").write_text(json.dumps(base_config(FULL)))
    write_tokenizer(base / "tokenizer.json", FULL)
    (tmp_path / FILE).parent.mkdir(parents=True)
    (tmp_path / FILE).touch()
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    state = {name: torch.empty(shape, device="meta") for name, shape in hpsv3_tensors(FULL).items()}
    monkeypatch.setattr(hpsv3, "load_tensors", lambda path: state)
    scorer = HPSv3("meta")
    assert scorer.refusal(IMAGES[0], "a cat") is None  # has loaded
    parameters = sum(tensor.numel() for tensor in scorer._parts.body.parameters())
    assert parameters == sum(t.numel() for name, t in state.items() if not name.startswith(("lm_head.", "rm_head.")))
    assert scorer._parts.tokenizer.token_to_id(REWARD) == 151657  # the published tokenizer's next free id


def spoiled(root: Path, tmp_path: Path, change: str) -> Path:
    """A copy of the folder whose checkpoint is changed."""
    copy = published_hpsv3(tmp_path)
    tensors = load_file(copy / FILE)
    if change == "lacks":
        del tensors["model.layers.1.mlp.up_proj.weight"]
    elif change == "beyond":
        tensors["model.layers.2.mlp.up_proj.weight"] = torch.zeros(1)
    elif change == "shape":
        tensors["rm_head.5.weight"] = torch.zeros(1, 16)
    elif change == "table":
        del tensors["model.embed_tokens.weight"]
    elif change == "rows":
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors[name][:-1].clone()
    elif change == "nan":
        tensors["rm_head.5.bias"][:] = torch.nan
    save_file(tensors, copy / FILE)
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lacks", r"HPSv3\.safetensors.*lacks 1 \(model\.layers\.1\.mlp\.up_proj\.weight\)"),
        ("beyond", r"has beyond them 1 \(model\.layers\.2\.mlp\.up_proj\.weight\)"),
        ("shape", r"rm_head\.5\.weight is \(1, 16\) instead of \(2, 16\)"),
        ("table", r"lacks 1 \(model\.embed_tokens\.weight\)"),
        ("rows", r"tokenizer\.json does not fit MizzenAI/HPSv3: 271 words .* has 270 rows"),
    ],
)
def test_a_checkpoint_of_another_layout_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, message: str
) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(spoiled(root, tmp_path, change)))
    with pytest.raises(ScorerError, match=message):
        HPSv3().score(IMAGES[:1], PROMPTS[:1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (FILE, b"\x00" * 64, "corrupt"),
        ("Qwen/Qwen2-VL-7B-Instruct/tokenizer.json", b"{}", "no tokenizer"),
        ("Qwen/Qwen2-VL-7B-Instruct/config.json", b"not json", "no Qwen2-VL config"),
    ],
)
def test_a_corrupt_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, message: str
) -> None:
    root = published_hpsv3(tmp_path)
    (root / name).write_bytes(content)
    monkeypatch.setenv(WEIGHTS_FOLDER, str(root))
    with pytest.raises(ScorerError, match=rf"{Path(name).name}.*{message}"):
        HPSv3().score(IMAGES[:1], PROMPTS[:1])


def test_a_number_that_is_none_is_a_reason(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(spoiled(root, tmp_path, "nan")))
    (score,) = HPSv3().score(IMAGES[:1], PROMPTS[:1])
    assert score.reason == "the network gave nan"


def test_a_score_has_the_same_bits_in_any_company_and_size(scorer: HPSv3) -> None:
    images, prompts = [*IMAGES[:3], IMAGES[4]], [*PROMPTS[:3], PROMPTS[4]]
    together = numbers(scorer, images, prompts)
    assert [numbers(scorer, [image], [prompt])[0] for image, prompt in zip(images, prompts, strict=True)] == together
    assert numbers(scorer, images[::-1], prompts[::-1]) == together[::-1]


def test_all_of_a_long_prompt_is_read(scorer: HPSv3) -> None:
    words = ["street"] * 500
    scores = scorer.score([IMAGES[0]] * 2, [" ".join(words), " ".join([*words[:-1], "dogs"])])
    assert scores[0].values != scores[1].values
    assert [score.truncated for score in scores] == [False, False]


@pytest.mark.parametrize(
    ("size", "prompt", "reason"),
    [
        ((64, 64), " ", "the prompt is empty"),
        ((64, 64), f"a cat {REWARD}", "control token <|Reward|>"),
        ((64, 64), "<|image_pad|> a cat<|im_end|>", "control token <|im_end|>"),
        ((1, 201), "a cat", "1 x 201"),
    ],
)
def test_what_cannot_be_scored_has_a_reason_and_its_neighbour_a_value(
    scorer: HPSv3, size: tuple[int, int], prompt: str, reason: str
) -> None:
    failed, fine = scorer.score([Image.new("RGB", size), Image.new("L", (1, 200))], [prompt, "a cat"])
    assert failed.reason is not None and reason in failed.reason
    assert fine.ok


def test_it_passes_conformance_but_for_canaries_which_random_weights_cannot_rank(scorer: HPSv3) -> None:
    report = check_scorer(scorer, sample_scenes()[:2])
    assert report.scorer == "hpsv3"
    failed = [check.name for check in report.checks if check.passed is False and not check.name.startswith("canary")]
    assert failed == [] and any(check.name == "determinism" for check in report.checks)


def test_named_scales_multiply_the_score(scorer: HPSv3) -> None:
    (plain,) = numbers(scorer, IMAGES[:1], PROMPTS[:1])
    for name, factor in (("over-15", 1 / 15), ("x0.1", 0.1)):
        (score,) = in_variant(scorer, name).score(IMAGES[:1], PROMPTS[:1])
        assert score.values == {"": pytest.approx(plain * factor, rel=1e-12)}


def test_the_card_holds_the_digest_of_every_file_that_moves_a_score(root: Path, scorer: HPSv3) -> None:
    files = [FILE, *(f"Qwen/Qwen2-VL-7B-Instruct/{name}" for name in ("config.json", "tokenizer.json"))]
    assert scorer.card.weights == {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in files}
    assert scorer.card.heavy and scorer.about.weights == {}


def test_missing_weights_name_the_model_and_the_card_is_readable_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    scorer = HPSv3()
    assert scorer.about.name == "hpsv3"
    with pytest.raises(ScorerError, match=r"MizzenAI/HPSv3@4f81e3e09edd"):
        scorer.score(IMAGES[:1], PROMPTS[:1])


def test_closing_lets_go_of_the_network_and_it_comes_back(scorer: HPSv3) -> None:
    before = numbers(scorer, IMAGES[:1], PROMPTS[:1])
    scorer.close()
    assert "_parts" not in vars(scorer)
    assert numbers(scorer, IMAGES[:1], PROMPTS[:1]) == before


def test_tiny_and_full_differ_in_size_alone() -> None:
    def kinds(names: Mapping[str, object]) -> set[str]:
        return {".".join("N" if part.isdigit() else part for part in name.split(".")) for name in names}

    assert kinds(hpsv3_tensors(TINY)) == kinds(hpsv3_tensors(FULL))
