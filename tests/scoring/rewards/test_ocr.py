import hashlib
import json
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from nbench.errors import ScorerError
from nbench.scoring.conformance import check_scorer
from nbench.scoring.rewards import ocr
from nbench.scoring.rewards.ocr import OcrScorer, create_ppocrv5, create_rapidocr
from nbench.scoring.rewards.ocr_signs import draw_sign, sample_signs
from nbench.scoring.scorer import Metric, Score, ScorerCard

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "scorers" / "ocr-rapidocr.json").read_text())
ABOUT = ScorerCard("ocr-made", "reward", "1", (Metric("reward", "higher", "0 to 1"),), "made up", True)


def values(score: Score) -> dict[str, float]:
    assert score.values is not None, score.reason
    return dict(score.values)


def digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def reader() -> OcrScorer:
    pytest.importorskip("rapidocr_onnxruntime")
    return create_rapidocr("cpu")


@pytest.mark.parametrize("size", [128, 256])
def test_signs_are_read_without_a_mistake(reader: OcrScorer, size: int) -> None:
    images, prompts = zip(*sample_signs(size), strict=True)
    scores = [values(score) for score in reader.score(images, prompts)]
    assert len(scores) == 4
    assert all(score["exact"] == score["reward"] == 1 for score in scores)


def test_a_misspelt_sign_loses_its_share(reader: OcrScorer) -> None:
    found = values(reader.score([draw_sign("Fresh Braed")], ['a sign that says "Fresh Bread"'])[0])
    assert found["reward"] == pytest.approx(1 - 2 / 10)
    assert found["exact"] == found["substring"] == 0


def test_an_empty_sign_scores_zero_which_is_a_value(reader: OcrScorer) -> None:
    found = values(reader.score([Image.new("RGB", (256, 256), "white")], ['a sign that says "OPEN"'])[0])
    assert set(found.values()) == {0.0}


def test_a_sign_full_of_junk_keeps_the_reward_and_shows_in_strict_and_surplus(reader: OcrScorer) -> None:
    image = draw_sign("OPEN")
    draw = ImageDraw.Draw(image)
    for y, line in ((30, "every day best"), (190, "prices in town")):
        draw.text((30, y), line, fill=(0, 0, 0), font=ImageFont.load_default(26))
    found = values(reader.score([image], ['a sign that says "OPEN"'])[0])
    assert found["reward"] == found["substring"] == 1
    assert found["strict"] == found["exact"] == 0
    assert found["surplus"] > 0.7


def test_readings_of_recorded_pictures(reader: OcrScorer) -> None:
    signs = sample_signs(GOLDEN["size"])
    assert [digest(image) for image, _ in signs] == [case["picture"] for case in GOLDEN["cases"]], (
        "another Pillow draws other signs: record the golden values again"
    )
    assert {name: reader.card.weights[name] for name in GOLDEN["weights"]} == GOLDEN["weights"]
    for (image, prompt), case in zip(signs, GOLDEN["cases"], strict=True):
        assert prompt == case["prompt"]
        assert reader.read(image) == case["read"]


def test_the_scorer_passes_the_checks_of_every_scorer(reader: OcrScorer) -> None:
    report = check_scorer(reader, reader.samples())
    assert report.passed, [check for check in report.checks if check.passed is False]
    assert report.canaries["as drawn"] == {"reward": 1, "strict": 1, "exact": 1, "substring": 1, "surplus": 0}


def test_the_card_names_the_packaged_networks_by_digest(reader: OcrScorer) -> None:
    weights = reader.card.weights
    assert len([name for name in weights if name.endswith(".onnx")]) == 2
    assert all(len(value) == 64 for value in weights.values())
    assert "1.4" in reader.card.preprocessing


def test_grey_and_transparent_pictures_are_read_too(reader: OcrScorer) -> None:
    sign = draw_sign("OPEN")
    for mode in ("L", "RGBA", "P"):
        assert values(reader.score([sign.convert(mode)], ['"OPEN"'])[0])["exact"] == 1, mode


