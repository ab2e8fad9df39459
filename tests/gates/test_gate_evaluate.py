"""The gate's truth table on made-up runs whose truth is known."""

import numpy as np
import pytest
from evidence_fakes import STEPS, curve_values, made_run, scorer_part
from gate_fakes import gate

from nbench.compare import Side
from nbench.errors import CardMismatchError, UsageError
from nbench.gates.evaluate import GateResult, evaluate_gate
from nbench.gates.policy import make_policy


def verdicts(result: GateResult) -> dict[int, str]:
    return {row.steps: row.verdict for row in result.rows}


def test_identical_checkpoints_pass() -> None:
    result = gate({"a": curve_values()})
    assert (result.verdict, result.exit_code) == ("PASS", 0)
    assert {row.verdict for row in result.rows} == {"PASS"} and len(result.rows) == len(STEPS)


def test_a_candidate_broken_at_few_steps_breaches_there_and_passes_at_full() -> None:
    result = gate({"a": curve_values(seed=5, at={2: -1.0})})
    assert verdicts(result) == {2: "BREACH", 4: "PASS", 8: "PASS"}
    assert (result.verdict, result.exit_code) == ("BREACH", 1)


def test_too_few_prompts_are_inconclusive_and_say_how_many_would_do() -> None:
    noisy = {"prompts": 8, "noise": 1.0, "seeds": 1}
    result = gate({"a": curve_values(seed=5, **noisy)}, {"a": curve_values(**noisy)})
    assert (result.verdict, result.exit_code) == ("INCONCLUSIVE", 2)
    for row in result.rows:
        assert row.needed is not None and row.needed > 8
        assert f"8 prompts are too few to show a drop of less than {row.margin:.3g}" in row.reason
        assert f"about {row.needed} would be enough" in row.reason


def test_the_number_needed_is_enough() -> None:
    noisy = {"prompts": 8, "noise": 0.6, "seeds": 1}
    result = gate({"a": curve_values(seed=5, **noisy)}, {"a": curve_values(**noisy)})
    needed = max(row.needed or 0 for row in result.rows)
    plenty = {"prompts": needed, "noise": 0.6, "seeds": 1}
    passed = [
        gate({"a": curve_values(seed=2 * i + 1, **plenty)}, {"a": curve_values(seed=2 * i, **plenty)}).rows[0].verdict
        for i in range(30)
    ]
    assert passed.count("PASS") >= 18


def test_missing_scores_are_inconclusive_unless_the_policy_allows_them() -> None:
    candidate = curve_values()
    candidate[0, 3, 1] = np.nan
    result = gate({"a": candidate})
    assert verdicts(result) == {2: "INCONCLUSIVE", 4: "PASS", 8: "PASS"} and result.exit_code == 2
    assert result.rows[0].reason == "98.7% of the pairs have both scores, 100.0% are needed"
    allowed = gate({"a": candidate}, policy={"coverage": 0.95})
    assert allowed.verdict == "PASS"
    one_rule = gate({"a": candidate}, rules=[{"scorers": ["a"], "margin": {"sd": 0.2}, "coverage": 0.95}])
    assert one_rule.verdict == "PASS"


def test_scores_that_are_all_missing_are_inconclusive_whatever_the_coverage() -> None:
    result = gate({"a": np.full((3, 40, 2), np.nan)}, policy={"coverage": 0.01})
    assert {row.reason for row in result.rows} == {"no pair has both scores"} and result.exit_code == 2


def test_an_empty_policy_passes_nothing() -> None:
    result = gate({"a": curve_values()}, rules=[])
    assert (result.verdict, result.rows) == ("INCONCLUSIVE", ()) and "no critical measure" in result.reason


def test_a_policy_of_advice_passes_nothing() -> None:
    result = gate({"a": curve_values()}, rules=[{"tier": "advisory", "kinds": ["reward"], "margin": {"sd": 1}}])
    assert result.verdict == "INCONCLUSIVE" and {row.verdict for row in result.rows} == {"PASS"}


