"""Training on one's own pictures: what it refuses, what it learns, and that it can be stopped."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nbench.errors import ScorerError, UsageError
from nbench.scoring.realism import own
from nbench.scoring.realism.backbone import HeadOnBackbone, fit_head, load_backbone
from nbench.scoring.realism.detector import load_detector
from nbench.scoring.realism.fit import detector_loss, fit, pair_batch
from nbench.scoring.realism.network import RealismNet
from nbench.scoring.realism.own import TrainSettings, read_sides, train_detector
from nbench.scoring.realism.own_figures import measure_own, write_facts
from nbench.scoring.realism.views import View

SETTINGS = TrainSettings("stripes", size=32, steps=40, batch=16, lr=2e-3)


def stripes(seed: int, *, upright: bool) -> Image.Image:
    """Noise with stripes that stand or lie: a difference that survives every disturbance."""
    draw = np.random.default_rng(seed)
    period, phase = draw.uniform(6, 9), draw.uniform(0, 6)
    wave = 80 * np.sin(2 * np.pi * (np.arange(40) + phase) / period)
    picture = 128 + (wave[None, :] if upright else wave[:, None]) + draw.normal(0, 10, (40, 40))
    return Image.fromarray(np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, 2))


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("sides")
    for name, upright in (("real", True), ("fake", False)):
        (root / name).mkdir()
        for i in range(60):
            stripes(1000 * upright + i, upright=upright).save(root / name / f"scene{i // 2}-{i % 2}.png")
    return root / "real", root / "fake"


def test_a_net_from_scratch_learns_what_tells_the_sides_apart(sides: tuple[Path, Path], tmp_path: Path) -> None:
    parts = read_sides(*sides, SETTINGS)
    config = train_detector(parts, tmp_path / "out", SETTINGS, command="a test")
    check, bins = measure_own(tmp_path / "out", parts)
    write_facts(tmp_path / "out", config, parts, SETTINGS, check, bins)
    assert check.auc is not None and check.auc.value > 0.95
    assert not (tmp_path / "out" / "training").exists()
    facts = json.loads((tmp_path / "out" / "detector.json").read_text())
    assert facts["figures"]["auc"]["value"] == check.auc.value
    assert facts["trained_on"]["real"]["groups"] + facts["held_out"]["real"]["groups"] == 30
    scores = load_detector(tmp_path / "out").score([stripes(7777, upright=up) for up in (True, False)], ["", ""])
    assert scores[0].values is not None and scores[1].values is not None
    assert scores[0].values[""] > scores[1].values[""]


def test_a_stopped_training_ends_as_a_straight_one(tmp_path: Path) -> None:
    asked: list[int] = []

    def draw(rng: random.Random, count: int) -> tuple[list[Image.Image], list[Image.Image]]:
        asked.append(count)
        if len(asked) == stop_at:
            raise KeyboardInterrupt
        sides = [[stripes(rng.randrange(99), upright=upright) for _ in range(count)] for upright in (True, False)]
        return sides[0], sides[1]

    def run(out: Path) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        net = RealismNet((4, 8))
        return fit(net, View("crop", 32), draw, out=out, steps=6, batch=8, lr=1e-3, seed=0, save_every=2).state_dict()

    stop_at = 0
    straight = run(tmp_path / "straight")
    stop_at = len(asked) + 6
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    stop_at = 0
    resumed = run(tmp_path / "stopped")
    assert len(asked) == 6 + 6 + 2  # the last two steps were made again
    finished = run(tmp_path / "stopped")
    assert len(asked) == 14
    for name, value in straight.items():
        assert torch.equal(resumed[name], value) and torch.equal(finished[name], value), name


def test_an_unfinished_training_of_something_else_is_not_gone_on_with(
    sides: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    few = replace(SETTINGS, steps=2, batch=4)
    monkeypatch.setattr(own, "_save", stop)
    for _ in range(2):  # the same command goes on
        with pytest.raises(KeyboardInterrupt):
            train_detector(read_sides(*sides, few), tmp_path, few, command="a test")
    other = replace(few, seed=3)
    with pytest.raises(UsageError, match="unfinished training of other pictures or settings"):
        train_detector(read_sides(*sides, other), tmp_path, other, command="a test")


def test_sides_of_another_encoding_are_refused_unless_that_is_allowed(sides: tuple[Path, Path], tmp_path: Path) -> None:
    for path in sides[0].iterdir():
        with Image.open(path) as image:
            image.save(tmp_path / f"{path.stem}.jpg", quality=90)
    with pytest.raises(UsageError, match=r"would learn the difference of the folders.*--allow-bias"):
        read_sides(tmp_path, sides[1], SETTINGS)
    parts = read_sides(tmp_path, sides[1], replace(SETTINGS, allow_bias=True))
    assert parts.biases and parts.biases[0].startswith("the format differs")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"group": "(s)cene.*"}, r"60 pictures in 1 groups by name \(s\)"),
        ({"size": 64}, r"is 40x40 \(60 such pictures\), smaller than the 64 pixels"),
        ({"held_out": 0.01}, "leaves .* too few on one side"),
    ],
)
def test_what_cannot_be_trained_is_explained(sides: tuple[Path, Path], change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_sides(*sides, replace(SETTINGS, **change))  # type: ignore[arg-type]


def backbone(folder: Path) -> Path:
    """A timm backbone in the hub's layout, with a classifier as published ones have."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=10, channels=(16, 16, 32, 32))
    folder.mkdir(parents=True)
    save_file(net.state_dict(), folder / "model.safetensors")
    given = {"input_size": [3, 32, 32], "classifier": "fc", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    config = {"architecture": "resnet10t", "model_args": {"channels": [16, 16, 32, 32]}, "pretrained_cfg": given}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_head_on_a_backbone_learns_too_and_needs_no_backbone_afterwards(
    sides: tuple[Path, Path], tmp_path: Path
) -> None:
    import shutil

    settings = replace(SETTINGS, backbone=backbone(tmp_path / "backbone"))
    parts = read_sides(*sides, settings)
    config = train_detector(parts, tmp_path / "out", settings, command="a test")
    shutil.rmtree(tmp_path / "backbone")
    assert config.view.mean == (0.4, 0.5, 0.6) and config.architecture == "resnet10t"
    check, _ = measure_own(tmp_path / "out", parts)
    assert check.auc is not None and check.auc.value > 0.9


def test_a_backbone_of_another_size_or_layout_is_refused(sides: tuple[Path, Path], tmp_path: Path) -> None:
    folder = backbone(tmp_path / "backbone")
    settings = replace(SETTINGS, backbone=folder, size=24)
    with pytest.raises(UsageError, match="takes 32 pixels: pass --size 32"):
        train_detector(read_sides(*sides, settings), tmp_path / "out", settings, command="a test")
    (folder / "config.json").write_text("{}")
    with pytest.raises(ScorerError, match="no backbone in timm's hub layout"):
        load_backbone(folder)


def test_the_head_is_the_minimum_of_its_penalised_loss() -> None:
    LogisticRegression = pytest.importorskip("sklearn.linear_model").LogisticRegression
    torch.manual_seed(0)
    labels = torch.tensor([1.0] * 30 + [0.0] * 90)
    rows = torch.randn(120, 3) * torch.tensor([1.0, 10.0, 0.1]) + labels[:, None] * torch.tensor([1.0, 5.0, 0.0])
    net = _head(3)
    fit_head(net, rows, labels, penalty=0.05)
    normal = ((rows - rows.mean(0)) / rows.std(0)).numpy()
    wanted = LogisticRegression(C=1 / (0.05 * 120), class_weight="balanced", tol=1e-9, max_iter=1000)
    wanted.fit(normal, labels.numpy())
    assert net.head.weight.detach().numpy()[0] == pytest.approx(wanted.coef_[0], abs=1e-4)
    assert float(net.head.bias.detach()) == pytest.approx(float(wanted.intercept_[0]), abs=1e-4)


def _head(width: int) -> HeadOnBackbone:
    plain = torch.nn.Identity()
    plain.num_features = width  # type: ignore[assignment]
    return HeadOnBackbone(plain)


def test_a_batch_has_both_sides_and_knows_which_picture_a_copy_was_made_of() -> None:
    real = [Image.new("RGB", (32, 32), (255, 255, 255))] * 30
    fake = [Image.new("RGB", (32, 32))] * 30
    pixels, labels, copies, origins = pair_batch(View("crop", 32), real, fake, random.Random(0))
    known = 60 + len(copies)
    assert len(labels) == len(pixels) > known and 20 <= len(copies) <= 40  # what follows the copies are wrecks
    assert copies.tolist() == list(range(60, known)) and int(origins.max()) < 60
    assert labels[:60].tolist() == [1.0] * 30 + [0.0] * 30 and labels[known:].sum() == 0
    assert labels[copies].tolist() == labels[origins].tolist()
    assert ((pixels[:known].mean((1, 2, 3)) > 0) == (labels[:known] > 0.5)).all()  # a copy has its origin's label


def test_the_loss_punishes_a_copy_that_looks_more_real_and_no_other() -> None:
    labels = torch.tensor([0.0, 0.0])
    copies, origins = torch.tensor([1]), torch.tensor([0])
    rising, _ = detector_loss(torch.tensor([-2.0, 1.0]), labels, copies, origins)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor([-2.0, 1.0]), labels)
    assert float(rising) == pytest.approx(float(plain) + 3.0)
    falling, figures = detector_loss(torch.tensor([-2.0, -3.0]), labels, copies, origins)
    assert figures["rise"] == 0 and float(falling) == pytest.approx(figures["entropy"])
