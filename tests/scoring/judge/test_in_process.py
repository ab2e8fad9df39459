"""A model in this process: the chat template's own prompt, probabilities over the whole vocabulary, no company."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from judge_fakes import make_spec
from PIL import Image

from nbench.errors import InfrastructureError, ScorerError
from nbench.pocket.recipes.judge_model import build_model, build_tokenizer, export
from nbench.pocket.scenes import sample_scenes
from nbench.scoring.judge.in_process import InProcessJudge
from nbench.scoring.judge.question import Answer, Unanswered
from nbench.scoring.judge.reading import questions_about, shown
from nbench.scoring.judge.spec import JudgeSpec, Resize, load_judge


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of pocket-judge's class with random weights."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    path = tmp_path_factory.mktemp("judge") / "model"
    export(build_model(tokenizer), tokenizer, path)
    return path


def judge_of(folder: Path, **changes: object) -> InProcessJudge:
    scale = {"bad": 1, "good": 2}
    spec = make_spec(**{"model": str(folder), "scale": scale, "label_mass": 0, "max_model_len": 128} | changes)
    return InProcessJudge(spec, "cpu")


def answers(judge: InProcessJudge, spec: JudgeSpec, pictures: list[Image.Image], prompt: str = "") -> list[Answer]:
    asked = [question for image in pictures for question in questions_about(spec, [shown(image, spec.image)], prompt)]
    found = judge.ask(asked)
    assert all(isinstance(answer, Answer) for answer in found)
    return [answer for answer in found if isinstance(answer, Answer)]


def test_it_equals_the_model_called_by_hand(folder: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    spec = load_judge("quality-pocket").model_copy(update={"model": str(folder)})
    image = sample_scenes()[0][0]
    (answer,) = answers(InProcessJudge(spec, "cpu"), spec, [image])
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    text = (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Rate the quality of this image.<|im_end|>\n"
        "<|im_start|>assistant\nThe quality is"
    )
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    with torch.inference_mode():
        shares = model(**inputs).logits[0, -1].softmax(-1)
    for label in spec.labels:
        (number,) = processor.tokenizer.encode(label)
        assert answer.probabilities[label] == pytest.approx(float(shares[number]), rel=1e-5)


def test_an_answer_does_not_depend_on_what_else_is_asked(folder: Path) -> None:
    judge = judge_of(folder)
    images = [image for image, _ in sample_scenes()[:3]]
    together = answers(judge, judge.spec, images)
    alone = [answers(judge, judge.spec, [image])[0] for image in reversed(images)][::-1]
    assert [one.probabilities for one in together] == [one.probabilities for one in alone]
    assert len({one.probabilities["bad"] for one in together}) == 3


def test_two_pictures_are_two_turns_of_one_question_and_order_matters(folder: Path) -> None:
    judge = judge_of(folder, mode="pairwise", scale={"1": 1, "2": 0})
    a, b = (shown(image, Resize()) for image, _ in sample_scenes()[:2])
    asked = [questions_about(judge.spec, order)[0] for order in ((a, b), (b, a), (a, b))]
    one, other, again = judge.ask(asked)
    assert isinstance(one, Answer)
    assert isinstance(other, Answer)
    assert one.probabilities == again.probabilities  # type: ignore[union-attr]
    assert one.probabilities != other.probabilities
    assert "Image 1:<|vision_start|>" in judge._text(asked[0])


@pytest.mark.parametrize("word", ["good bad", "unheardof"])
def test_a_rating_word_that_is_not_one_token_is_refused(folder: Path, word: str) -> None:
    with pytest.raises(ScorerError, match=f"{word!r} is not one token"):
        judge_of(folder, scale={"bad": 1, word: 2}).prepare()


def test_two_words_of_one_token_are_refused(folder: Path) -> None:
    with pytest.raises(ScorerError, match="the same token"):
        judge_of(folder, scale={"bad": 1, "Bad": 2}).prepare()


def test_a_question_that_is_too_long_is_a_reason(folder: Path) -> None:
    judge = judge_of(folder, rubric="good " * 200)
    (found,) = judge.ask(questions_about(judge.spec, [shown(sample_scenes()[0][0], Resize())]))
    assert isinstance(found, Unanswered)
    assert "max_model_len is 128" in found.reason


def test_weights_that_lack_a_tensor_are_refused_and_never_drawn_at_random(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    state = load_file(copy / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ScorerError, match="lack 1 tensors"):
        judge_of(copy).prepare()


def test_a_folder_that_is_no_such_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ScorerError, match=r"has no \*\.safetensors"):
        _ = judge_of(tmp_path).identity
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ScorerError, match="transformers cannot load"):
        judge_of(tmp_path).prepare()


def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbench.scoring.judge.in_process.weight_bytes", lambda path: 2**50)
    with pytest.raises(InfrastructureError, match="three ways on"):
        judge_of(folder).prepare()


def test_the_identity_is_of_the_files_and_the_means(folder: Path) -> None:
    found = judge_of(folder).identity
    assert len(found["model.safetensors"]) == 64
    assert "float32 on cpu" in found["backend"]
    assert "bfloat16 on cpu" in judge_of(folder, dtype="bfloat16").identity["backend"]
