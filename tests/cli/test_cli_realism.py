"""`nbench realism check` and `train` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from run_fakes import Fakes, fake_suite
from safetensors.torch import save_file

from nbench.cli.realism import realism
from nbench.errors import ScorerError, UsageError
from nbench.runs.execute import execute
from nbench.runs.store import Store
from nbench.scoring.realism.detector import CONFIG, WEIGHTS, DetectorConfig
from nbench.scoring.realism.views import View


def run(*args: object) -> Result:
    return CliRunner().invoke(realism, [str(arg) for arg in args], catch_exceptions=False)


def pictures(folder: Path, level: int, count: int = 24, *, side: int = 40, suffix: str = "png") -> Path:
    folder.mkdir()
    draw = np.random.default_rng(level)
    for i in range(count):
        noise = (level + draw.integers(-30, 31, (side, side, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"scene{i:02d}-0.{suffix}")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("pictures")
    return pictures(root / "real", 160), pictures(root / "fake", 90)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Log-odds grow with brightness, whatever else is in the picture."""
    folder = tmp_path_factory.mktemp("detector")
    config = DetectorConfig(
        "bright", "Bright is real.", View("resize", 16), widths=(1,), licence="CC0", source="a test"
    )
    net = config.build()
    with torch.no_grad():
        for value in net.parameters():
            value.zero_()
        net.body[0][0].weight.fill_(1 / 48)  # the mean of each 4 x 4 patch
        net.body[0][1].weight.fill_(1)
        net.body[0][1].bias.fill_(1)
        net.head[0].weight[0] = 1
        net.head[2].weight[0, 0] = 10
        net.head[4].weight[0, 0] = 1
        net.head[4].bias.fill_(-10)
    (folder / CONFIG).write_text(config.as_json())
    save_file(net.state_dict(), folder / WEIGHTS)
    return folder


def test_a_fit_detector_exits_with_0_and_prints_auc_and_controls(folders: tuple[Path, Path], detector: Path) -> None:
    done = run("check", detector, "--real", folders[0], "--fake", folders[1], "--claim", 0.5)
    assert done.exit_code == 0, done.output
    assert "AUC, real against" in done.output and "1.000 (1.000 to 1.000; 24 real, 24 generated)" in done.output
    assert "jpeg 75" in done.output and "bright is fit for a claimed rise of 0.5." in done.output


def test_an_unfit_detector_exits_with_1_and_says_why(folders: tuple[Path, Path], detector: Path) -> None:
    done = run("check", detector, "--fake", folders[0], "--real", folders[1], "--claim", 0.5)
    assert done.exit_code == 1
    assert "bright is unfit for a claimed rise of 0.5: it is uninformative here: AUC 0.000, below 0.8" in done.output


def test_without_real_pictures_it_exits_with_2(folders: tuple[Path, Path], detector: Path) -> None:
    done = run("check", detector, "--fake", folders[1])
    assert done.exit_code == 2
    assert "not measured: no real pictures" in done.output and "bright is undecided for claims above" in done.output


def test_json_has_everything_and_nothing_else_is_printed(folders: tuple[Path, Path], detector: Path) -> None:
    done = run("check", detector, "--real", folders[0], "--fake", folders[1], "--claim", 0.5, "--limit", 6, "--json")
    shown = json.loads(done.stdout)
    assert shown["verdict"] == "fit" and shown["auc"]["real"] == 6 and len(shown["controls"]) == 9
    assert shown["detector"] == "bright" and shown["biases"] == []


