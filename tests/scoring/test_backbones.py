"""The networks under CLIP-like scorers: published files load strictly, pixels are the reference's, work is shared."""

import gc
import hashlib
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from clip_parts import GOLDEN, PICTURES, PROMPTS, QUICK, picture, tensor
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from nbench.errors import ScorerError
from nbench.scoring import backbones, encoder
from nbench.scoring.backbones import CLIP_L14, HuggingFaceClip, OpenClip, empty_open_clip, shared_clip, shared_open_clip
from nbench.scoring.encoder import TEXT_ROWS, exact_float32
from nbench.scoring.rewards.clipscore import ClipScore
from nbench.scoring.rewards.laion_aesthetic import LaionAesthetic
from nbench.scoring.rewards.pickscore import PROCESSOR, WEIGHTS
from nbench.scoring.weights import WEIGHTS_FOLDER, Source
from nbench.testing.clip_layout import CLIP_H14, hugging_face_tensors, open_clip_tensors
from nbench.testing.clip_layout import CLIP_L14 as L14
from nbench.testing.clip_weights import clip_folder, open_clip_config, processor_folder

REPO = Source("lab/clip", None, CLIP_L14.files)
PREPROCESSING = json.loads((GOLDEN / "clip-preprocessing.json").read_text())


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny CLIP of one's own, to be spoiled."""
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    return clip_folder(tmp_path / "lab/clip", seed=7)


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """No networks of other tests are about."""
    monkeypatch.setattr(backbones, "_HELD", weakref.WeakValueDictionary())


# Layouts


@pytest.mark.parametrize(("sizes", "parameters", "tensors"), [(L14, 427_616_513, 590), (CLIP_H14, 986_109_441, 910)])
def test_the_published_clip_models_have_the_tensors_that_transformers_expects(
    sizes: Any, parameters: int, tensors: int, tmp_path: Path
) -> None:
    layout = hugging_face_tensors(sizes)
    clip_folder(tmp_path)  # for the form of its config.json
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"] |= {"hidden_size": sizes.text, "intermediate_size": 4 * sizes.text}
    config["text_config"] |= {"num_hidden_layers": sizes.text_layers, "num_attention_heads": sizes.text_heads}
    config["vision_config"] |= {"hidden_size": sizes.vision, "intermediate_size": 4 * sizes.vision}
    config["vision_config"] |= {"num_hidden_layers": sizes.vision_layers, "num_attention_heads": sizes.vision_heads}
    config["vision_config"] |= {"image_size": sizes.image, "patch_size": sizes.patch}
    config["projection_dim"] = sizes.joint
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig.from_dict(config))
    assert shapes_of(model) == layout and len(layout) == tensors
    assert sum(one.numel() for one in model.parameters()) == parameters