def test_a_kind_or_scorer_that_the_run_has_not_is_inconclusive_by_name() -> None:
    rules = [{"kinds": ["reward"], "margin": {"sd": 0.5}}, {"kinds": ["judge"], "margin": {"sd": 0.5}}]
    result = gate({"a": curve_values()}, rules=rules)
    assert result.verdict == "INCONCLUSIVE" and result.rows[-1].reason == "the base's run has no scorer of kind judge"
    result = gate({"alpha": curve_values()}, rules=[{"scorers": ["alphq"], "margin": {"sd": 0.5}}])
    assert "Did you mean 'alpha'?" in result.rows[0].reason


def test_a_step_count_that_the_run_has_not_is_inconclusive() -> None:
    result = gate({"a": curve_values()}, rules=[{"scorers": ["a"], "steps": [2, 28], "margin": {"sd": 0.5}}])
    assert verdicts(result) == {2: "PASS", 28: "INCONCLUSIVE"}
    assert result.rows[1].reason == "the runs share no pictures at 28 steps"


@pytest.mark.parametrize(
    ("tier", "shift", "wanted"),
    [
        ("critical", -1.0, "BREACH"),
        ("supporting", -1.0, "BREACH"),
        ("advisory", -1.0, "PASS"),
        ("critical", -0.12, "INCONCLUSIVE"),
        ("supporting", -0.12, "PASS"),
    ],
)
def test_tiers_decide_what_blocks(tier: str, shift: float, wanted: str) -> None:
    rules = [
        {"scorers": ["a"], "margin": {"sd": 0.5}},
        {"tier": tier, "scorers": ["b"], "margin": {"absolute": 0.1}},
    ]
    quiet = {"noise": 0.15}
    result = gate({"a": curve_values(seed=5, **quiet), "b": curve_values(seed=6, shift=shift, **quiet)}, rules=rules)
    assert result.verdict == wanted
    assert any(row.blocks for row in result.rows) == (wanted != "PASS")


def test_the_first_rule_that_names_a_measure_holds() -> None:
    rules = [
        {"scorers": ["a"], "steps": [2], "margin": {"absolute": 9.0}},
        {"kinds": ["reward"], "margin": {"absolute": 0.5}},
    ]
    result = gate({"a": curve_values(seed=5)}, rules=rules)
    assert {(row.steps, row.margin) for row in result.rows} == {(2, 9.0), (4, 0.5), (8, 0.5)}


def test_margins_in_standard_deviations_are_of_the_base() -> None:
    base = curve_values()
    result = gate({"a": curve_values(seed=5)}, {"a": base})
    assert result.rows[0].margin == pytest.approx(0.2 * base[0].std(ddof=1))


def test_lower_is_better_is_gated_the_right_way_round() -> None:
    parts = {"a": scorer_part("a", orientation="lower")}
    worse = gate({"a": curve_values(seed=5, shift=1.0)}, scorers=parts)
    better = gate({"a": curve_values(seed=5, shift=-1.0)}, scorers=parts)
    assert (worse.verdict, better.verdict) == ("BREACH", "PASS")


def test_statistics_cannot_be_gated() -> None:
    parts = {"s": scorer_part("s", kind="statistics", orientation="none")}
    with pytest.raises(UsageError, match="s has no better side"):
        gate({"s": curve_values()}, rules=[{"scorers": ["s"], "margin": {"sd": 1}}], scorers=parts)


def test_a_breach_needs_a_bound_that_holds_for_all_rows_together() -> None:
    rows = {f"s{i}": curve_values(seed=20 + i, shift=-0.4 if i == 0 else 0.0) for i in range(12)}
    base = {name: curve_values(seed=50 + i) for i, name in enumerate(rows)}
    result = gate(rows, base, rules=[{"kinds": ["reward"], "margin": {"absolute": 0.2}}])
    alone = gate({"s0": rows["s0"]}, {"s0": base["s0"]}, rules=[{"kinds": ["reward"], "margin": {"absolute": 0.2}}])
    assert result.rows[0].row == alone.rows[0].row and result.rows[0].upper > alone.rows[0].upper


