import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nbench.errors import InfrastructureError, ScorerError
from nbench.pocket.scenes import sample_scenes
from nbench.scoring import diversity
from nbench.scoring.backbones import CLIP_L14
from nbench.scoring.conformance import check_scorer
from nbench.scoring.features import DINOV2_BASE, ClipFeatures, DinoV2, PocketFeatures
from nbench.testing.clip_weights import clip_folder
from nbench.testing.published_diversity import DINOV2, FULL, TINY, dinov2_config, dinov2_tensors, published_dinov2

SCENES = [image for image, _ in sample_scenes()]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_dinov2(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def dino(weights: Path, monkeypatch: pytest.MonkeyPatch) -> DinoV2:
    monkeypatch.setenv("NBENCH_WEIGHTS", str(weights))
    return DinoV2()


def test_the_published_names_and_sizes_are_the_whole_full_size_network() -> None:
    from transformers import Dinov2Config, Dinov2Model

    shapes = dinov2_tensors(FULL)
    with torch.device("meta"):
        network = Dinov2Model(Dinov2Config(**dinov2_config(FULL)))
    assert len(shapes) == len(network.state_dict()) == 223
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == network.num_parameters() == 86_580_480
    assert {"/".join(name.split(".")[-2:]) for name in shapes} >= {"query/weight", "dense/bias", "layer_scale2/lambda1"}


def test_features_are_transformers_own_picture_by_picture(dino: DinoV2, weights: Path) -> None:
    from transformers import AutoImageProcessor, AutoModel

    model = AutoModel.from_pretrained(weights / DINOV2).eval()
    processor = AutoImageProcessor.from_pretrained(weights / DINOV2, backend="pil")
    wide = SCENES[0].resize((512, 768), Image.Resampling.BICUBIC)
    for image in [*SCENES[:3], wide]:
        with torch.inference_mode():
            expected = model(**processor(image, return_tensors="pt")).last_hidden_state[:, 0]
        expected = torch.nn.functional.normalize(expected, dim=1)
        assert torch.allclose(dino.rows([image]), expected, atol=1e-5)


def test_the_weights_of_the_file_are_the_weights_of_the_network(dino: DinoV2, weights: Path) -> None:
    from nbench.scoring.weights import load_tensors

    tensors = load_tensors(weights / DINOV2 / "model.safetensors")
    model, _ = dino._network
    attention = model.encoder.layer[1].attention
    assert torch.equal(attention.q_proj.weight, tensors["encoder.layer.1.attention.attention.query.weight"])
    assert torch.equal(attention.o_proj.bias, tensors["encoder.layer.1.attention.output.dense.bias"])
    assert torch.equal(model.embeddings.position_embeddings, tensors["embeddings.position_embeddings"])
    assert model.dtype == torch.float32 and not model.training


# where the crop has an odd number of pixels to cut, transformers and torchvision cut the odd one on opposite sides
@pytest.mark.parametrize("size", [(64, 64), (512, 768), (1024, 1024), (300, 200)])
def test_preprocessing_is_the_evaluation_transform_of_dinov2(dino: DinoV2, size: tuple[int, int]) -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    reference = Compose(
        [
            Resize(256, interpolation=InterpolationMode.BICUBIC),
            CenterCrop(224),
            ToTensor(),
            Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    image = SCENES[3].resize(size, Image.Resampling.BICUBIC)
    _, processor = dino._network
    pixels = processor(images=[image], return_tensors="pt")["pixel_values"][0]
    assert pixels.shape == (3, 224, 224)
    assert torch.allclose(pixels, reference(image), atol=1e-5)


def test_rows_have_unit_length_and_the_same_bits_in_any_company(dino: DinoV2) -> None:
    together = dino.rows(SCENES[:6])
    assert together.shape == (6, TINY.hidden) and together.dtype == torch.float32
    assert torch.allclose(together.norm(dim=1), torch.ones(6), atol=1e-6)
    for i in (0, 5):
        assert torch.equal(dino.rows([SCENES[i]])[0], together[i])
    assert torch.equal(dino.rows(SCENES[5::-1]), together.flip(0))


def test_the_scorer_on_it_conforms_and_its_card_holds_every_file(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBENCH_WEIGHTS", str(weights))
    scorer = diversity.dinov2("cpu")
    assert set(scorer.card.weights) == {f"{DINOV2}/{name}" for name in DINOV2_BASE.files}
    report = check_scorer(scorer, sample_scenes()[:4])
    assert report.passed, [check for check in report.checks if check.passed is False]


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "cut", "config"])
def test_a_file_that_does_not_fit_is_refused(
    change: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    monkeypatch.setenv("NBENCH_WEIGHTS", str(published_dinov2(tmp_path)))
    path = tmp_path / DINOV2 / "model.safetensors"
    tensors = load_file(path)
    if change == "missing":
        del tensors["encoder.layer.0.mlp.fc1.weight"]
    elif change == "unknown":
        tensors["classifier.weight"] = torch.zeros(2)
    elif change == "shape":
        tensors["layernorm.weight"] = torch.zeros(7)
    save_file(tensors, path, metadata={"format": "pt"})
    if change == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif change == "config":
        (tmp_path / DINOV2 / "config.json").write_text("{")
    with pytest.raises(ScorerError, match="facebook/dinov2-base"):
        DinoV2().rows(SCENES[:2])


def test_a_broken_processor_config_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBENCH_WEIGHTS", str(published_dinov2(tmp_path)))
    (tmp_path / DINOV2 / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Nothing"}))
    with pytest.raises(ScorerError, match=r"image processor in .*dinov2-base"):
        DinoV2().rows(SCENES[:2])


class Cramped(PocketFeatures):
    """Runs out of memory above a number of rows."""

    rows_per_forward = 8
    limit = 2

    def forward(self, images: list[Image.Image]) -> torch.Tensor:
        if len(images) > self.limit:
            raise torch.OutOfMemoryError("full")
        return super().forward(images)


def test_forwards_are_halved_until_they_fit() -> None:
    cramped = Cramped()
    assert torch.allclose(cramped.rows(SCENES[:5]), PocketFeatures().rows(SCENES[:5]), atol=1e-6)
    assert cramped.rows_per_forward == 2


def test_a_picture_that_does_not_fit_alone_is_an_error_that_says_what_to_do() -> None:
    cramped = Cramped()
    cramped.limit = 0
    with pytest.raises(InfrastructureError, match="not enough memory for the features of one picture"):
        cramped.rows(SCENES[:5])


def test_pocket_features_are_pocket_clip_s() -> None:
    from nbench.scoring.rewards.pocket_clip import FOLDER, OpenClip

    own = OpenClip(FOLDER, "cpu").image_features(SCENES[:5])
    assert torch.allclose(PocketFeatures().rows(SCENES[:5]), own, atol=1e-6)


@pytest.fixture(scope="module")
def clip_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    clip_folder(root / CLIP_L14.repo)
    return root


def test_clip_features_are_transformers_own(clip_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPImageProcessorPil, CLIPModel

    monkeypatch.setenv("NBENCH_WEIGHTS", str(clip_weights))
    folder = clip_weights / CLIP_L14.repo
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    with torch.inference_mode():
        pixels = processor(images=SCENES[:3], return_tensors="pt")
        expected = model.get_image_features(**pixels).pooler_output
    expected = torch.nn.functional.normalize(expected, dim=1)
    assert torch.allclose(ClipFeatures().rows(SCENES[:3]), expected, atol=1e-5)


def test_clip_s_network_and_features_are_shared_with_other_scorers(
    clip_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbench.scoring.rewards import clipscore

    monkeypatch.setenv("NBENCH_WEIGHTS", str(clip_weights))
    alignment, various = clipscore.create("cpu"), ClipFeatures()
    alignment.score(SCENES[:4], ["a cat"] * 4)
    assert various._clip is alignment.backbone
    encoded: list[int] = []
    encode = alignment.backbone._encode_pixels

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(alignment.backbone, "_encode_pixels", counted)
    various.rows(SCENES[:4])
    assert encoded == []
    various.rows(SCENES[4:6])
    assert len(encoded) == 1


def test_the_scorer_on_clip_conforms(clip_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBENCH_WEIGHTS", str(clip_weights))
    scorer = diversity.clip_l14("cpu")
    assert f"{CLIP_L14.repo}/model.safetensors" in scorer.card.weights
    report = check_scorer(scorer, sample_scenes()[:4])
    assert report.passed, [check for check in report.checks if check.passed is False]