# what concerns every recogniser


def made(read: Any) -> OcrScorer:
    return OcrScorer(ABOUT, dict, lambda: read)


def test_lines_are_joined_and_those_without_confidence_left_out() -> None:
    scorer = made(lambda pixels: [("Hello ", 0.9), ("junk", 0.0), ("World", 0.1)])
    assert values(scorer.score([draw_sign("x")], ['"Hello World"'])[0])["exact"] == 1


def test_a_recogniser_gets_bgr_pixels() -> None:
    seen: list[np.ndarray] = []
    made(lambda pixels: seen.append(pixels) or []).score([Image.new("RGB", (20, 30), (1, 2, 3))], ['"a"'])
    assert seen[0].shape == (30, 20, 3)
    assert seen[0].dtype == np.uint8
    assert seen[0][0, 0].tolist() == [3, 2, 1]


@pytest.mark.parametrize("prompt", ["a cat", 'a 5" pipe', '""', "a sign that says “OPEN”", ""])
def test_a_prompt_that_quotes_nothing_has_a_reason_and_spares_its_neighbours(prompt: str) -> None:
    scorer = made(lambda pixels: [("OPEN", 1.0)])
    bad, good = scorer.score([draw_sign("OPEN")] * 2, [prompt, '"OPEN"'])
    assert bad.reason is not None and "asks for no text" in bad.reason
    assert ("curly" in bad.reason) == ("“" in prompt)
    assert good.ok


def test_a_recogniser_that_raises_is_a_failure_and_never_zero() -> None:
    def moody(pixels: np.ndarray) -> list[tuple[str, float]]:
        if pixels.mean() < 1:
            raise RuntimeError("the session broke")
        return [("OPEN", 1.0)]

    bad, good = made(moody).score([Image.new("RGB", (64, 64)), draw_sign("OPEN")], ['"OPEN"'] * 2)
    assert bad.values is None
    assert bad.reason == "the recogniser moody raised RuntimeError: the session broke"
    assert values(good)["reward"] == 1


def test_a_picture_too_small_for_text_has_a_reason() -> None:
    score = made(lambda pixels: []).score([Image.new("RGB", (200, 15))], ['"OPEN"'])[0]
    assert score.reason is not None and "200x15" in score.reason


def test_a_recogniser_that_cannot_be_loaded_stops_the_scorer() -> None:
    def broken() -> ocr.Recogniser:
        raise ScorerError("no networks")

    with pytest.raises(ScorerError, match="no networks"):
        OcrScorer(ABOUT, dict, broken).score([draw_sign("OPEN")], ['"OPEN"'])


def test_without_the_package_the_card_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "_RAPID", "rapidocr_that_is_not_there")
    scorer = create_rapidocr("cpu")
    assert scorer.about.name == "ocr-rapidocr"
    with pytest.raises(ScorerError, match=r"pip install 'nbench\[ocr\]'"):
        _ = scorer.card


def fake_rapidocr(monkeypatch: pytest.MonkeyPatch, made: Any) -> None:
    def imported(name: str) -> Any:
        return made() if name == "rapidocr_onnxruntime" else pytest.fail(f"imported {name}")

    monkeypatch.setattr(ocr.importlib, "import_module", imported)
    monkeypatch.setattr(ocr, "_rapid_folder", lambda: Path("somewhere"))


def test_a_machine_without_libgl_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_gl() -> Any:
        raise ImportError("libGL.so.1: cannot open shared object file")

    fake_rapidocr(monkeypatch, no_gl)
    with pytest.raises(ScorerError, match="opencv-python-headless"):
        create_rapidocr("cpu").score([draw_sign("OPEN")], ['"OPEN"'])


