"""Study configs: every refusal says in one sentence what is wrong and where; what is accepted reads back equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from study_parts import study_content

from nbench.errors import UsageError
from nbench.study.config import bundled_studies, make_study, read_study

REFUSED = {
    "misspelt key": ({"templats": {}}, "has an unknown key 'templats'. Did you mean 'templates'?"),
    "misspelt key of the evaluation": (
        {"evaluation__trajectory_evry": 2},
        "has an unknown key 'evaluation.trajectory_evry'. Did you mean 'trajectory_every'?",
    ),
    "misspelt key of the claims": ({"claims__fewest": 2}, "has an unknown key 'claims.fewest'"),
    "misspelt key of a block": ({"grid__0__arm": ["x"]}, "has an unknown key 'grid.0.arm'. Did you mean 'arms'?"),
    "misspelt key of an arm": ({"arms__unguarded": {"guard": []}}, "Did you mean 'guards'?"),
    "misspelt key of a reward": ({"rewards__aesthetic": [{"scorr": "x"}]}, "Did you mean 'scorer'?"),
    "no evaluation": ({"evaluation": None}, "evaluation is None"),
    "no scorers": ({"evaluation__scorers": []}, "evaluation.scorers is []"),
    "an empty grid": ({"grid": []}, "grid is []"),
    "a block without arms": ({"grid__0__arms": []}, "grid.0.arms is []"),
    "a name that is a path": ({"name": "../x"}, "a study's name holds letters, digits"),
    "an arm's name with a slash": ({"arms__a/b": {}}, "arm 'a/b': names hold letters"),
    "an unknown reward": (
        {"grid__0__rewards": "aesthetics"},
        "the grid names reward 'aesthetics', which is not defined. Did you mean 'aesthetic'?",
    ),
    "an unknown arm": (
        {"grid__0__arms": ["unguarded", "normgard"]},
        "the grid names arm 'normgard', which is not defined. Did you mean 'normguard'?",
    ),
    "an unknown base": (
        {"grid__0__bases": "pocket-sd"},
        "the grid names base 'pocket-sd', which is not defined. Did you mean 'pocket-sd3'?",
    ),
    "a method without a template": ({"grid__0__methods": "awm"}, "templates.pocket-sd3 has no method 'awm'."),
    "settings of an unknown method": ({"method_settings": {"ntf": {}}}, "method_settings has 'ntf'"),
    "settings of an unknown base": ({"base_settings": {"flux": {}}}, "base_settings has 'flux'"),
    "few steps that are not evaluated": (
        {"claims__few": 3},
        "claims compare 3 steps, which evaluation.steps does not hold",
    ),
    "full steps that are not evaluated": ({"claims__full": 28}, "claims compare 28 steps"),
    "few that are not fewer": ({"claims__few": 4}, "claims.few must be fewer steps than claims.full"),
    "an unguarded arm that is none": (
        {"claims__unguarded": "ungarded"},
        "claims.unguarded is 'ungarded', which is no arm. Did you mean 'unguarded'?",
    ),
    "a negative margin": ({"claims__margin": -0.1}, "claims.margin is -0.1"),
    "a smallest effect of nothing": ({"claims__smallest": 0}, "claims.smallest is 0"),
    "a negative seed": ({"grid__0__seeds": [-1]}, "grid.0.seeds.0 is -1"),
    "zero steps": ({"evaluation__steps": [0, 4]}, "evaluation.steps.0 is 0"),
    "a rescale that does not exist": ({"evaluation__rescale": ["half"]}, "evaluation.rescale.0 is 'half'"),
}


def content(**changes: Any) -> dict[str, Any]:
    """`study_content` with values replaced by path, "__" between its parts."""
    found = study_content()
    for key, value in changes.items():
        place: Any = found
        *parents, last = key.split("__")
        for parent in parents:
            place = place[int(parent)] if isinstance(place, list) else place[parent]
        place[last] = value
    return found


@pytest.mark.parametrize(("changes", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_a_wrong_study_is_refused_in_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    make_study(study_content())  # is not refused
    with pytest.raises(UsageError) as caught:
        make_study(content(**changes))
    message = str(caught.value)
    assert sentence in message
    assert "\n" not in message
    assert message[-1] in ".?"


def test_one_word_is_a_list_of_one() -> None:
    block = make_study(content(grid__0__seeds=3)).grid[0]
    assert (block.bases, block.methods, block.seeds) == (("pocket-sd3",), ("nft",), (3,))


def test_a_study_reads_back_equal(tmp_path: Path) -> None:
    study = make_study(content(notes="ours: a tree, déjà vu"))
    (tmp_path / "one.yaml").write_text(study.to_yaml(), encoding="utf-8")
    assert read_study(tmp_path / "one.yaml") == study


@pytest.mark.parametrize("name", sorted(bundled_studies()))
def test_bundled_studies_are_named_after_their_files_and_read_back_equal(name: str, tmp_path: Path) -> None:
    study = read_study(name)
    assert study.name == name
    (tmp_path / "again.yaml").write_text(study.to_yaml(), encoding="utf-8")
    assert read_study(tmp_path / "again.yaml") == study


def test_the_bundled_studies_are_there() -> None:
    assert {"pocket", "sd35-medium", "flux1-dev"} <= set(bundled_studies())


def test_templates_and_prompts_lead_from_the_study_s_own_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine")
    (tmp_path / "prompts.yaml").write_text("name: prompts")
    found = content(evaluation__prompts="prompts.yaml", templates={"pocket-sd3": {"nft": "mine.yaml"}})
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(found))
    study = read_study(tmp_path / "study.yaml")
    assert study.templates["pocket-sd3"]["nft"] == str(tmp_path / "mine.yaml")
    assert study.evaluation.prompts == str(tmp_path / "prompts.yaml")


def test_a_file_goes_before_a_bundled_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pocket").write_text(yaml.safe_dump(content(name="mine")))
    assert read_study("pocket").name == "mine"


def test_a_study_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"there is no study 'pockt'.*Did you mean 'pocket'\?"):
        read_study("pockt")


@pytest.mark.parametrize(("text", "sentence"), [("a: [", "is not YAML"), ("- 1", "is not a mapping")])
def test_a_file_that_is_no_study_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UsageError, match=sentence):
        read_study(tmp_path / "x.yaml")
