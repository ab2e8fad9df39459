"""Looking again and again: its error rates by simulation, its verdicts on made-up runs."""

import math
from typing import Any

import numpy as np
import pytest
from evidence_fakes import curve_values, made_run
from gate_fakes import REWARDS, Values

from nbench.compare import Side
from nbench.gates.evaluate import GateResult
from nbench.gates.policy import make_policy
from nbench.gates.sequential import anytime_verdict, evaluate_look, hopeless, prompt_means, running_bounds
from nbench.stats.sequential import FEWEST

MARGIN = 0.3
PROMPTS = 300


def looked(differences: np.ndarray, *, every: int = 1) -> tuple[str, int]:
    """Verdict and number of prompts of a gate with a row per column, looked at after every `every` prompts."""
    n, rows = differences.shape
    for count in range(FEWEST, n + 1, every):
        verdicts = []
        for column in differences.T:
            found = running_bounds(column[:count], level=0.95, rows=rows, tuned_for=n // 2)
            verdicts.append(anytime_verdict(found.lower, found.upper, MARGIN))
        if "BREACH" in verdicts:
            return "BREACH", count
        if set(verdicts) == {"PASS"}:
            return "PASS", count
    return "INCONCLUSIVE", n


def ever(values: np.ndarray, *, rows: int = 1) -> str:
    """The verdict after looking at every number of prompts: the running bounds at the end say so at once."""
    found = running_bounds(values, level=0.95, rows=rows, tuned_for=len(values) // 2)
    return anytime_verdict(found.lower, found.upper, MARGIN)


@pytest.mark.parametrize("kind", ["normal", "skewed", "tied"])
def test_a_candidate_at_the_margin_passes_or_breaches_in_at_most_6_percent_of_all_gates(kind: str) -> None:
    rng, experiments = np.random.default_rng(3), 1200
    draws = {
        "normal": lambda: rng.normal(size=PROMPTS),
        "skewed": lambda: rng.exponential(size=PROMPTS) - 1,
        "tied": lambda: rng.integers(-1, 2, PROMPTS).astype(float),
    }
    verdicts = [ever(draws[kind]() - MARGIN) for _ in range(experiments)]
    assert 0 < verdicts.count("PASS") / experiments <= 0.06
    assert 0 < verdicts.count("BREACH") / experiments <= 0.06


def test_any_of_many_rows_at_the_margin_breaches_in_at_most_6_percent_of_all_gates() -> None:
    rng, experiments, rows = np.random.default_rng(4), 250, 6
    breached = 0
    for _ in range(experiments):
        columns = rng.normal(size=(rows, PROMPTS)) - MARGIN
        breached += any(ever(column, rows=rows) == "BREACH" for column in columns)
    assert breached / experiments <= 0.06
    alone = sum(any(ever(c) == "BREACH" for c in rng.normal(size=(rows, PROMPTS)) - MARGIN) for _ in range(100))
    assert alone / 100 > breached / experiments


def test_the_running_bounds_say_what_looking_after_every_prompt_said() -> None:
    rng = np.random.default_rng(5)
    for shift in (0.0, -0.15, -0.6):
        for _ in range(5):
            values = rng.normal(size=120) + shift
            assert looked(values[:, None])[0] == ever(values)


def test_a_clear_verdict_takes_a_part_of_the_prompts() -> None:
    rng = np.random.default_rng(6)
    for shift, wanted in ((0.3, "PASS"), (-0.9, "BREACH")):
        found = [looked(rng.normal(0, 0.5, (PROMPTS, 2)) + shift, every=16) for _ in range(20)]
        assert {verdict for verdict, _ in found} == {wanted}
        assert np.mean([count for _, count in found]) < PROMPTS / 3


def test_before_the_first_look_nothing_is_known() -> None:
    found = running_bounds(np.ones(FEWEST - 1), level=0.95, rows=1, tuned_for=100)
    assert found.lower == -math.inf and found.upper == math.inf
    assert anytime_verdict(found.lower, found.upper, 1e9) == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("lower", "upper", "wanted"),
    [(-0.1, 0.5, "PASS"), (-0.9, -0.31, "BREACH"), (-0.9, 0.1, "INCONCLUSIVE"), (-0.1, -0.5, "BREACH")],
)
def test_bounds_that_contradict_each_other_hold_the_release_back(lower: float, upper: float, wanted: str) -> None:
    assert anytime_verdict(lower, upper, MARGIN) == wanted


def test_prompts_without_a_pair_are_left_out_of_the_sequence() -> None:
    values = np.array([[1.0, 3.0], [np.nan, 5.0], [np.nan, np.nan], [0.0, 0.0]])
    assert prompt_means(values).tolist() == [2.0, 5.0, 0.0]


def look(candidate: Values, base: Values, rules: Any = None, order: Any = None, **options: Any) -> GateResult:
    run = made_run({"base": base, "nft": candidate}, **options.pop("run", {}))
    policy = make_policy({"rules": [REWARDS] if rules is None else rules, **options.pop("policy", {})})
    prompts = next(iter(candidate.values())).shape[1]
    order = [f"p{i:03d}" for i in range(prompts)] if order is None else order
    return evaluate_look(policy, Side(run, "base"), Side(run, "nft"), order, tuned_for=60, **options)


def test_identical_checkpoints_pass_at_the_first_look_and_not_before() -> None:
    plenty, few = {"a": curve_values(prompts=FEWEST)}, {"a": curve_values(prompts=FEWEST - 1)}
    assert look(plenty, plenty).verdict == "PASS"
    early = look(few, few)
    assert early.verdict == "INCONCLUSIVE" and "49 prompts neither show nor exclude" in early.rows[0].reason


def test_a_candidate_broken_at_few_steps_breaches_there() -> None:
    result = look({"a": curve_values(prompts=64, seed=5, at={2: -1.0})}, {"a": curve_values(prompts=64)})
    assert {row.steps: row.verdict for row in result.rows} == {2: "BREACH", 4: "PASS", 8: "PASS"}
    assert (result.verdict, result.exit_code) == ("BREACH", 1)


def test_bounds_are_wider_than_those_for_a_fixed_number_and_no_power_is_claimed() -> None:
    from gate_fakes import gate

    candidate, base = {"a": curve_values(prompts=64, seed=5)}, {"a": curve_values(prompts=64)}
    once, often = gate(candidate, base).rows[0], look(candidate, base).rows[0]
    assert once.row is not None and often.row is not None
    assert once.row.difference is not None and often.row.difference is not None
    assert often.row.difference.mean == pytest.approx(once.row.difference.mean)
    assert often.row.difference.lower < once.row.difference.lower and often.upper > once.upper
    assert often.row.difference.low < often.row.difference.lower < often.row.difference.upper <= often.upper
    assert math.isnan(often.row.detectable)


def test_the_order_is_the_one_that_was_given() -> None:
    base = curve_values(prompts=80, noise=0.3)
    candidate = {"a": curve_values(prompts=80, noise=0.3, seed=5)}
    given = [f"p{i:03d}" for i in range(80)]
    forwards, backwards = (look(candidate, {"a": base}, order=order) for order in (given, given[::-1]))
    assert forwards.rows[0].row is not None and backwards.rows[0].row is not None
    assert forwards.rows[0].row.difference != backwards.rows[0].row.difference


def test_advice_takes_no_part_in_the_shared_bound() -> None:
    rows = {name: curve_values(prompts=64, seed=i + 5) for i, name in enumerate("ab")}
    base = {name: curve_values(prompts=64, seed=i) for i, name in enumerate("ab")}
    rule = {"scorers": ["a"], "margin": {"sd": 0.2}}
    alone = look({"a": rows["a"]}, {"a": base["a"]}, rules=[rule])
    beside = look(rows, base, rules=[rule, {"tier": "advisory", "scorers": ["b"], "margin": {"sd": 0.2}}])
    assert beside.rows[0].upper == alone.rows[0].upper
    assert math.isnan(beside.rows[-1].upper) and beside.rows[-1].verdict == "PASS"
    gated = look(rows, base, rules=[rule, {"tier": "supporting", "scorers": ["b"], "margin": {"sd": 0.2}}])
    assert gated.rows[0].upper > alone.rows[0].upper


def test_the_last_look_says_that_there_are_no_more_prompts() -> None:
    values = {"prompts": 60, "noise": 1.5, "seeds": 1}
    candidate, base = {"a": curve_values(seed=5, **values)}, {"a": curve_values(**values)}
    reasons = [look(candidate, base, last=last).rows[0].reason for last in (False, True)]
    assert "no more" not in reasons[0] and ", and there are no more" in reasons[1]
    assert "would be enough if their number were fixed beforehand" in reasons[1]


def test_a_margin_of_0_is_not_undecided_for_lack_of_prompts() -> None:
    same = {"a": curve_values(prompts=60)}
    result = look(same, same, rules=[{"scorers": ["a"], "margin": {"absolute": 0}}])
    assert {row.reason for row in result.rows} == {"a margin of 0 passes only what is shown to be better"}


def test_what_no_prompt_can_mend_is_hopeless() -> None:
    gap = curve_values(prompts=64)
    gap[0, 3, 1] = np.nan
    whole = {"a": curve_values(prompts=64)}
    assert hopeless(look(whole, whole), 200) == ""
    assert hopeless(look(whole, whole, rules=[]), 200) == "the policy names no critical measure"
    missing = [{"kinds": ["judge"], "margin": {"sd": 1}}]
    assert "no scorer of kind judge" in hopeless(look(whole, whole, rules=missing), 200)
    assert "too many scores are missing already" in hopeless(look({"a": gap}, whole), 200)
    allowed = look({"a": gap}, whole, policy={"coverage": 0.995})
    assert allowed.rows[0].verdict == "INCONCLUSIVE" and hopeless(allowed, 200) == ""
    assert "too many" in hopeless(allowed, 64)