def test_a_broken_network_file_stops_the_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**settings: Any) -> Any:
        raise RuntimeError("Protobuf parsing failed")

    fake_rapidocr(monkeypatch, lambda: types.SimpleNamespace(RapidOCR=broken))
    with pytest.raises(ScorerError, match="cannot load its networks from somewhere: Protobuf parsing failed"):
        create_rapidocr("cpu").score([draw_sign("OPEN")], ['"OPEN"'])


def test_rapidocr_is_set_up_as_the_reference_sets_its_recogniser(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def engine(**settings: Any) -> Any:
        seen.update(settings)
        return lambda pixels: (None, None)

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    fake_rapidocr(monkeypatch, lambda: types.SimpleNamespace(RapidOCR=engine))
    found = values(create_rapidocr("cpu").score([draw_sign("OPEN")], ['"OPEN"'])[0])
    assert set(found.values()) == {0.0}  # nothing was read, which is a value
    assert seen == {"intra_op_num_threads": 1, "use_cls": False, "text_score": 0.5}


# PaddleOCR is not installed here: a module of the same calls stands for it, so only our side of them is tested


class FakePaddle:
    made: ClassVar[dict[str, Any]] = {}

    def __init__(self, **settings: Any) -> None:
        FakePaddle.made = settings

    def predict(self, pixels: np.ndarray) -> list[dict[str, Any]]:
        assert pixels.ndim == 3
        return [{"rec_texts": ["Fresh ", "??", "Bread"], "rec_scores": [0.99, 0.0, np.float32(0.3)]}]


@pytest.fixture
def paddle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    module = types.ModuleType("paddleocr")
    module.__spec__ = ModuleSpec("paddleocr", None)
    module.PaddleOCR = FakePaddle  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "paddleocr", module)
    for name in ("PP-OCRv5_server_det", "PP-OCRv5_server_rec"):
        folder = tmp_path / "PaddlePaddle" / name
        folder.mkdir(parents=True)
        for file in ("inference.pdiparams", "inference.json", "inference.yml"):
            (folder / file).write_text(name + file)
    monkeypatch.setenv("NBENCH_WEIGHTS", str(tmp_path))
    return tmp_path


def test_ppocrv5_reads_paddle_s_pages(paddle: Path) -> None:
    scorer = create_ppocrv5("cuda:1")
    assert values(scorer.score([draw_sign("x")], ['"Fresh Bread"'])[0])["exact"] == 1
    assert FakePaddle.made["device"] == "gpu:1"


def test_ppocrv5_pins_the_networks_and_switches_the_extras_off(paddle: Path) -> None:
    create_ppocrv5("cpu").score([draw_sign("x")], ['"a"'])
    settings = FakePaddle.made
    assert settings["text_detection_model_name"] == "PP-OCRv5_server_det"
    assert settings["text_recognition_model_dir"] == str(paddle / "PaddlePaddle" / "PP-OCRv5_server_rec")
    extras = ("use_doc_orientation_classify", "use_doc_unwarping", "use_textline_orientation")
    assert not any(settings[extra] for extra in extras)
    assert settings["device"] == "cpu"


def test_ppocrv5_s_card_has_the_digests_of_both_networks(paddle: Path) -> None:
    weights = create_ppocrv5("cpu").card.weights
    wanted = hashlib.sha256(b"PP-OCRv5_server_recinference.pdiparams").hexdigest()
    assert weights["PaddlePaddle/PP-OCRv5_server_rec/inference.pdiparams"] == wanted
    assert len(weights) == 6


def test_ppocrv5_without_weights_says_where_they_belong(paddle: Path) -> None:
    (paddle / "PaddlePaddle" / "PP-OCRv5_server_det" / "inference.yml").unlink()
    with pytest.raises(ScorerError, match=r"inference\.yml"):
        _ = create_ppocrv5("cpu").card


def test_ppocrv5_without_paddle_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ScorerError, match="paddlepaddle"):
        _ = create_ppocrv5("cpu").card
