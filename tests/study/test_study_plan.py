"""A study's plan: which trainings, which groups, which runs; and what may not be compared is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from study_parts import study_content

from nbench.errors import NbenchError, UsageError
from nbench.normguard.prompting import training_prompts
from nbench.runs.suite import make_suite
from nbench.study.config import bundled_studies, make_study, read_study
from nbench.study.plan import Plan, make_plan, select, suite_content, trajectory_epochs

BLOCK: dict[str, Any] = {"bases": "pocket-sd3", "methods": "nft", "rewards": "aesthetic", "arms": ["unguarded"]}
HINGE = {"name": "norm_hinge", "weight": 1.0}


def plan_of(**changes: Any) -> Plan:
    content = study_content(**changes)
    if "grpo" in content["templates"]["pocket-sd3"]:  # its rollout of 4 steps has but one that is trained
        given = content.get("method_settings", {})
        content["method_settings"] = {**given, "grpo": {"times.count": 1, **given.get("grpo", {})}}
    return make_plan(make_study(content))


def with_settings(**settings: Any) -> Plan:
    """Dots written as "__"."""
    found = study_content()
    return plan_of(settings={**found["settings"], **{key.replace("__", "."): one for key, one in settings.items()}})


def with_evaluation(**values: Any) -> Plan:
    return plan_of(evaluation={**study_content()["evaluation"], **values})


def test_a_training_that_two_blocks_name_is_there_once() -> None:
    plan = plan_of(grid=[{**BLOCK, "seeds": [0, 1]}, {**BLOCK, "arms": ["unguarded", "normguard"]}])
    names = [one.name for one in plan.trainings]
    assert names == [
        "pocket-sd3-nft-aesthetic-unguarded-s0",
        "pocket-sd3-nft-aesthetic-unguarded-s1",
        "pocket-sd3-nft-aesthetic-normguard-s0",
    ]
    assert len(set(names)) == len(names)
    assert [one.config.name for one in plan.trainings] == names


def test_names_of_trainings_do_not_depend_on_what_else_is_in_the_grid() -> None:
    alone = plan_of(grid=[BLOCK])
    grown = plan_of(grid=[{**BLOCK, "methods": ["grpo", "nft"], "seeds": [1, 0], "arms": ["normguard", "unguarded"]}])
    (training,) = alone.trainings
    same = next(one for one in grown.trainings if one.name == training.name)
    assert same.config == training.config
    assert [run.name for run in alone.runs()] == [run.name for run in grown.runs() if run.group.name == training.group]


def test_twins_differ_in_their_guards_alone() -> None:
    unguarded, guarded = plan_of().trainings
    left, right = (one.config.model_dump(exclude={"name", "guards"}) for one in (unguarded, guarded))
    assert left == right
    assert [guard.name for guard in guarded.config.guards] == ["norm_hinge"]
    assert not unguarded.config.guards


def test_an_arm_takes_the_place_of_the_template_s_norm_guards_and_joins_its_others(tmp_path: Path) -> None:
    from nbench.normguard.config_file import read_config

    template = read_config("pocket-sd3-nft").model_dump(mode="json")
    template["guards"] = [{"name": "symmetric_norm", "weight": 1.0}, {"name": "reference_kl", "weight": 0.5}]
    (tmp_path / "guarded.yaml").write_text(yaml.safe_dump(template))
    arms = {
        "unguarded": {},
        "normguard": {"guards": [HINGE]},
        "other-kl": {"guards": [{"name": "reference_kl", "weight": 2.0}], "settings": {"guards": []}},
    }
    plan = plan_of(
        templates={"pocket-sd3": {"nft": str(tmp_path / "guarded.yaml")}},
        arms=arms,
        grid=[{**BLOCK, "arms": list(arms)}],
    )
    found = [[(guard.name, getattr(guard, "weight", None)) for guard in one.config.guards] for one in plan.trainings]
    assert found == [
        [("reference_kl", 0.5)],
        [("reference_kl", 0.5), ("norm_hinge", 1.0)],
        [("reference_kl", 2.0)],
    ]


def test_settings_go_from_the_general_to_the_special() -> None:
    plan = plan_of(
        settings={**study_content()["settings"], "optim.learning_rate": 1.0, "optim.eps": 1.0, "optim.warmup": 1},
        base_settings={"pocket-sd3": {"optim.learning_rate": 2.0, "optim.eps": 2.0}},
        method_settings={"nft": {"optim.learning_rate": 3.0}},
        arms={"unguarded": {}, "normguard": {"guards": [HINGE], "settings": {"optim.weight_decay": 0.5}}},
    )
    unguarded, guarded = (one.config.optim for one in plan.trainings)
    assert (unguarded.learning_rate, unguarded.eps, unguarded.warmup) == (3.0, 2.0, 1)
    assert (unguarded.weight_decay, guarded.weight_decay) == (1e-4, 0.5)


def test_groups_hold_what_is_compared() -> None:
    plan = plan_of(
        grid=[{**BLOCK, "methods": ["nft", "grpo"], "arms": ["unguarded", "normguard"], "seeds": [1, 0]}],
    )
    assert [group.name for group in plan.groups] == ["pocket-sd3-nft-aesthetic", "pocket-sd3-grpo-aesthetic"]
    assert [one.seed for one in plan.groups[0].of("normguard")] == [0, 1]
    assert {one.group for one in plan.groups[0].trainings} == {plan.groups[0].name}
    assert plan.group("pocket-sd3-grpo-aesthetic") is plan.groups[1]


def prompt_file(folder: Path, *texts: str) -> Path:
    path = folder / "mine.yaml"
    prompts = [{"text": text} for text in texts]
    path.write_text(yaml.safe_dump({"name": "mine", "source": "here", "licence": "CC0-1.0", "prompts": prompts}))
    return path


# What is refused.

REFUSED = {
    "a template that is not there": ({"templates": {"pocket-sd3": {"nft": "nowhere"}}}, "no training config 'nowhere'"),
    "a template of another method": (
        {"templates": {"pocket-sd3": {"nft": "pocket-sd3-awm"}}},
        "templates.pocket-sd3.nft is 'pocket-sd3-awm', which trains by awm.",
    ),
    "an arm that does not suit the method": (
        {"arms": {"unguarded": {}, "normguard": {"guards": [{"name": "ratio_norm"}]}}},
        "guard 'ratio_norm' works on the steps of stochastic trajectories",
    ),
    "an arm with an unknown guard": (
        {"arms": {"unguarded": {}, "normguard": {"guards": [{"name": "norm-hinge", "weight": 1}]}}},
        "Did you mean 'norm_hinge'?",
    ),
    "a setting that is not there": (
        {"method_settings": {"nft": {"optim.learning_rat": 1}}},
        "Did you mean 'learning_rate'?",
    ),
    "guidance of one arm alone": (
        {"arms": {"unguarded": {}, "normguard": {"guards": [HINGE], "settings": {"model.guidance": 4.0}}}},
        "has model.guidance 4.0, and pocket-sd3-nft-aesthetic-unguarded-s0 has 1.0",
    ),
    "another base for one method": (
        {
            "method_settings": {"grpo": {"model.base": "pocket-flux"}},
            "grid": [{**BLOCK, "methods": ["nft", "grpo"]}],
        },
        "has model.base pocket-flux",
    ),
    "another size of one arm": (
        {"arms": {"unguarded": {}, "normguard": {"settings": {"model.height": 32, "model.width": 32}}}},
        "has model.height 32",
    ),
    "a whole transformer": (
        {"method_settings": {"nft": {"model.tuning": "full"}}},
        "a study needs model.tuning lora",
    ),
    "other prompts held out by one method": (
        {
            "method_settings": {"grpo": {"prompts.holdout": 30}},
            "grid": [{**BLOCK, "methods": ["nft", "grpo"]}],
        },
        "the trainings hold out different prompts",
    ),
}


@pytest.mark.parametrize(("changes", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_compared_is_refused_in_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    plan_of()  # is not refused
    with pytest.raises(NbenchError) as caught:
        plan_of(**changes)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


# Prompts.


def test_no_prompt_of_the_evaluation_is_trained_on() -> None:
    plan = with_evaluation(limit=None)
    evaluated = {prompt.text for prompt in plan.prompts}
    assert len(evaluated) == 20
    for one in plan.trainings:
        trained = {prompt.text for prompt in training_prompts(one.config).trained}
        assert len(trained) > 100
        assert not trained & evaluated


def test_a_training_s_own_limit_does_not_shorten_the_study_s_evaluation() -> None:
    assert plan_of().trainings[0].config.evaluate.limit == 2
    assert len(with_evaluation(limit=None).prompts) == 20
    assert len(with_evaluation(limit=3).prompts) == 3


def test_a_named_set_with_a_prompt_that_is_trained_on_is_refused(tmp_path: Path) -> None:
    trained = training_prompts(plan_of().trainings[0].config).trained[0]
    unseen = "a picture that nobody trained on"
    path = prompt_file(tmp_path, unseen)
    assert [prompt.text for prompt in with_evaluation(prompts=str(path)).prompts] == [unseen]
    path = prompt_file(tmp_path, unseen, trained.text)
    with pytest.raises(UsageError, match=r"1 prompts of the evaluation are trained on, such as") as caught:
        with_evaluation(prompts=str(path))
    assert trained.text in str(caught.value)


def test_other_held_out_prompts_are_fine_where_a_set_is_named(tmp_path: Path) -> None:
    path, content = prompt_file(tmp_path, "a picture that nobody trained on"), study_content()
    plan = plan_of(
        method_settings={"grpo": {"prompts.holdout": 30}},
        grid=[{**BLOCK, "methods": ["nft", "grpo"]}],
        evaluation={**content["evaluation"], "prompts": str(path)},
    )
    assert len(plan.prompts) == 1


# Runs.


def test_runs_look_at_the_end_at_earlier_checkpoints_and_at_rescaled_ones() -> None:
    plan = plan_of()
    final, trajectory, rescaled = plan.runs()
    assert (final.kind, trajectory.kind, rescaled.kind) == ("final", "trajectory", "rescale-full")
    assert list(final.checkpoints) == ["unguarded-s0", "normguard-s0"]
    assert list(trajectory.checkpoints) == [
        "unguarded-s0-e0001",
        "unguarded-s0-e0002",
        "normguard-s0-e0001",
        "normguard-s0-e0002",
    ]
    assert list(rescaled.checkpoints) == ["unguarded-s0"]
    assert trajectory.checkpoints["normguard-s0-e0002"] == (plan.trainings[1], 2)


def test_every_checkpoint_of_a_trajectory_is_one_that_the_training_writes() -> None:
    plan = with_settings(optim__epochs=7, checkpoint_every=5)
    study = plan.study.model_copy(
        update={"evaluation": plan.study.evaluation.model_copy(update={"trajectory_every": 3})}
    )
    for one in make_plan(study).trainings:
        epochs = trajectory_epochs(study, one.config)
        assert epochs == (3, 6)
        assert all(epoch % one.config.checkpoint_every == 0 for epoch in epochs)


def test_without_a_trajectory_there_is_no_run_of_it() -> None:
    kinds = [run.kind for run in with_evaluation(trajectory_every=0, rescale=[]).runs()]
    assert kinds == ["final"]


def test_suites_are_ones_that_nbench_run_reads() -> None:
    plan = with_settings(model__max_sequence_length=8, model__height=32, model__width=32)
    for run in plan.runs():
        suite = make_suite(suite_content(plan, run, dict.fromkeys(run.checkpoints, "somewhere"), "pocket"))
        assert [one.name for one in suite.checkpoints] == ["base", *run.checkpoints]
        assert suite.checkpoints[0].lora is None
        assert {one.max_sequence_length for one in suite.checkpoints} == {8}
        assert (suite.guidance, suite.height, suite.width) == (1.0, 32, 32)
        assert suite.norm_ratio == (run.kind in ("final", "trajectory"))
        assert (suite.rescale is not None) == run.kind.startswith("rescale")
        assert suite.steps == ((2,) if run.kind == "trajectory" else (2, 4))


def test_only_takes_shell_patterns_and_refuses_one_that_matches_nothing() -> None:
    plan = plan_of()
    assert select(plan, ()) == plan.trainings
    assert [one.arm for one in select(plan, ("*-normguard-*",))] == ["normguard"]
    with pytest.raises(UsageError, match=r"--only '\*-awm-\*' matches no training"):
        select(plan, ("*-nft-*", "*-awm-*"))


@pytest.mark.parametrize("name", sorted(bundled_studies()))
def test_bundled_studies_compare_pairs_of_the_same_seed(name: str) -> None:
    plan = make_plan(read_study(name))
    claims = plan.study.claims
    for group in plan.groups:
        unguarded = {one.seed: one for one in group.of(claims.unguarded)}
        assert unguarded, group.name
        for arm in (claims.guarded, claims.ratio_guarded) if group.method == "grpo" else (claims.guarded,):
            guarded = group.of(arm)
            assert {one.seed for one in guarded} == set(unguarded), (group.name, arm)
    if name != "smoke":
        assert {group.method for group in plan.groups} == {"nft", "awm", "dpo", "grpo"}
    # What is trained on is not what quality and realism are judged by.
    for terms in plan.study.rewards.values():
        for term in terms:
            measure = f"{term.scorer}.{term.metric}" if term.metric else term.scorer
            assert measure not in (claims.quality, claims.realism)
            assert term.scorer in plan.study.evaluation.scorers
