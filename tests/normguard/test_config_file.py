"""Training configs: every refusal says what is wrong and where; what is accepted reads back equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from train_parts import config, content

from nbench.errors import UsageError
from nbench.normguard.config_file import bundled_configs, make_config, read_config
from nbench.normguard.methods import make_method

GRPO = {"name": "grpo"}
HINGE = {"name": "norm_hinge", "weight": 0.1}
STEPS_OF = "works on the steps of stochastic trajectories, which method"

REFUSED = {
    "misspelt key": ({"optim__learning_rat": 1}, "has an unknown key 'optim.learning_rat'. Did you mean 'learning_rat"),
    "misspelt key that is missing too": (
        {"optim": {"epochs": 1, "batch_size": 1, "learning_rat": 1}},
        "has an unknown key 'optim.learning_rat'. Did you mean 'learning_rate'?",
    ),
    "misspelt key of a method": ({"method__bta": 1}, "has an unknown key 'method.bta'. Did you mean 'beta'?"),
    "misspelt key of a guard": (
        {"guards": [{"name": "norm_hinge", "wieght": 1}]},
        "has an unknown key 'guards.0.wieght'. Did you mean 'weight'?",
    ),
    "misspelt key of an optional part": (
        {"guards": [{"name": "norm_hinge", "calibrate": {"gradiant_ratio": 1}}]},
        "has an unknown key 'guards.0.calibrate.gradiant_ratio'. Did you mean 'gradient_ratio'?",
    ),
    "misspelt key of a reward": ({"rewards": [{"scorr": "x"}]}, "key 'rewards.0.scorr'. Did you mean 'scorer'?"),
    "misspelt key two levels down": ({"optim__ema": {"dacay": 0}}, "key 'optim.ema.dacay'. Did you mean 'decay'?"),
    "misspelt key at the top": ({"metod": 1}, "has an unknown key 'metod'. Did you mean 'method'?"),
    "missing key": ({"optim": {"epochs": 1, "batch_size": 1}}, "has no 'optim.learning_rate': add it."),
    "method unlike any": (
        {"method": {"name": "reinforce"}},
        "names an unknown method 'reinforce'. Known: awm, dpo, grpo, nft.",
    ),
    "misspelt method": ({"method": {"name": "gpro"}}, "names an unknown method 'gpro'. Did you mean 'grpo'?"),
    "method without a name": ({"method": {"beta": 1}}, "has no name in 'method': add a line `name: ...`."),
    "misspelt guard": (
        {"guards": [{"name": "norm-hinge"}]},
        "names an unknown guard 'norm-hinge'. Did you mean 'norm_hinge'?",
    ),
    "guard without a name": ({"guards": [{"weight": 1}]}, "has no name in 'guards.0'"),
    "guard twice": ({"guards": [HINGE, HINGE]}, "guard 'norm_hinge' is there twice: give each once."),
    "neither weight nor calibrate": (
        {"guards": [{"name": "norm_hinge"}]},
        "guards.0: guard 'norm_hinge' needs either a weight or calibrate, and not both.",
    ),
    "both weight and calibrate": (
        {"guards": [{**HINGE, "calibrate": {"gradient_ratio": 0.1}}]},
        "guards.0: guard 'norm_hinge' needs either a weight or calibrate, and not both.",
    ),
    "negative weight": ({"guards": [{**HINGE, "weight": -1}]}, "guards.0.weight is -1: input should be greater"),
    "penalty without a weight": ({"guards": [{"name": "reference_kl"}]}, "has no 'guards.0.weight': add it."),
    "power 3": ({"guards": [{**HINGE, "power": 3}]}, "guards.0.power is 3: input should be 1 or 2."),
    "ratio_norm with nft": (
        {"guards": [{"name": "ratio_norm"}]},
        f"guard 'ratio_norm' {STEPS_OF} 'nft' does not have: use it with grpo, or another guard.",
    ),
    "state_kl with awm": (
        {"method": {"name": "awm"}, "guards": [{"name": "state_kl", "weight": 1}]},
        f"guard 'state_kl' {STEPS_OF} 'awm' does not have",
    ),
    "old_policy_hinge with dpo": (
        {"method": {"name": "dpo"}, "guards": [{**HINGE, "name": "old_policy_hinge"}]},
        "guard 'old_policy_hinge' needs the velocity of a rollout policy of its own, which method 'dpo' does not keep: "
        "use it with nft, or take norm_hinge.",
    ),
    "ratio_norm with cps": (
        {"method": {**GRPO, "sampler": "cps"}, "guards": [{"name": "ratio_norm"}]},
        "guard 'ratio_norm' is defined for sampler sde, not cps: change one of them.",
    ),
    "too noisy for cps": (
        {"method": {**GRPO, "sampler": "cps", "eta": 1.1}},
        "eta is 1.1: sampler cps takes a noise level of at most 1.",
    ),
    "group of one": (
        {"rollout__group_size": 1},
        "group_size is 1: an advantage compares pictures of one prompt, so use at least 2 of them.",
    ),
    "more times than steps": (
        {"times__count": 5},
        "times.count is 5, but the rollout has only 4 times: use fewer, or another law.",
    ),
    "more steps than a trajectory trains": (
        {"method": GRPO, "times__count": 4},
        "use times.law rollout and times.count of at most 3, which is rollout.steps - method.skip_last.",
    ),
    "grpo at times of its own": ({"method": GRPO, "times__law": "uniform"}, "grpo trains steps of its own"),
    "every step skipped": ({"method": {**GRPO, "skip_last": 5}, "times__count": 1}, "times.count of at most 0"),
    "times upside down": (
        {"times": {"count": 1, "low": 0.9, "high": 0.5}},
        "low is 0.9 and high is 0.5: low must be the smaller.",
    ),
    "no rewards": ({"rewards": []}, "there is no reward: add at least one scorer to rewards."),
    "nothing held out": (
        {"prompts__holdout": 0},
        "there is nothing to evaluate on: set prompts.holdout, or name a set in evaluate.prompts.",
    ),
    "name with a space": ({"name": "a b"}, "a name holds letters, digits, '.', '_' and '-'"),
    "height without width": ({"model__height": 64}, "model: give both height and width, or neither."),
    "betas of 1": ({"optim__betas": [0.9, 1.0]}, "optim.betas.1 is 1.0: input should be less than 1."),
    "not a number": ({"optim__learning_rate": float("nan")}, "optim.learning_rate is nan: input should be a finite"),
    "wrong type": ({"rollout__steps": "many"}, "rollout.steps is 'many': input should be a valid integer"),
    "part that is empty": ({"rollout": None}, "rollout is None: input should be a valid dictionary"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named_in_one_sentence(case: str) -> None:
    changes, sentence = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        make_config(content(**changes), where="training config x.yaml")
    message = str(caught.value)
    assert message.startswith("training config x.yaml")
    assert sentence in message
    assert message[-1] in ".?"
    assert "\n" not in message
    assert "pydantic" not in message
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("guard", ["norm_hinge", "symmetric_norm", "reference_kl"])
@pytest.mark.parametrize("method", ["nft", "awm", "dpo", "grpo"])
def test_penalties_on_velocities_go_with_every_method(method: str, guard: str) -> None:
    assert config(method, guards=[{"name": guard, "weight": 1}]).guards[0].name == guard


def test_guards_of_one_method_go_with_it() -> None:
    assert config("nft", guards=[{**HINGE, "name": "old_policy_hinge"}]).guards
    assert len(config("grpo", guards=[{"name": "ratio_norm"}, {"name": "state_kl", "weight": 1}, HINGE]).guards) == 3
    assert config(GRPO | {"sampler": "cps"}, guards=[HINGE]).guards


def test_a_law_of_its_own_may_have_more_times_than_the_rollout() -> None:
    for law in ("uniform", "logit_normal"):
        assert config(times={"law": law, "count": 50}).times.count == 50


def test_a_config_is_frozen_and_reads_back_equal(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "guards": [{"name": "norm_hinge", "calibrate": {"gradient_ratio": 0.2}, "power": 2}],
        "rewards": [{"scorer": "a", "weight": -0.5}, {"scorer": "b", "metric": "m"}],
        "evaluate": {"steps": 4},
        "model__lora": {"targets": ["attn.to_q"]},
    }
    one = config(**changes)
    assert one.evaluate.steps == (4,)
    with pytest.raises(ValueError, match="frozen"):
        one.seed = 1
    (tmp_path / "c.yaml").write_text(one.to_yaml(), encoding="utf-8")
    assert read_config(tmp_path / "c.yaml") == one
    assert make_config(yaml.safe_load(one.to_yaml())) == one


def test_numbers_that_yaml_takes_for_other_things_are_understood(tmp_path: Path) -> None:
    text = yaml.safe_dump(content()).replace("learning_rate: 0.001", "learning_rate: 3e-4\n  mixed_precision: no")
    assert "3e-4" in text
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    found = read_config(tmp_path / "c.yaml")
    assert found.optim.learning_rate == 3e-4
    assert found.optim.mixed_precision == "no"


# Files.


def test_a_file_that_cannot_be_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no training config 'pocket-sd3-ntf': .* Did you mean 'pocket-sd3-nft'\?"):
        read_config("pocket-sd3-ntf")
    with pytest.raises(UsageError, match="there is no training config"):
        read_config(tmp_path)
    for text, sentence in [("a: [", "is not YAML"), ("- 1", "is not a mapping"), ("", "is not a mapping")]:
        path = tmp_path / "bad.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=f"bad.yaml {sentence}"):
            read_config(path)
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UsageError, match="is not YAML"):
        read_config(tmp_path / "bad.yaml")


def test_overrides_replace_add_and_reach_into_lists(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(content(guards=[HINGE])), encoding="utf-8")
    overrides = {
        "optim.learning_rate": "1e-5",
        "guards.0.weight": "0.3",
        "model.lora.rank": "8",
        "rollout.steps": 7,
        "evaluate.steps": "[4, 10]",
        "optim.mixed_precision": "no",
        "model.guidance": "null",
    }
    found = read_config(path, overrides)
    assert found.optim.learning_rate == 1e-5
    assert found.guards[0].model_dump()["weight"] == 0.3
    assert (found.model.lora.rank, found.rollout.steps, found.evaluate.steps) == (8, 7, (4, 10))
    assert found.optim.mixed_precision == "no"
    assert found.model.guidance is None
    assert read_config(path).rollout.steps == 4  # the file is as it was
    assert read_config(path, {"guards": "[]"}).guards == ()


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("guards.1.weight", "1", "guards.1.weight does not exist: '1' is no index of a list of 1."),
        ("guards.x.weight", "1", "guards.x.weight does not exist: 'x' is no index of a list of 1."),
        ("name.first", "1", "name.first does not exist: there is nothing below 'name'."),
        ("optim.epochs.x.y", "1", "optim.epochs.x.y does not exist: there is nothing below 'optim.epochs'."),
        ("optim.epochs", "[1", "the value of optim.epochs is not YAML: '[1'."),
        ("optim.epoch", "1", "has an unknown key 'optim.epoch'. Did you mean 'epochs'?"),
        ("optim.epochs", "none", "optim.epochs is 'none': input should be a valid integer"),
    ],
)
def test_an_override_that_fits_nowhere_is_refused(tmp_path: Path, key: str, value: str, sentence: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(content(guards=[HINGE])), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_config(path, {key: value})
    assert sentence in str(caught.value)


def test_paths_may_be_relative_to_the_file_and_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "configs"
    (home / "base").mkdir(parents=True)
    for name in ("train.yaml", "test.yaml"):
        (home / name).write_text("[]", encoding="utf-8")
    settings = content(model__base="base", prompts__set="train.yaml", evaluate__prompts="test.yaml")
    (home / "c.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = read_config(Path("configs") / "c.yaml")
    assert found.model.base == str(home / "base")
    assert found.prompts.set == str(home / "train.yaml")
    assert found.evaluate.prompts == str(home / "test.yaml")


def test_names_stay_names_even_beside_folders_that_are_called_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pocket", "pocket-sd3"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    found = config(evaluate__prompts="core")
    assert (found.model.base, found.prompts.set, found.evaluate.prompts) == ("pocket-sd3", "pocket", "core")
    assert config(model__base="organisation/model").model.base == "organisation/model"


# Bundled configs.


@pytest.mark.parametrize("name", sorted(bundled_configs()))
def test_bundled_configs_load_and_make_their_method(name: str) -> None:
    found = read_config(name)
    assert found.name == name
    assert make_method(found).config is found
    assert name.endswith(found.method.name) or f"-{found.method.name}" in name
    assert make_config(yaml.safe_load(found.to_yaml())) == found


def test_a_file_goes_before_a_bundled_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pocket-sd3-nft").write_text(yaml.safe_dump(content(name="mine")), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert read_config("pocket-sd3-nft").name == "mine"
