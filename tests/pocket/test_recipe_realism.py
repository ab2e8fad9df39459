"""The recipe of pocket-realism on made-up sprites and a few pictures: logic, and a run of two steps."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nbench.flow.load import load_model
from nbench.flow.spec import CheckpointSpec
from nbench.pocket.recipes import realism, realism_data
from nbench.pocket.recipes.data import Composer
from nbench.pocket.world import CONCEPTS, STYLES
from nbench.scoring.realism.detector import load_detector

BATCH = 4


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    sprites = np.random.default_rng(0).integers(0, 256, (len(CONCEPTS), len(STYLES), 16, 16, 4), np.uint8)
    sprites[..., 3] = 255
    np.savez(folder / "sprites.npz", sprites=sprites)
    return folder


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realism_data, "BATCH", BATCH)
    monkeypatch.setattr(realism_data, "STEPS", (1, 2))
    monkeypatch.setattr(realism_data, "SHARES", (0.5, 0.5))
    monkeypatch.setattr("nbench.pocket.recipes.realism_figures.STEPS", (1, 2))


def run(monkeypatch: pytest.MonkeyPatch, recipe: object, work: Path, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["recipe", "--work", str(work), *flags])
    recipe.main()  # type: ignore[attr-defined]


def draw_pictures(monkeypatch: pytest.MonkeyPatch, work: Path) -> Path:
    generators = ("--generator", "sd3=pocket-sd3", "--held-out", "flux=pocket-flux")
    run(monkeypatch, realism_data, work, *generators, "--pictures", "12", "--test-pictures", str(BATCH))
    return work / "realism" / "pictures"


def test_pictures_training_and_card(work: Path, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = draw_pictures(monkeypatch, work)
    names = [path.name for path in sorted(folder.iterdir())]
    assert [name for name in names if "train" in name] == [f"sd3--train--{i:04d}.npz" for i in range(3)]
    assert len(names) == 3 + 2 + 4
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / names[-1]).unlink()
    draw_pictures(monkeypatch, work)  # a stopped run makes only what is missing, and the same
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert after.keys() == before.keys()
    redone = realism_data.read([folder / names[-1]])
    (folder / "old.npz").write_bytes(before[names[-1]])
    for name, value in vars(realism_data.read([folder / "old.npz"])).items():
        assert np.array_equal(value, getattr(redone, name)), name
    (folder / "old.npz").unlink()

    flags = ("--train", "sd3", "--held-out", "flux", "--steps", "2", "--reading-steps", "1", "--batch", "8")
    run(monkeypatch, realism, work, *flags)
    export = work / "realism" / "export"
    figures = json.loads((export / "figures.json").read_text())
    seen = {(row["generator"], row["was"], row["concepts"], row["steps"]) for row in figures["auc"]}
    assert seen == {("sd3", "trained on", "new", steps) for steps in (1, 2)} | {
        ("flux", "held out", concepts, steps) for concepts in ("as in training", "new") for steps in (1, 2)
    }
    assert set(figures["controls"]) == {"sd3", "flux"} and len(figures["controls"]["flux"]) == 9
    card = (export / "README.md").read_text()
    assert "| flux (held out) | new | 2 |" in card and "Never seen in training" in card
    assert (export / "calibration.svg").read_text().startswith("<svg")
    scene = Composer(np.load(work / "sprites.npz")["sprites"], 1).draw().image
    assert load_detector(export).score([scene], [""])[0].ok


def test_held_out_concepts_are_in_no_training_picture_and_in_every_new_one() -> None:
    assert len(realism_data.HELD_OUT_CONCEPTS) == 24
    plan = list(realism_data.training_plan(400, 0))
    assert {split for split, _, _ in plan} == {"train"} and len(plan) == 400 // realism_data.BATCH
    steps = [n for _, n, _ in realism_data.training_plan(40_000, 1)]
    assert [steps.count(n) / len(steps) for n in realism_data.STEPS] == pytest.approx(realism_data.SHARES, abs=0.04)


def test_concepts_follow_the_split(work: Path, few: None, tmp_path: Path) -> None:
    composer = Composer(np.load(work / "sprites.npz")["sprites"], 0)
    plan = [("train", 1, 1.0), ("test-new", 1, 1.0)]
    realism_data.make(tmp_path, CheckpointSpec("sd3", "pocket-sd3", device="cpu"), plan, composer, seed=0)
    for split, wanted in (("train", False), ("test-new", True)):
        concepts = realism_data.read(realism_data.shards(tmp_path, "sd3", split)).concept
        assert [int(c) in realism_data.HELD_OUT_CONCEPTS for c in concepts] == [wanted] * BATCH


def test_a_round_trip_is_the_autoencoder_s_and_close_to_the_scene() -> None:
    from nbench.pocket.scenes import sample_scenes

    vae = load_model(CheckpointSpec("sd3", "pocket-sd3", device="cpu")).pipeline.vae  # type: ignore[attr-defined]
    raw = np.stack([np.asarray(image) for image, _ in sample_scenes()])
    found = realism_data.round_trip(vae, raw, torch.Generator().manual_seed(0))
    assert found.shape == raw.shape and found.dtype == np.uint8
    errors = np.abs(found.astype(float) - raw).mean((1, 2, 3))
    assert 0.1 < errors.mean() < 8 and errors.max() < 20


def test_turned_pictures_are_the_same_pixels_in_another_place_and_colour() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    rng = random.Random(0)
    found = {realism.turned(rows, rng).tobytes() for _ in range(600)}
    assert len(found) == 48  # 4 turns, 2 mirrors, 6 orders of the channels
    assert all(sorted(picture) == sorted(rows.tobytes()) for picture in found)
