import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from nbench.errors import ScorerError
from nbench.pocket.scenes import sample_scenes
from nbench.scoring import diversity
from nbench.scoring.conformance import check_scorer
from nbench.scoring.diversity import FeatureDiversity, cosine_distances, mean_distance, vendi
from nbench.scoring.features import PocketFeatures
from nbench.scoring.sets import SetScorer

GOLDEN = Path(__file__).parents[1] / "golden" / "scorers"
POCKET = json.loads((GOLDEN / "pocket-diversity.json").read_text())
VENDI = json.loads((GOLDEN / "vendi.json").read_text())
SCENES = [image for image, _ in sample_scenes()]


@pytest.fixture(scope="module")
def scorer() -> FeatureDiversity:
    return diversity.pocket("cpu")


def values(scorer: SetScorer, images: list[Image.Image]) -> Mapping[str, float]:
    score = scorer.score_set(images)
    assert score.values is not None, score.reason
    return score.values


def rows(seed: int, count: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width))


# formulas


@pytest.mark.parametrize("case", VENDI["cases"], ids=lambda case: f"{case['rows']}x{case['width']}")
def test_vendi_is_vendi_score_s_own(case: dict[str, Any]) -> None:
    kernel = 1 - cosine_distances(rows(case["seed"], case["rows"], case["width"]) + 1.0)
    assert vendi(kernel) == pytest.approx(case["vendi"], abs=VENDI["tolerance"])


@pytest.mark.parametrize(
    ("features", "distance", "effective"),
    [
        ([[1, 2], [1, 2]], 0, 1),
        ([[1, 2], [2, 4]], 0, 1),  # length does not count
        ([[1, 0], [0, 3]], 1, 2),
        ([[1, 0], [-1, 0]], 2, 1),  # one direction, twice: the farthest apart, and yet of rank one
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 1, 3),
        ([[1, 0], [1, 0], [0, 1], [0, 1]], 2 / 3, 2),
    ],
)
def test_values_worked_out_by_hand(features: list[list[float]], distance: float, effective: float) -> None:
    distances = cosine_distances(np.array(features, np.float64))
    assert mean_distance(distances) == pytest.approx(distance, abs=1e-12)
    assert vendi(1 - distances) == pytest.approx(effective, abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(2, 20))
def test_formulas_stay_in_their_ranges_and_do_not_depend_on_the_order(seed: int, count: int, width: int) -> None:
    features = rows(seed, count, width)
    distances = cosine_distances(features)
    shuffled = np.random.default_rng(seed).permutation(count)
    other = cosine_distances(features[shuffled])
    assert 0 <= mean_distance(distances) <= 2
    assert 1 <= vendi(1 - distances) <= count
    assert mean_distance(other) == mean_distance(distances)
    assert vendi(1 - other) == pytest.approx(vendi(1 - distances), rel=1e-9)
    assert np.allclose(distances, distances.T, atol=0) and not distances.diagonal().any()


@given(st.integers(0, 2**32 - 1))
def test_distances_of_nearly_equal_rows_are_not_lost_to_rounding(seed: int) -> None:
    base, step = rows(seed, 2, 64)
    step -= base * (step @ base) / (base @ base)
    angle = 1e-7
    near = base / np.linalg.norm(base) + np.tan(angle) * step / np.linalg.norm(step)
    assert cosine_distances(np.stack([base, near]))[0, 1] == pytest.approx(angle**2 / 2, rel=1e-4)


def test_the_mean_distance_does_not_grow_with_the_number_of_seeds_but_vendi_does() -> None:
    sets = rows(0, 200 * 12, 8).reshape(200, 12, 8) + 1.0
    few = [cosine_distances(one[:4]) for one in sets]
    many = [cosine_distances(one) for one in sets]
    assert np.mean([mean_distance(d) for d in few]) == pytest.approx(
        float(np.mean([mean_distance(d) for d in many])), abs=0.01
    )
    assert np.mean([vendi(1 - d) for d in many]) > 1.3 * np.mean([vendi(1 - d) for d in few])


def test_a_row_without_direction_is_an_error_of_the_formula() -> None:
    with pytest.raises(ValueError, match="zero"):
        cosine_distances(np.zeros((2, 3)))


# pocket-diversity, which stands for every scorer on features


def test_golden_values_of_the_bundled_weights(scorer: FeatureDiversity) -> None:
    assert POCKET["weights"] == scorer.card.weights["open_clip_model.safetensors"]
    assert POCKET["pictures"] == hashlib.sha256(b"".join(image.tobytes() for image in SCENES)).hexdigest()
    for case in POCKET["sets"]:
        found = values(scorer, [SCENES[i] for i in case["pictures"]])
        assert found == pytest.approx(case["values"], abs=POCKET["tolerance"])


def test_it_conforms(scorer: FeatureDiversity) -> None:
    report = check_scorer(scorer)
    assert report.passed, [check for check in report.checks if check.passed is False]


def test_copies_of_one_picture_are_not_various_at_all(scorer: FeatureDiversity) -> None:
    found = values(scorer, [SCENES[0]] * 5)
    assert found["distance"] == 0
    assert found["vendi"] == pytest.approx(1, abs=1e-9)