def test_unlike_cards_are_refused_or_marked() -> None:
    one, other = made_run({"base": {"a": curve_values()}}), made_run({"nft": {"a": curve_values()}}, dtype="bfloat16")
    policy = {"rules": [{"kinds": ["reward"], "margin": {"sd": 0.2}}]}
    with pytest.raises(CardMismatchError, match="--allow dtype"):
        evaluate_gate(make_policy(policy), Side(one, "base"), Side(other, "nft"))
    result = evaluate_gate(make_policy({**policy, "allow": ["dtype"]}), Side(one, "base"), Side(other, "nft"))
    assert result.verdict == "PASS" and len(result.allowed) == 1


def test_what_the_candidates_run_leaves_out_is_not_passed() -> None:
    base = made_run({"base": {"a": curve_values(), "b": curve_values()}})
    thin = made_run({"nft": {"a": curve_values(steps=(8,))}}, steps=(8,), name="thin")
    policy = make_policy({"rules": [{"kinds": ["reward"], "margin": {"sd": 0.2}}]})
    result = evaluate_gate(policy, Side(base, "base"), Side(thin, "nft"))
    assert result.verdict == "INCONCLUSIVE"
    found = {(row.name, row.steps): (row.verdict, row.reason) for row in result.rows}
    assert found["a", 8] == ("PASS", "")
    assert found["a", 2] == ("INCONCLUSIVE", "the runs share no pictures at 2 steps")
    assert found["b", 8] == ("INCONCLUSIVE", "run 'thin' of the candidate has no b")
    assert len(found) == 6


def test_a_rule_that_names_its_step_counts_asks_for_those_alone() -> None:
    base = made_run({"base": {"a": curve_values()}})
    thin = made_run({"nft": {"a": curve_values(steps=(8,))}}, steps=(8,), name="thin")
    policy = make_policy({"rules": [{"scorers": ["a"], "steps": [8], "margin": {"sd": 0.2}}]})
    assert evaluate_gate(policy, Side(base, "base"), Side(thin, "nft")).verdict == "PASS"


def test_a_few_prompts_that_look_alike_by_chance_pass_nothing() -> None:
    few = {"a": curve_values(prompts=7)}
    result = gate(few, few)
    assert {(row.verdict, row.reason) for row in result.rows} == {
        ("INCONCLUSIVE", "7 prompts have a pair, 8 are needed")
    }
    assert gate(few, few, policy={"least_prompts": 7}).verdict == "PASS"


def test_coverage_is_not_rounded_up_to_what_is_needed() -> None:
    candidate = curve_values(prompts=600)
    candidate[0, 3, 1] = np.nan
    result = gate({"a": candidate}, {"a": curve_values(prompts=600)})
    assert result.rows[0].reason == "99.9% of the pairs have both scores, 100.0% are needed"


def test_a_checkpoint_is_not_its_own_candidate() -> None:
    run = made_run({"base": {"a": curve_values()}})
    policy = make_policy({"rules": [{"kinds": ["reward"], "margin": {"sd": 0.2}}]})
    with pytest.raises(UsageError, match="both 'base' of run 'made'"):
        evaluate_gate(policy, Side(run, "base"), Side(run, "base"))


def test_equal_weights_under_two_names_are_told_apart_from_equal_scores() -> None:
    policy = make_policy({"rules": [{"kinds": ["reward"], "margin": {"sd": 0.2}}]})
    for weights, same in (("base", True), ("other", False)):
        values = {"base": {"a": curve_values()}, "nft": {"a": curve_values()}}
        run = made_run(values, checkpoints={"nft": {"weights": weights}})
        assert evaluate_gate(policy, Side(run, "base"), Side(run, "nft")).same_weights is same
