import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nbench.errors import InfrastructureError, ScorerError
from nbench.flow.weights import file_digest
from nbench.pocket.scenes import sample_scenes
from nbench.scoring import diversity, lpips
from nbench.scoring.conformance import check_scorer
from nbench.scoring.diversity import LpipsDiversity
from nbench.scoring.lpips import ALEXNET, LINEAR, Lpips, TorchHubFile
from nbench.scoring.weights import Source, load_tensors
from nbench.testing.published_diversity import ALEXNET_FILE, alexnet_tensors, published_alexnet

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "scorers" / "diversity-lpips.json").read_text())
SCENES = [image for image, _ in sample_scenes()]
SOURCE = Source(ALEXNET.repo, None, ALEXNET.files, ALEXNET.url)  # without the check of the published file's sha256


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_alexnet(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def distance(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Lpips:
    monkeypatch.setenv("NBENCH_WEIGHTS", str(weights))
    return Lpips(source=SOURCE)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: "x".join(map(str, case["size"])))
def test_distances_are_those_of_the_lpips_package(distance: Lpips, weights: Path, case: dict[str, Any]) -> None:
    assert [hashlib.sha256(image.tobytes()).hexdigest() for image in SCENES[:3]] == GOLDEN["pictures"]
    tensors = load_tensors(weights / ALEXNET.repo / ALEXNET_FILE)
    read = b"".join(tensor.numpy().tobytes() for name, tensor in sorted(tensors.items()) if name.startswith("features"))
    assert hashlib.sha256(read).hexdigest() == GOLDEN["weights"]
    found = distance.distances([image.resize(case["size"], Image.Resampling.NEAREST) for image in SCENES[:3]])
    pairs = [found[0, 1], found[0, 2], found[1, 2]]
    assert pairs == pytest.approx(case["distances"], abs=GOLDEN["tolerance"])
    assert np.array_equal(found, found.T) and not found.diagonal().any()


def test_the_bundled_linear_layers_are_those_of_lpips_0_1_4() -> None:
    linear = load_tensors(LINEAR)
    assert {name: tuple(tensor.shape) for name, tensor in linear.items()} == {
        f"lin{i}.model.1.weight": (1, width, 1, 1) for i, width in enumerate((64, 192, 384, 256, 256))
    }
    assert all(bool((tensor >= 0).all()) for tensor in linear.values())  # as trained: distances cannot be negative
    assert file_digest(LINEAR) == "1c783b2e363ac7e5e191780f7b88f8c446a197ee8e93be3d34da44be22a0ca23"
    assert "Richard Zhang" in (LINEAR.parent / "LICENSE").read_text()


def test_the_published_file_is_the_whole_alexnet_of_torchvision() -> None:
    from torchvision.models import alexnet

    with torch.device("meta"):
        network = alexnet(weights=None)
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == alexnet_tensors()


def test_a_picture_s_distances_have_the_same_bits_in_any_set(distance: Lpips) -> None:
    found = distance.distances(SCENES[:5])
    order = [3, 0, 4]
    assert np.array_equal(distance.distances([SCENES[i] for i in order]), found[np.ix_(order, order)])


def test_it_is_native_size_and_grows_with_what_is_changed(distance: Lpips) -> None:
    small = distance.distances(SCENES[:2])[0, 1]
    large = distance.distances([image.resize((128, 128)) for image in SCENES[:2]])[0, 1]
    assert small != pytest.approx(large, rel=1e-3)
    noise = np.random.default_rng(0).normal(size=(64, 64, 3))
    pixels = np.asarray(SCENES[0], np.float64)
    steps = [Image.fromarray(np.clip(pixels + level * noise, 0, 255).astype(np.uint8)) for level in (0, 4, 16, 64)]
    series = distance.distances(steps)[0].tolist()
    assert series[0] == 0 and series == sorted(series)


def scorer(distance: Lpips) -> LpipsDiversity:
    return LpipsDiversity(diversity.LPIPS, distance)


def test_the_scorer_is_the_mean_over_pairs_and_conforms(distance: Lpips) -> None:
    found = scorer(distance).score_set(SCENES[:4]).values
    matrix = distance.distances(SCENES[:4])
    assert found == {"distance": pytest.approx(matrix.sum() / 12), "set_size": 4.0}
    assert scorer(distance).score_set([SCENES[0]] * 3).values == {"distance": 0.0, "set_size": 3.0}
    report = check_scorer(scorer(distance))
    assert report.passed, [check for check in report.checks if check.passed is False]


def test_unlike_sizes_small_pictures_and_single_ones_give_a_reason(distance: Lpips) -> None:
    cases = {
        "a set of 1": SCENES[:1],
        "30x64": [SCENES[0].resize((30, 64))] * 2,
        "48x48, 64x64": [SCENES[0], SCENES[1].resize((48, 48))],
    }
    for said, images in cases.items():
        reason = scorer(distance).score_set(images).reason
        assert reason is not None and said in reason
    assert scorer(distance).score_set([SCENES[0].resize((31, 31)), SCENES[1].resize((31, 31))]).ok


def test_the_card_holds_both_files(distance: Lpips, weights: Path) -> None:
    found = scorer(distance).card.weights
    assert found == {
        f"{ALEXNET.repo}/{ALEXNET_FILE}": file_digest(weights / ALEXNET.repo / ALEXNET_FILE),
        LINEAR.name: file_digest(LINEAR),
    }


def test_a_file_that_is_not_what_its_name_says_is_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBENCH_WEIGHTS", str(weights))
    with pytest.raises(ScorerError, match=r"alexnet-owt-7be5be79\.pth is corrupt or another file.*download\.pytorch"):
        _ = diversity.lpips("cpu").card


def test_torch_s_hub_cache_is_looked_into(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NBENCH_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ScorerError, match="NBENCH_WEIGHTS"):
        ALEXNET.folder()
    kept = tmp_path / "hub" / "checkpoints"
    kept.mkdir(parents=True)
    content = (weights / ALEXNET.repo / ALEXNET_FILE).read_bytes()
    name = f"alexnet-owt-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (kept / name).write_bytes(content)
    source = TorchHubFile(ALEXNET.repo, None, (name,), ALEXNET.url)
    assert source.folder() == kept and list(source.digests()) == [f"{ALEXNET.repo}/{name}"]
    assert Lpips(source=source).distances(SCENES[:2])[0, 1] > 0


@pytest.mark.parametrize("damage", ["cut", "foreign", "shape"])
def test_damaged_weights_are_named(damage: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBENCH_WEIGHTS", str(tmp_path))
    path = tmp_path / ALEXNET.repo / ALEXNET_FILE
    path.parent.mkdir(parents=True)
    original = weights / ALEXNET.repo / ALEXNET_FILE
    if damage == "cut":
        path.write_bytes(original.read_bytes()[:100_000])
    elif damage == "foreign":
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        torch.save(load_tensors(original) | {"features.0.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(ScorerError, match=r"alexnet-owt-7be5be79\.pth"):
        Lpips(source=SOURCE).distances(SCENES[:2])


def test_too_little_memory_says_what_to_do(distance: Lpips, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(lpips.Lpips, "_distances", full)
    with pytest.raises(InfrastructureError, match="not enough memory for LPIPS of 2 pictures"):
        distance.distances(SCENES[:2])
