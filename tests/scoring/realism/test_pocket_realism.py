"""pocket-realism: golden values, what it knows, what does not fool it, and that its card says what was measured."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nbench.flow.load import load_model
from nbench.flow.spec import CheckpointSpec
from nbench.pocket.recipes.realism_data import draw, pictures_of
from nbench.pocket.scenes import sample_scenes
from nbench.scoring.conformance import check_scorer
from nbench.scoring.differentiable import DifferentiableReward
from nbench.scoring.realism.controls import CONTROLS
from nbench.scoring.realism.detector import Detector
from nbench.scoring.realism.pocket_realism import FOLDER, create
from nbench.scoring.realism.roc import auc

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "scorers" / "pocket-realism.json").read_text())
FIGURES = json.loads((FOLDER / "figures.json").read_text())
SCENES = sample_scenes()


@pytest.fixture(scope="module")
def scorer() -> Detector:
    return create("cpu")


def log_odds(scorer: Detector, images: list[Image.Image]) -> list[float]:
    found = []
    for score in scorer.score(images, [""] * len(images)):
        assert score.values is not None
        found.append(score.values[""])
    return found


@pytest.fixture(scope="module")
def generated() -> list[Image.Image]:
    """What pocket-flux, which it never saw, draws of the bundled scenes' captions."""
    model = load_model(CheckpointSpec("flux", "pocket-flux", device="cpu"))
    prompts = [prompt for _, prompt in SCENES] * 2
    return pictures_of(draw(model, prompts, range(len(prompts)), 8, model.default_guidance))


def test_golden_values_of_the_bundled_weights(scorer: Detector) -> None:
    assert GOLDEN["weights"] == scorer.card.weights["model.safetensors"]
    assert log_odds(scorer, [image for image, _ in SCENES]) == pytest.approx(GOLDEN["values"], abs=GOLDEN["tolerance"])


def test_it_is_a_scorer_that_no_canary_fools(scorer: Detector) -> None:
    failed = [check for check in check_scorer(scorer).checks if check.passed is False]
    assert failed == []
    assert scorer.card.name == "pocket-realism" and scorer.card.kind == "realism"


def test_it_knows_a_generator_that_it_never_saw(scorer: Detector, generated: list[Image.Image]) -> None:
    found = auc(log_odds(scorer, [image for image, _ in SCENES]), log_odds(scorer, generated))
    assert found.value > 0.8


@pytest.mark.parametrize("name", list(CONTROLS))
def test_no_control_makes_generated_pictures_look_more_real(
    scorer: Detector, generated: list[Image.Image], name: str
) -> None:
    changed = [CONTROLS[name](image, random.Random(i)) for i, image in enumerate(generated)]
    assert np.mean(log_odds(scorer, changed)) < np.mean(log_odds(scorer, generated))


def test_it_is_differentiable(scorer: Detector) -> None:
    assert isinstance(scorer, DifferentiableReward)


def test_the_card_has_every_figure_and_the_weights_are_small() -> None:
    card = (FOLDER / "README.md").read_text()
    assert {(row["generator"], row["was"]) for row in FIGURES["auc"]} >= {("flux", "held out"), ("sd3", "trained on")}
    assert {row["steps"] for row in FIGURES["auc"]} == {2, 4, 8, 16, 28}
    for row in FIGURES["auc"]:
        assert f"{row['auc']:.3f} ({row['low']:.3f} to {row['high']:.3f})" in card
    assert len(FIGURES["held_out_concepts"]) == 24
    assert (FOLDER / "model.safetensors").stat().st_size < 3_000_000
    assert (FOLDER / "calibration.svg").is_file()