def test_the_number_of_pictures_is_recorded(scorer: FeatureDiversity) -> None:
    assert [values(scorer, SCENES[:n])["set_size"] for n in (2, 3, 9)] == [2, 3, 9]


def test_no_order_moves_it(scorer: FeatureDiversity) -> None:
    first = values(scorer, SCENES[:7])
    for seed in range(3):
        mixed = random.Random(seed).sample(SCENES[:7], 7)
        assert values(scorer, mixed) == pytest.approx(first, rel=1e-12)


def test_a_set_s_score_has_the_same_bits_beside_other_sets(scorer: FeatureDiversity) -> None:
    sets = [SCENES[:4], SCENES[4:9], SCENES[2:4], SCENES[9:16]]
    assert scorer.score_sets(sets) == [scorer.score_set(one) for one in sets]
    assert scorer.score_sets([]) == []


def test_it_falls_as_pictures_become_alike(scorer: FeatureDiversity) -> None:
    def blend(share: float) -> list[Image.Image]:
        return [Image.blend(SCENES[0], image, share) for image in SCENES[1:7]]

    found = [values(scorer, blend(share)) for share in (1.0, 0.5, 0.2)]
    for metric in ("distance", "vendi"):
        series = [one[metric] for one in found]
        assert series == sorted(series, reverse=True) and series[0] > 2 * series[-1] - 1


def test_another_layout_of_one_scene_counts_less_than_another_scene(scorer: FeatureDiversity) -> None:
    def moved(image: Image.Image, x: int, y: int) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, (1, 0, x, 0, 1, y), fillcolor=image.getpixel((0, 0)))

    steps = [(0, 0), (3, 0), (0, 3), (-3, -3)]
    within = [values(scorer, [moved(image, x, y) for x, y in steps])["distance"] for image in SCENES]
    between = values(scorer, SCENES)["distance"]
    assert min(within) > 0 and max(within) < between / 2


def test_fewer_than_two_pictures_or_one_too_small_give_a_reason_and_spare_other_sets(scorer: FeatureDiversity) -> None:
    tiny, strip = Image.new("RGB", (4, 64)), Image.new("RGB", (16, 2000))
    sets = [[SCENES[0]], SCENES[:3], [], [SCENES[0], tiny], [strip, SCENES[0]]]
    one, good, none, small, thin = scorer.score_sets(sets)
    assert one.reason is not None and "a set of 1" in one.reason
    assert none.reason is not None and "a set of 0" in none.reason
    assert small.reason is not None and "4x64" in small.reason
    assert thin.reason is not None and "16x2000" in thin.reason
    assert good == scorer.score_set(SCENES[:3]) and good.ok


def test_pictures_need_not_be_rgb_or_of_one_size(scorer: FeatureDiversity) -> None:
    flat = SCENES[0].convert("L")
    assert values(scorer, [flat, SCENES[1]]) == values(scorer, [flat.convert("RGB"), SCENES[1]])
    assert values(scorer, [SCENES[0], SCENES[1].resize((96, 80))])["distance"] > 0


def test_broken_features_are_a_reason_not_a_number() -> None:
    class Broken(PocketFeatures):
        def forward(self, images: list[Image.Image]) -> Any:
            import torch

            return torch.full((len(images), 3), self.value)

    features = Broken()
    scorer = FeatureDiversity(diversity.POCKET, features)
    for value in (0.0, float("nan")):
        features.value = value
        reason = scorer.score_set(SCENES[:2]).reason
        assert reason is not None and "zero or not finite" in reason


def test_blur_makes_pictures_more_alike_and_noise_is_all_alike_to_these_features(scorer: FeatureDiversity) -> None:
    draw = np.random.default_rng(0)
    drawn = values(scorer, SCENES)
    blurred = values(scorer, [image.filter(ImageFilter.GaussianBlur(4)) for image in SCENES])
    noise = values(scorer, [Image.fromarray(draw.integers(0, 256, (64, 64, 3), np.uint8)) for _ in SCENES])
    for metric in ("distance", "vendi"):
        assert noise[metric] < blurred[metric] < drawn[metric]


def test_a_closed_scorer_scores_again(scorer: FeatureDiversity) -> None:
    other = diversity.pocket("cpu")
    first = other.score_set(SCENES[:3])
    other.close()
    assert other.score_set(SCENES[:3]) == first


# cards


@pytest.mark.parametrize("make", [diversity.dinov2, diversity.clip_l14, diversity.lpips])
def test_the_card_is_readable_without_weights_and_missing_weights_say_how_to_get_them(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("NBENCH_WEIGHTS", raising=False)
    scorer = make("cpu")
    assert isinstance(scorer.about.name, str) and scorer.about.kind == "diversity"
    assert not scorer.about.uses_prompt and scorer.about.weights == {}
    with pytest.raises(ScorerError, match=rf"{scorer.about.name}: .*NBENCH_WEIGHTS"):
        _ = scorer.card


def test_every_card_orients_its_metrics_and_counts_the_pictures() -> None:
    for card in (diversity.DINOV2, diversity.CLIP_L14, diversity.LPIPS, diversity.POCKET):
        oriented = {metric.name for metric in card.metrics if metric.orientation == "higher"}
        assert oriented in ({"distance"}, {"distance", "vendi"})
        assert {metric.name for metric in card.metrics} - oriented == {"set_size"}
        assert card.licence and card.source and card.preprocessing
