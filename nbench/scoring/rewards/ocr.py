"""Scorers that read the picture: does it show the text that the prompt puts in double quotes?

One reward (`ocr_text`), several recognisers. Figures of two recognisers cannot be compared, so the recogniser's name is
in the scorer's name; neither is the PaddleOCR 2.9.1 that Flow-GRPO's published figures were taken with.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nbench.errors import NbenchError, ScorerError
from nbench.flow.weights import file_digest
from nbench.scoring.rewards.ocr_signs import sample_signs
from nbench.scoring.rewards.ocr_text import compare, target_text
from nbench.scoring.scorer import Metric, Score, ScorerCard
from nbench.scoring.weights import Source

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from nbench.pocket.scenes import Picture

#: (text, confidence) of each line, in reading order
Lines = list[tuple[str, float]]
#: BGR pixels [H, W, 3], as the networks were trained on -> lines
Recogniser = Callable[["NDArray[np.uint8]"], Lines]

SMALLEST = 16  # pixels a side; there is no text in less
METRICS = (
    Metric("reward", "higher", "1 - min(edit distance, n) / n of the quoted text, 1 where it is contained; 0 to 1"),
    Metric("strict", "higher", "the same without the rule for contained text; 0 to 1"),
    Metric("exact", "higher", "1 where exactly the quoted text was read, else 0"),
    Metric("substring", "higher", "1 where the quoted text is part of what was read, else 0"),
    Metric("surplus", "none", "share of the read characters beyond the quoted text's length; 0 to 1"),
)
_READING = "RGB to BGR, 8 bit; the lines joined in reading order, spaces removed, lower case"
_FOOLED_BY = ("saturated",)  # it is legible
_REWARD = "reward: Flow-GRPO, flow_grpo/ocr.py (arXiv 2505.05470)"


class OcrScorer:
    """Reads each picture and compares with the quoted text of its prompt.

    A prompt without a quoted text, and a picture at which the recogniser raises, have a reason and no number (the
    reference stops, and gives 0).

    Args:
        about: the card without weights.
        weights: gives the digests of the recogniser's files; may raise ScorerError.
        load: makes the recogniser; may raise ScorerError.
    """

    def __init__(
        self, about: ScorerCard, weights: Callable[[], Mapping[str, str]], load: Callable[[], Recogniser]
    ) -> None:
        self.about = about
        self._weights = weights
        self._load = load

    @cached_property
    def card(self) -> ScorerCard:
        """What the numbers are.

        Raises:
            ScorerError: the recogniser is not installed, or a weight file cannot be had.
        """
        return replace(self.about, weights=dict(self._weights()))

    @cached_property
    def _recogniser(self) -> Recogniser:
        return self._load()

    def read(self, image: Image.Image) -> str:
        """All lines of the picture with a confidence above 0, joined."""
        pixels = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
        return "".join(text for text, confidence in self._recogniser(pixels) if confidence > 0)

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        """One Score per picture, each read on its own."""
        return [self._one(image, prompt) for image, prompt in zip(images, prompts, strict=True)]

    def _one(self, image: Image.Image, prompt: str) -> Score:
        target = target_text(prompt)
        if target is None:
            curly = " (curly quotes do not count)" if "“" in prompt else ""
            return Score.failed(f'the prompt asks for no text: there is none between two double quotes "{curly}')
        if min(image.size) < SMALLEST:
            return Score.failed(f"picture of {image.width}x{image.height} pixels: too small for text")
        recogniser = self._recogniser  # what fails here concerns every picture
        try:
            read = self.read(image)
        except NbenchError:
            raise
        except Exception as error:  # of whatever kind: no number is better than the reference's 0
            name = getattr(recogniser, "__name__", self.about.name)
            return Score.failed(f"the recogniser {name} raised {type(error).__name__}: {error}")
        return Score(values=asdict(compare(read, target)), truncated=False)

    def samples(self) -> list[Picture]:
        """Pictures with fitting prompts, for checks of the scorer: signs with a quoted text."""
        return sample_signs()

    def close(self) -> None:
        """Let go of the recogniser."""
        self.__dict__.pop("_recogniser", None)


# rapidocr-onnxruntime: PP-OCRv4 (Chinese and English, mobile) as ONNX, weights inside the wheel

_RAPID = "rapidocr_onnxruntime"
_RAPID_FILES = ("models/ch_PP-OCRv4_det_infer.onnx", "models/ch_PP-OCRv4_rec_infer.onnx", "config.yaml")
_RAPID_SETTINGS = {"use_cls": False, "text_score": 0.5}  # the reference: no angle classifier; PaddleOCR's drop_score


def _rapid_folder() -> Path:
    spec = importlib.util.find_spec(_RAPID)
    if spec is None or not spec.submodule_search_locations:
        raise ScorerError("ocr-rapidocr needs the package rapidocr-onnxruntime: pip install 'nbench[ocr]'.")
    return Path(spec.submodule_search_locations[0])


def _rapid_weights() -> dict[str, str]:
    folder = _rapid_folder()
    try:
        return {f"{_RAPID}/{name}": file_digest(folder / name) for name in _RAPID_FILES}
    except OSError as error:
        raise ScorerError(
            f"the weight file {error.filename} cannot be read ({error.strerror}): reinstall rapidocr-onnxruntime 1.4."
        ) from error


def _rapid_load() -> Recogniser:
    folder = _rapid_folder()
    try:
        module = importlib.import_module(_RAPID)
    except ImportError as error:
        raise ScorerError(
            f"{_RAPID} ({folder}) cannot be imported: {error}. Where libGL.so.1 is missing, install it, or put "
            "opencv-python-headless in the place of opencv-python."
        ) from error
    threads = os.environ.get("OMP_NUM_THREADS", "")
    try:
        engine = module.RapidOCR(intra_op_num_threads=int(threads) if threads.isdigit() else -1, **_RAPID_SETTINGS)
    except Exception as error:  # onnxruntime raises kinds of its own
        raise ScorerError(f"{_RAPID} cannot load its networks from {folder}: {error}") from error

    def rapidocr(pixels: NDArray[np.uint8]) -> Lines:
        found, _ = engine(pixels)
        return [(text, float(confidence)) for _, text, confidence in found or []]

    return rapidocr


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def create_rapidocr(device: str) -> OcrScorer:
    """Entry point of `ocr-rapidocr`; it runs on the CPU whatever `device` is."""
    about = ScorerCard(
        name="ocr-rapidocr",
        kind="reward",
        version="1",
        metrics=METRICS,
        summary="Share of the prompt's quoted text that PP-OCRv4 (mobile, ONNX) reads in the picture.",
        uses_prompt=True,
        preprocessing=f"rapidocr-onnxruntime {_version('rapidocr-onnxruntime')}: shorter side to 736 pixels at least, "
        f"longer to 2000 at most; lines of confidence 0.5 or more, no angle classifier, CPU fp32. {_READING}.",
        licence="Apache-2.0 (package and weights)",
        source=f"{_REWARD}; recogniser: rapidocr-onnxruntime on PyPI",
        fooled_by=_FOOLED_BY,
    )
    return OcrScorer(about, _rapid_weights, _rapid_load)


# PaddleOCR 3: PP-OCRv5, server size. Names are given: what `PaddleOCR()` alone takes has changed between releases

_PADDLE_FILES = ("inference.pdiparams", "inference.json", "inference.yml")
_PADDLE_DETECT = Source("PaddlePaddle/PP-OCRv5_server_det", None, _PADDLE_FILES)
_PADDLE_READ = Source("PaddlePaddle/PP-OCRv5_server_rec", None, _PADDLE_FILES)


def _paddle_weights() -> dict[str, str]:
    if importlib.util.find_spec("paddleocr") is None:
        raise ScorerError("ocr-ppocrv5 needs PaddleOCR 3: pip install 'nbench[ocr]' 'paddleocr>=3' paddlepaddle.")
    return {**_PADDLE_DETECT.digests(), **_PADDLE_READ.digests()}


def _paddle_load(device: str) -> Recogniser:
    try:
        module = importlib.import_module("paddleocr")
    except ImportError as error:
        raise ScorerError(f"paddleocr cannot be imported: {error}. Repair or reinstall it.") from error
    kind, _, index = device.partition(":")
    try:
        engine = module.PaddleOCR(
            text_detection_model_name="PP-OCRv5_server_det",
            text_detection_model_dir=str(_PADDLE_DETECT.folder()),
            text_recognition_model_name="PP-OCRv5_server_rec",
            text_recognition_model_dir=str(_PADDLE_READ.folder()),
            use_doc_orientation_classify=False,
            use_doc_unwarping=False,
            use_textline_orientation=False,
            text_rec_score_thresh=0.0,
            device=f"gpu:{index or 0}" if kind == "cuda" else "cpu",
        )
    except NbenchError:
        raise
    except Exception as error:  # paddle raises kinds of its own
        raise ScorerError(f"PaddleOCR cannot be made: {error}. Version 3 with paddlepaddle is needed.") from error

    def paddleocr(pixels: NDArray[np.uint8]) -> Lines:
        return [
            (text, float(confidence))
            for page in engine.predict(pixels)
            for text, confidence in zip(page["rec_texts"], page["rec_scores"], strict=True)
        ]

    return paddleocr


def create_ppocrv5(device: str) -> OcrScorer:
    """Entry point of `ocr-ppocrv5`."""
    about = ScorerCard(
        name="ocr-ppocrv5",
        kind="reward",
        version="1",
        metrics=METRICS,
        summary="Share of the prompt's quoted text that PP-OCRv5 (server, PaddleOCR 3) reads in the picture.",
        uses_prompt=True,
        preprocessing=f"paddleocr {_version('paddleocr')}, its pipeline's sizes; lines of any confidence above 0, "
        f"no orientation or unwarping networks. {_READING}.",
        licence="Apache-2.0 (package and weights)",
        source=f"{_REWARD}; recogniser: PaddleOCR 3, as Flow-Factory uses it",
        heavy=True,
        fooled_by=_FOOLED_BY,
    )
    return OcrScorer(about, _paddle_weights, lambda: _paddle_load(device))