def test_hps_has_the_686_tensors_that_its_authors_code_saves() -> None:
    wanted = json.loads((GOLDEN / "hps-vit-h-14.json").read_text())
    model = empty_open_clip(open_clip.get_model_config("ViT-H-14"))
    lines = sorted(f"{name} {list(shape)}" for name, shape in shapes_of(model).items())
    assert set(wanted["examples"]) <= set(lines)
    assert len(lines) == wanted["tensors"]
    assert sum(one.numel() for one in model.parameters()) == wanted["parameters"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == wanted["sha256"]
    assert shapes_of(model) == open_clip_tensors(CLIP_H14)
    assert open_clip_config(CLIP_H14) == open_clip.get_model_config("ViT-H-14")
    assert all(one.is_meta for one in model.parameters()) and not any(one.is_meta for one in model.buffers())


# Loading


def test_a_folder_of_older_transformers_gives_the_same_features(lab: Path, tmp_path: Path) -> None:
    clip_folder(tmp_path / "lab/old", seed=7, old=True)
    old = Source("lab/old", None, REPO.files)
    new_clip, old_clip = (HuggingFaceClip(source, source, "cpu") for source in (REPO, old))
    assert torch.equal(new_clip.image_features(PICTURES), old_clip.image_features(PICTURES))
    assert torch.equal(new_clip.text_features(PROMPTS), old_clip.text_features(PROMPTS))


def test_the_activation_of_the_config_counts(lab: Path, tmp_path: Path) -> None:
    clip_folder(tmp_path / "lab/quick", QUICK, seed=7)
    quick = Source("lab/quick", None, REPO.files)
    plain, other = (HuggingFaceClip(source, source, "cpu").image_features(PICTURES) for source in (REPO, quick))
    assert 1e-4 < (plain - other).abs().max() < 0.5


def test_a_half_precision_file_computes_in_float32(lab: Path) -> None:
    state = {name: one.half() for name, one in load_file(lab / "model.safetensors").items()}
    save_file(state, lab / "model.safetensors")
    clip = HuggingFaceClip(REPO, REPO, "cpu")
    assert clip.image_features(PICTURES).dtype == torch.float32
    assert {one.dtype for one in clip._model.parameters()} == {torch.float32}


def test_the_network_is_frozen_in_eval_mode_and_its_attention_is_pinned(lab: Path) -> None:
    model = HuggingFaceClip(REPO, REPO, "cpu")._model
    assert not model.training and not any(one.requires_grad for one in model.parameters())
    assert model.config._attn_implementation == "sdpa"
    assert not any(one.is_meta for one in [*model.parameters(), *model.buffers()])


def without(state: dict[str, torch.Tensor]) -> None:
    del state["visual_projection.weight"]


def with_more(state: dict[str, torch.Tensor]) -> None:
    state["extra.weight"] = torch.zeros(2)


def reshaped(state: dict[str, torch.Tensor]) -> None:
    state["visual_projection.weight"] = torch.zeros(3, 32)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(without, "lacks 1"), (with_more, "has beyond them 1"), (reshaped, "has in another shape 1")],
)
def test_a_file_that_does_not_fit_is_refused(lab: Path, spoil: Callable[[Any], None], said: str) -> None:
    state = load_file(lab / "model.safetensors")
    spoil(state)
    save_file(state, lab / "model.safetensors")
    name = "extra.weight" if spoil is with_more else "visual_projection.weight"
    with pytest.raises(ScorerError, match=rf"model\.safetensors is not the published.*{said} \({name}"):
        HuggingFaceClip(REPO, REPO, "cpu").image_features(PICTURES)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_cut_short_is_named(lab: Path, name: str) -> None:
    content = (lab / name).read_bytes()
    (lab / name).write_bytes(content[: len(content) // 2])
    clip = HuggingFaceClip(REPO, REPO, "cpu")
    with pytest.raises(ScorerError, match=name.replace(".", r"\.")):
        clip.image_features(PICTURES), clip.text_features(PROMPTS)


def test_a_checkpoint_of_open_clip_loads_from_its_state_dict(published: Path, tiny_open_clip: str) -> None:
    path = published / "xswu/HPSv2/HPS_v2.1_compressed.pt"
    clip = OpenClip(tiny_open_clip, path, "cpu")
    reference = open_clip.create_model(tiny_open_clip)
    reference.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    reference.eval()
    with torch.inference_mode():
        pictures = reference.encode_image(clip.pixels(PICTURES), normalize=True)
        texts = reference.encode_text(open_clip.get_tokenizer("ViT-H-14")(PROMPTS), normalize=True)
    torch.testing.assert_close(clip.image_features(PICTURES), pictures, atol=2e-6, rtol=0)
    torch.testing.assert_close(clip.text_features(PROMPTS), texts, atol=2e-6, rtol=0)
    assert clip.logit_scale == pytest.approx(99.48, abs=0.01)


def test_a_checkpoint_of_another_size_is_refused(published: Path) -> None:
    path = published / "xswu/HPSv2/HPS_v2.1_compressed.pt"
    with pytest.raises(ScorerError, match=r"HPS_v2\.1_compressed\.pt is not the published.*686 tensors it lacks"):
        OpenClip("ViT-H-14", path, "cpu").image_features(PICTURES)


# Pixels and tokens


def assert_golden(pixels: torch.Tensor, case: dict[str, Any], tolerance: float) -> None:
    assert pixels.shape == (3, 224, 224)
    for point in case["points"]:
        assert float(pixels[tuple(point["at"])]) == pytest.approx(point["value"], abs=tolerance), point
    assert float(pixels.double().mean()) == pytest.approx(case["mean"], abs=tolerance)
    assert float(pixels.double().std()) == pytest.approx(case["deviation"], abs=tolerance)


def test_a_picture_of_512_by_768_is_letter_boxed_as_hps_s_authors_do() -> None:
    golden = PREPROCESSING["letter_box"]
    clip = OpenClip("ViT-H-14", Path("never read"), "cpu")
    for case in golden["cases"]:
        image = picture(*case["picture"])
        assert hashlib.sha256(image.tobytes()).hexdigest() == case["sha256"]
        assert_golden(clip.pixels([image])[0], case, golden["tolerance"])
        assert torch.equal(clip.tensor_pixels(tensor([image])), clip.pixels([image]))


def test_the_centre_crop_is_that_of_transformers_on_pil(published: Path, tmp_path: Path) -> None:
    golden = PREPROCESSING["centre_crop"]
    folder = processor_folder(tmp_path / "big", L14, old=True)
    source = Source(str(folder), None, ("preprocessor_config.json",))
    clip = HuggingFaceClip(source, source, "cpu")
    for case in golden["cases"]:
        image = picture(*case["picture"])
        assert hashlib.sha256(image.tobytes()).hexdigest() == case["sha256"]
        pixels = clip.pixels([image])[0]
        assert_golden(pixels, case, golden["tolerance"])
        # torch's filter for PIL's: at most a few grey levels (one is 0.015 here), and the crop is the same
        difference = (clip.tensor_pixels(tensor([image]))[0] - pixels).abs()
        assert difference.mean() < 0.01 and difference.max() < 0.1, case["picture"]


@pytest.mark.parametrize("size", [(32, 33), (37, 32), (32, 32), (32, 50)])
def test_without_a_resize_the_crop_of_tensors_is_that_of_pictures(lab: Path, size: tuple[int, int]) -> None:
    clip, image = HuggingFaceClip(REPO, REPO, "cpu"), picture(*size, 40)
    torch.testing.assert_close(clip.tensor_pixels(tensor([image])), clip.pixels([image]), atol=1e-6, rtol=0)


def test_tokens_are_clip_s_own(lab: Path) -> None:
    clip = HuggingFaceClip(REPO, REPO, "cpu")
    tokens = clip.tokens(["a photo of a cat"])
    assert tokens.shape == (1, 77)
    assert tokens[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    tokenize = open_clip.get_tokenizer("ViT-H-14")
    texts = [*PROMPTS, "It's 3:45 -- DON'T panic!", "a  b\tc\nd", "café ÅNGSTRÖM 北京 🚀", "word " * 500]
    for ours, theirs in zip(clip.tokens(texts).tolist(), tokenize(texts).tolist(), strict=True):
        end = theirs.index(49407) + 1
        assert ours[:end] == theirs[:end] and set(ours[end:]) <= {49407}


@pytest.mark.parametrize("family", ["transformers", "open_clip"])
def test_truncation_begins_after_77_tokens(lab: Path, family: str) -> None:
    hugging_face, other = HuggingFaceClip(REPO, REPO, "cpu"), OpenClip("ViT-H-14", Path("never read"), "cpu")
    clip = hugging_face if family == "transformers" else other
    assert not clip.truncated("") and not clip.truncated("cat " * 75)  # 75 words and two marks
    assert clip.truncated("cat " * 76) and clip.truncated("word " * 500)


# Sharing


def test_scorers_on_one_clip_share_the_network_and_the_features(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    encode = HuggingFaceClip._encode_pixels
    monkeypatch.setattr(
        HuggingFaceClip, "_encode_pixels", lambda self, pixels: rows.append(len(pixels)) or encode(self, pixels)
    )
    one, other = ClipScore(), LaionAesthetic()
    assert one.backbone is other.backbone is shared_clip(CLIP_L14, "cpu")
    first = one.score(PICTURES, PROMPTS)
    assert rows == [16]
    alone = other.score(PICTURES, PROMPTS)
    assert rows == [16] and all(score.ok for score in alone)
    new = [*PICTURES[:2], picture(32, 32, 50)]
    other.score(new, ["", "", ""])
    assert rows == [16, 16]  # one new picture, filled up
    assert one.score(PICTURES, PROMPTS) == first


def test_a_scorer_that_forgets_encodes_again_and_finds_the_same(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = ClipScore()
    first = scorer.score(PICTURES, PROMPTS)
    asked: list[str] = []
    for part in ("_encode_pixels", "_encode_tokens"):
        encode = getattr(scorer.backbone, part)
        monkeypatch.setattr(scorer.backbone, part, lambda x, e=encode, part=part: asked.append(part) or e(x))
    assert scorer.score(PICTURES, PROMPTS) == first and not asked
    scorer.forget()
    assert scorer.score(PICTURES, PROMPTS) == first and set(asked) == {"_encode_pixels", "_encode_tokens"}


def test_a_picture_painted_over_is_another_picture(published: Path) -> None:
    scorer, image = ClipScore(), PICTURES[0].copy()
    before = scorer.score([image], PROMPTS[:1])
    image.paste(PICTURES[1])
    assert scorer.score([image], PROMPTS[:1]) == scorer.score([PICTURES[1]], PROMPTS[:1]) != before


def test_pictures_of_the_same_bytes_but_another_shape_are_not_mixed_up(published: Path) -> None:
    from PIL import Image

    clip = shared_clip(CLIP_L14, "cpu")
    wide = picture(64, 32, 0)
    high = Image.frombytes("RGB", (32, 64), wide.tobytes())
    both = clip.image_features([wide, high])
    assert (both[0] - both[1]).abs().max() > 1e-3


def test_each_text_is_encoded_once_and_a_bounded_number_is_kept(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, asked = HuggingFaceClip(REPO, REPO, "cpu"), []
    encode = clip._encode_tokens
    monkeypatch.setattr(clip, "_encode_tokens", lambda tokens: asked.append(len(tokens)) or encode(tokens))
    first = clip.text_features([*PROMPTS, *PROMPTS])
    assert first.shape[0] == 12 and torch.equal(first[:6], first[6:]) and asked == [TEXT_ROWS, TEXT_ROWS]
    assert torch.equal(clip.text_features(PROMPTS[::-1]), first[:6].flip(0)) and len(asked) == 2
    monkeypatch.setattr(encoder, "KEPT_TEXTS", 3)
    assert torch.equal(clip.text_features([*PROMPTS, "another"])[:6], first[:6])
    assert list(clip._texts) == [*PROMPTS[-2:], "another"]
    again = clip.text_features(PROMPTS)
    assert torch.equal(again, first[:6])  # the same bits when made again, in other company


def test_a_row_s_bits_do_not_depend_on_its_company(lab: Path) -> None:
    def fresh(images: list[Any]) -> torch.Tensor:
        return HuggingFaceClip(REPO, REPO, "cpu").image_features(images)

    images = [picture(32, 32, seed) for seed in range(20)]
    together = fresh(images)
    assert torch.equal(fresh(images[::-1]).flip(0), together)
    for row in (0, 7, 19):
        assert torch.equal(fresh([images[row]])[0], together[row])


def test_the_network_goes_when_the_last_scorer_closes(published: Path) -> None:
    gc.collect()
    one, other = ClipScore(), LaionAesthetic()
    one.score(PICTURES, PROMPTS), other.score(PICTURES, PROMPTS)
    alive = weakref.ref(one.backbone._model)
    one.close()
    gc.collect()
    assert alive() is not None  # the other still needs it
    other.close()
    gc.collect()
    assert alive() is None
    assert all(score.ok for score in one.score(PICTURES, PROMPTS))  # and comes back when asked for


def test_other_weights_in_the_same_place_of_another_root_are_another_network(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = shared_clip(WEIGHTS, "cpu", PROCESSOR)
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    clip_folder(tmp_path / WEIGHTS.repo, seed=9)
    processor_folder(tmp_path / PROCESSOR.repo)
    there = shared_clip(WEIGHTS, "cpu", PROCESSOR)
    assert here is not there
    assert shared_open_clip("ViT-H-14", Path("a"), "cpu") is not shared_open_clip("ViT-H-14", Path("b"), "cpu")


# Numerics


def test_autocast_and_tf32_of_the_caller_do_not_reach_the_network(lab: Path) -> None:
    plain = HuggingFaceClip(REPO, REPO, "cpu").image_features(PICTURES)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            clip = HuggingFaceClip(REPO, REPO, "cpu")
            assert torch.equal(clip.image_features(PICTURES), plain)
            assert clip.tensor_image_features(tensor(PICTURES)).dtype == torch.float32
            with exact_float32("cpu"):
                assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
                assert not torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium" and torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_features_have_length_one(published: Path) -> None:
    clip = shared_clip(CLIP_L14, "cpu")
    rows = [clip.image_features(PICTURES), clip.text_features(PROMPTS), clip.tensor_image_features(tensor(PICTURES))]
    for features in rows:
        torch.testing.assert_close(features.norm(dim=1), torch.ones(6))
