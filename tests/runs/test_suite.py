from pathlib import Path

import pytest

from nbench.errors import CheckpointError, UsageError
from nbench.runs.suite import Suite, bundled_suites, make_suite, read_suite

ONE = {"checkpoints": ["base=pocket-sd3"]}


def test_flags_and_yaml_make_the_same_suite(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\ncheckpoints:\n  - {name: base, base: org/model}\n  - nft=org/model+org/lora\n"
        "steps: [8, 2]\nscorers: [a, b]\n"
    )
    flags = {
        "name": "s",
        "checkpoints": ["base=org/model", "nft=org/model+org/lora"],
        "steps": "2,8",
        "scorers": "a,b",
    }
    assert read_suite(path) == make_suite(flags)


def test_a_suite_survives_its_own_yaml(tmp_path: Path) -> None:
    suite = make_suite({**ONE, "rescale": {"phi": 0.5}, "steps": "4,4,2", "guidance": 3.5, "height": 64, "width": 32})
    path = tmp_path / "suite.yaml"
    path.write_text(suite.to_yaml())
    assert read_suite(path) == suite
    assert suite.steps == (2, 4)


def test_flags_override_a_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("checkpoints: [base=org/model]\nseeds: 2\nlimit: 5\n")
    suite = read_suite(path, {"seeds": 7})
    assert (suite.seeds, suite.limit) == (7, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**ONE, "step": [2]}, r"unknown key 'step'\. Did you mean 'steps'\?"),
        ({"checkpoints": [{"name": "a", "base": "b", "lorra": "x"}]}, r"'checkpoints\.0\.lorra'\. Did you mean 'lora'"),
        ({**ONE, "rescale": {"fi": 1}}, r"unknown key 'rescale\.fi'"),
        ({**ONE, "steps": 0}, r"steps: 0 is not a number of steps"),
        ({**ONE, "steps": "four"}, r"steps: 'four' is not a number of steps: write whole numbers of at least 1"),
        ({**ONE, "steps": [2, True]}, r"steps: True is not"),
        ({**ONE, "steps": []}, r"steps: no number of steps"),
        ({**ONE, "steps": 2.5}, r"steps"),
        ({**ONE, "seeds": 0}, r"seeds is 0, but input should be greater than or equal to 1"),
        ({**ONE, "grid": "karras"}, r"grid is 'karras', but input should be 'diffusers' or 'linspace'"),
        ({**ONE, "name": "../x"}, r"a run name holds letters"),
        ({**ONE, "height": 64}, r"give both height and width"),
        ({**ONE, "scorers": "a,b,a"}, r"scorer 'a' is there twice"),
        ({**ONE, "reference": "bse"}, r"reference 'bse' is not a checkpoint\. Did you mean 'base'\?"),
        ({**ONE, "guidance": float("nan")}, r"guidance"),
        ({"checkpoints": ["a=x/y", "a=x/z"]}, r"checkpoint 'a' is there twice"),
        ({"checkpoints": []}, r"there is no checkpoint"),
        ({}, r"has no 'checkpoints'"),
    ],
)
def test_bad_input_is_one_sentence_that_says_what_to_do(content: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make_suite(content)
    assert "\n" not in str(caught.value)
    assert str(caught.value)[-1] in ".?"


def test_a_checkpoint_without_a_name_says_how_to_write_one() -> None:
    with pytest.raises(CheckpointError, match="has no name: write NAME=BASE"):
        make_suite({"checkpoints": ["org/model"]})


@pytest.mark.parametrize("text", ["steps: [1", "- a\n- b\n", "just words"])
def test_a_file_that_is_no_suite_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"s\.yaml is not"):
        read_suite(path)


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'pocket'"):
        read_suite("poket")


def test_the_bundled_suites_are_sound() -> None:
    assert "pocket" in bundled_suites()
    for name in bundled_suites():
        assert isinstance(read_suite(name), Suite)


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "model").mkdir(parents=True)
    path = tmp_path / "here" / "s.yaml"
    path.write_text("checkpoints: [{name: base, base: model}]\n")
    monkeypatch.chdir("/")
    assert read_suite(path).checkpoints[0].base == str(tmp_path / "here" / "model")


def test_paths_of_short_entries_in_a_file_are_relative_to_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "lora").mkdir()
    (tmp_path / "s.yaml").write_text("checkpoints: [base=model, nft=model+lora]\n")
    monkeypatch.chdir("/")
    found = read_suite(tmp_path / "s.yaml").checkpoints
    assert [(entry.base, entry.lora) for entry in found] == [
        (str(tmp_path / "model"), None),
        (str(tmp_path / "model"), str(tmp_path / "lora")),
    ]


def test_a_folder_called_like_a_bundled_checkpoint_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pocket-sd3").mkdir()
    (tmp_path / "suite.yaml").write_text("checkpoints: [{name: a, base: pocket-sd3}]\n")
    monkeypatch.chdir(tmp_path)
    assert make_suite({"checkpoints": ["a=pocket-sd3"]}).checkpoints[0].base == "pocket-sd3"
    assert read_suite("suite.yaml").checkpoints[0].base == "pocket-sd3"
    given = make_suite({"checkpoints": ["a=./pocket-sd3"]}).checkpoints[0].base
    assert given == str(tmp_path / "pocket-sd3")


def test_a_run_name_is_made_from_the_settings() -> None:
    one, two = make_suite(ONE), make_suite({**ONE, "seeds": 3})
    assert one.run_name.startswith("run-") and one.run_name == make_suite(ONE).run_name != two.run_name


def test_a_folder_called_like_a_prompt_set_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pocket").mkdir()
    (tmp_path / "suite.yaml").write_text("checkpoints: [a=pocket-sd3]\nprompts: pocket\n")
    monkeypatch.chdir(tmp_path)
    assert make_suite({"checkpoints": ["a=pocket-sd3"], "prompts": "pocket"}).prompts == "pocket"
    assert read_suite("suite.yaml", {}).prompts == "pocket"
