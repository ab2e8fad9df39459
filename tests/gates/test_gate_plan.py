"""Plans: the rows that are gated, the numbers that are enough, and what they cost."""

from typing import Any

import numpy as np
import pytest
from evidence_fakes import STEPS, curve_values, made_run
from gate_fakes import REWARDS

from nbench.compare import Pairs, Side, paired_row
from nbench.errors import CardMismatchError, UsageError
from nbench.gates.plan import Plan, plan_gate
from nbench.gates.policy import make_policy
from nbench.runs.cube import Measure
from nbench.stats.noninferiority import non_inferiority

MEASURE = Measure("a", "a", "reward", "higher", "made up")


def plan(rules: Any = None, *, candidate: bool = False, policy: Any = None, speed: Any = None, **options: Any) -> Plan:
    noise = {"noise": 0.6, "prompts": 60}
    run = made_run(
        {"base": {"a": curve_values(**noise), "b": curve_values(seed=1, **noise)},
         "nft": {"a": curve_values(seed=5, **noise), "b": curve_values(seed=6, **noise)}},
    )  # fmt: skip
    run = type(run)(**{**vars(run), "speed": speed or {}})
    found = make_policy({"rules": [REWARDS] if rules is None else rules, **(policy or {})})
    return plan_gate(found, Side(run, "base"), Side(run, "nft") if candidate else None, **options)


def test_each_gated_measure_is_planned_at_each_step_count() -> None:
    found = plan()
    assert [(row.measure.name, row.steps) for row in found.rows] == [(name, at) for name in "ab" for at in STEPS]
    assert found.needed[1] == max(row.prompts[1] or 0 for row in found.rows)


def test_more_seeds_need_fewer_prompts_and_a_smaller_margin_more() -> None:
    found = plan()
    assert found.needed[1] and found.needed[2] and found.needed[4]
    assert found.needed[1] > found.needed[2] > found.needed[4]
    tighter = plan([{"kinds": ["reward"], "margin": {"sd": 0.1}}])
    assert tighter.needed[1] and tighter.needed[1] > 2 * found.needed[1]


def test_measured_pairs_replace_the_guess() -> None:
    guessed, measured = plan(), plan(candidate=True)
    assert (guessed.basis, measured.basis) == ("the base's scores", "measured pairs")
    assert guessed.needed != measured.needed
    assert plan(correlation=0.9).needed[1] < guessed.needed[1]  # type: ignore[operator]


@pytest.mark.parametrize("seeds", [1, 4])
def test_a_gate_of_the_planned_size_passes_as_often_as_planned(seeds: int) -> None:
    """Over 300 gates within 5 points of 80 %, for a candidate as good as the base."""
    between, within, margin = 0.3, 0.5, 0.15
    rng = np.random.default_rng(2)
    pilot = rng.normal(0, between, (2000, 1)) + rng.normal(0, within, (2000, 4))
    run = made_run({"base": {"a": np.zeros((1, 2000, 4))}, "nft": {"a": pilot[None]}}, steps=(2,))
    policy = make_policy({"rules": [{"scorers": ["a"], "margin": {"absolute": margin}}]})
    planned = plan_gate(policy, Side(run, "base"), Side(run, "nft"), seeds=[seeds]).needed[seeds]
    assert planned is not None and 20 < planned < 100
    passed = 0
    for _ in range(300):
        values = rng.normal(0, between, (1, planned, 1)) + rng.normal(0, within, (1, planned, seeds))
        pairs = Pairs(MEASURE, (2,), tuple(map(str, range(planned))), np.zeros_like(values), values)
        difference = paired_row(pairs, 0).difference
        assert difference is not None
        passed += non_inferiority(difference.lower, difference.upper, margin) == "PASS"
    assert abs(passed / 300 - 0.8) <= 0.05


def test_the_first_rule_that_names_a_measure_holds_advisory_ones_too() -> None:
    advice = {"tier": "advisory", "scorers": ["a"], "margin": {"sd": 9}}
    found = plan([advice, REWARDS])
    assert {row.measure.name for row in found.rows} == {"b"}


def test_supporting_rows_are_shown_and_do_not_decide_the_number() -> None:
    hard = {"tier": "supporting", "scorers": ["b"], "margin": {"sd": 0.02}}
    found = plan([hard, {"scorers": ["a"], "margin": {"sd": 0.5}}])
    assert {row.tier for row in found.rows} == {"supporting", "critical"}
    critical = [row.prompts[1] or 0 for row in found.rows if row.tier == "critical"]
    assert found.needed[1] == max(critical) < min(row.prompts[1] or 0 for row in found.rows if row.tier != "critical")


def test_no_plan_falls_below_the_least_number_of_prompts() -> None:
    easy = [{"scorers": ["a"], "margin": {"absolute": 99}}]
    assert plan(easy).needed[1] == 8
    assert plan(easy, policy={"least_prompts": 30}).needed[1] == 30


def test_a_margin_of_0_and_a_policy_without_critical_rows_have_no_number() -> None:
    assert plan([{"scorers": ["a"], "margin": {"absolute": 0}}]).needed == {1: None, 2: None, 4: None}
    assert plan([{**REWARDS, "tier": "supporting"}]).needed == {1: None, 2: None, 4: None}


def test_the_cost_is_that_of_every_gated_step_count_at_the_runs_speed() -> None:
    speed = {("base", 2): 10.0, ("base", 4): 5.0, ("base", 8): 2.5}
    found = plan(speed=speed)
    for seeds, needed in found.needed.items():
        assert needed is not None and found.pictures[seeds] == needed * seeds * 3
        assert found.seconds[seeds] == pytest.approx(needed * seeds * (0.1 + 0.2 + 0.4))
    assert plan(speed={("base", 2): 10.0}).seconds == {1: None, 2: None, 4: None}
    few = plan([{"scorers": ["a"], "steps": [2], "margin": {"sd": 0.2}}], speed={("base", 2): 10.0})
    assert few.seconds[1] == pytest.approx(few.needed[1] * 0.1)  # type: ignore[operator]


def test_what_cannot_be_planned_is_said() -> None:
    with pytest.raises(UsageError, match="no score that the policy gates"):
        plan([{"kinds": ["judge"], "margin": {"sd": 1}}])
    run = made_run({"base": {"a": curve_values()}})
    with pytest.raises(UsageError, match=r"no checkpoint 'bose'. Did you mean 'base'\?"):
        plan_gate(make_policy({"rules": [REWARDS]}), Side(run, "bose"))
    other = made_run({"nft": {"a": curve_values()}}, dtype="bfloat16")
    with pytest.raises(CardMismatchError, match="dtype"):
        plan_gate(make_policy({"rules": [REWARDS]}), Side(run, "base"), Side(other, "nft"))
