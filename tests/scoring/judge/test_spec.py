"""Specs: what ships is sound, extending fills in, and everything that moves a value is in the hash."""

from __future__ import annotations

from pathlib import Path

import pytest
from judge_fakes import make_spec

from nbench.errors import UsageError
from nbench.scoring.judge.spec import JudgeSpec, judge_paths, load_judge


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_every_bundled_spec_is_sound_and_each_mode_has_all_four_models() -> None:
    found = [load_judge(name) for name in judge_paths()]
    models = {
        "Qwen/Qwen3-VL-32B-Instruct",
        "Qwen/Qwen3-VL-30B-A3B-Instruct",
        "Qwen/Qwen3-VL-8B-Instruct",
        "pocket-judge",
    }
    for mode in ("pointwise", "items", "pairwise", "alignment"):
        assert {spec.model for spec in found if spec.mode == mode} == models
    assert len({spec.summary for spec in found}) == len(found)


def test_specs_of_one_rubric_ask_the_same_whatever_the_model() -> None:
    assert load_judge("quality-items").identity == load_judge("quality-items-8b").identity
    assert load_judge("quality-items").identity != load_judge("quality-pointwise").identity


def test_yes_no_and_digits_are_labels_though_yaml_reads_them_otherwise(tmp_path: Path) -> None:
    text = "model: m\nmode: alignment\nquestion: 'Is it {prompt}?'\nscale: {yes: 1, no: 0}\n"
    assert load_judge(written(tmp_path, text)).scale == {"yes": 1.0, "no": 0.0}
    digits = "model: m\nmode: pointwise\nrubric: r\nscale: {1: 1, 2: 2}\n"
    assert load_judge(written(tmp_path, digits)).labels == ("1", "2")


def test_a_file_extends_a_bundled_spec_or_a_file_beside_it(tmp_path: Path) -> None:
    written(tmp_path, "extends: quality-pointwise\nmodel: owner/other\n", "base.yaml")
    found = load_judge(written(tmp_path, "extends: base.yaml\nlabel_mass: 0.25\n"))
    assert (found.name, found.model, found.label_mass) == ("mine", "owner/other", 0.25)
    assert found.rubric == load_judge("quality-pointwise").rubric


def test_a_model_folder_may_be_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    found = load_judge(written(tmp_path, "extends: quality-pocket\nmodel: weights\n"))
    assert found.model == str(tmp_path / "weights")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: quality-pocket\nrubrik: x\n", "unknown key 'rubrik'.*Did you mean 'rubric'"),
        ("extends: quality-poket\n", "extends 'quality-poket'.*Did you mean 'quality-pocket'"),
        ("extends: mine.yaml\n", "extends itself"),
        ("extends: quality-pocket\nscale: {good: 1}\n", "two labels"),
        ("extends: quality-pocket\nmode: items\n", "items are for mode items"),
        ("extends: alignment-pocket\nquestion: Is it good?\n", "must hold {prompt}"),
        ("extends: alignment-pocket\nscale: {a: 1, b: 5}\n", "from 0 to 1"),
        ("extends: items-pocket\nitems: [{name: sound, question: q}]\n", "neither sound nor label_mass"),
        ("mode: pointwise\n", "has no 'model'"),
        ("- a list\n", "not a mapping"),
    ],
)
def test_a_wrong_spec_is_refused_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_judge(written(tmp_path, text))


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'quality-items'"):
        load_judge("quality-itms")


@pytest.mark.parametrize(
    "change",
    [
        {"rubric": "Other."},
        {"stem": "It is"},
        {"label_mass": 0.1},
        {"scale": {"1": 1, "2": 3}},
        {"image": {"side": 32}},
        {"serve": ["--seed", "1"]},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_what_moves_a_value_moves_the_hash(change: dict[str, object]) -> None:
    assert make_spec(**change).identity != make_spec().identity


def test_name_summary_and_licence_do_not_move_the_hash() -> None:
    assert make_spec(name="other", summary="s", licence="l").identity == make_spec().identity


def test_a_prompt_with_braces_is_put_in_as_it_is() -> None:
    spec = JudgeSpec(name="a", model="m", mode="alignment", question="Is it {prompt}?", scale={"y": 1, "n": 0})
    assert spec.asked("{0} {prompt}") == ("Is it {0} {prompt}?",)