def test_folders_that_differ_are_refused_and_allowed_by_flag(
    folders: tuple[Path, Path], detector: Path, tmp_path: Path
) -> None:
    real = pictures(tmp_path / "real", 160, side=48)
    with pytest.raises(UsageError, match="the size differs: real pictures are 48x48"):
        run("check", detector, "--real", real, "--fake", folders[1])
    done = run("check", detector, "--real", real, "--fake", folders[1], "--allow-bias", "--claim", 0.5)
    assert done.exit_code == 2 and "the AUC cannot be trusted: the size differs" in done.output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "either as --run RUN or as --fake DIR"),
        (["--run", "x", "--fake", "FAKE"], "either as --run RUN or as --fake DIR"),
        (["--fake", "FAKE", "--steps", "4"], "go with --run"),
        (["--run", "x", "--claim", "1", "--effect-of", "y"], "either --claim or --effect-of"),
    ],
)
def test_flags_that_contradict_are_refused(
    folders: tuple[Path, Path], detector: Path, args: list[str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        run("check", detector, *[str(folders[1]) if arg == "FAKE" else arg for arg in args])


def test_a_detector_that_is_none_is_explained(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ScorerError, match=r"holds no detector \(detector\.json is missing\)"):
        run("check", folders[0], "--fake", folders[1])
    with pytest.raises(ScorerError, match="unknown scorer 'pocket-reallism'"):
        run("check", "pocket-reallism", "--fake", folders[1])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "store"
    execute(fake_suite(name="tiny", scorers=""), Store(folder), backend=Fakes().backend())
    return folder


def test_the_base_of_a_run_is_checked_at_its_largest_step_count(store: Path, detector: Path) -> None:
    done = run("check", detector, "--run", "tiny", "--store", store, "--json")
    assert json.loads(done.stdout)["generated"] == "base of run tiny at 4 steps"
    done = run("check", detector, "--run", "tiny", "--store", store, "--steps", 2, "--checkpoint", "nft", "--json")
    assert json.loads(done.stdout)["generated"] == "nft of run tiny at 2 steps"


def test_the_claim_may_be_what_a_checkpoint_gains(store: Path, detector: Path) -> None:
    done = run("check", detector, "--run", "tiny", "--store", store, "--effect-of", "nft", "--json")
    shown = json.loads(done.stdout)
    gained = shown["claim"]
    assert shown["effect"]["low"] < gained == shown["effect"]["mean"] < shown["effect"]["high"]
    said = run("check", detector, "--run", "tiny", "--store", store, "--effect-of", "nft").output
    assert f"nft gains {gained:+.3f} (" in said and "; 8 pairs)." in said
    means = [
        json.loads(run("check", detector, "--run", "tiny", "--store", store, "--checkpoint", name, "--json").stdout)[
            "mean_log_odds"
        ]["generated"]
        for name in ("base", "nft")
    ]
    assert gained == pytest.approx(means[1] - means[0], abs=1e-6) and gained != 0


@pytest.mark.parametrize(
    ("args", "said"),
    [(["--checkpoint", "bas"], "no checkpoint 'bas'. Did you mean 'base'"), (["--steps", "7"], "it has 2, 4")],
)
def test_what_a_run_does_not_have_is_named(store: Path, detector: Path, args: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run("check", detector, "--run", "tiny", "--store", store, *args)


def test_a_trained_detector_is_a_folder_that_can_be_checked(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "mine"
    done = run("train", *folders, "--out", out, "--size", 32, "--steps", 12, "--batch", 8)
    assert done.exit_code == 0, done.output
    assert "AUC on held-out groups: " in done.output
    assert {path.name for path in out.iterdir()} == {
        "detector.json",
        "model.safetensors",
        "README.md",
        "calibration.svg",
    }
    card = (out / "README.md").read_text()
    assert "nbench realism train REAL_DIR FAKE_DIR --size 32 --steps 12 --batch 8" in card and "| blur 2 |" in card
    assert (out / "calibration.svg").read_text().startswith("<svg")
    checked = run("check", out, "--real", folders[0], "--fake", folders[1], "--json")
    assert json.loads(checked.stdout)["detector"] == "mine"
    with pytest.raises(UsageError, match="holds a detector already"):
        run("train", *folders, "--out", out)
