"""Comparisons of made-up runs whose truth is known."""

from typing import Any

import numpy as np
import pytest
from evidence_fakes import STEPS, curve_values, made_run, scorer_part

from nbench.compare import Comparison, Side, compare
from nbench.errors import CardMismatchError, UsageError

UP = {"proxy": 0.5}


def comparison(
    candidate: dict[str, np.ndarray], base: dict[str, np.ndarray] | None = None, **options: Any
) -> Comparison:
    scorers = options.pop("scorers", None)
    mine = base or {name: curve_values(seed=i) for i, name in enumerate(candidate)}
    run = made_run({"base": mine, "nft": candidate}, scorers=scorers)
    return compare(Side(run, "base"), Side(run, "nft"), **options)


def test_a_shift_is_found_at_every_step_count_with_its_interval() -> None:
    found = comparison({"a": curve_values(seed=5, shift=0.3)})
    assert [row.steps for row in found.rows] == list(STEPS)
    for row in found.rows:
        assert row.difference is not None and row.coverage == 1.0
        assert row.difference.low < 0.3 < row.difference.high and row.difference.significant
        assert row.candidate - row.base == pytest.approx(row.difference.mean)
        assert 0 < row.detectable < 0.3
    (curve,) = found.curves
    assert curve.area.low < 0.3 < curve.area.high
    assert curve.match is not None and 2**2.2 < curve.match.low < 2**2.7 < curve.match.high < 2**3.1


def test_a_gain_that_is_larger_at_few_steps_is_told_from_one_that_is_not() -> None:
    (grows,) = comparison({"a": curve_values(seed=5, shift=0.2, at={2: 0.4})}).curves
    assert grows.few_minus_full.low < 0.4 < grows.few_minus_full.high and grows.few_minus_full.significant
    (constant,) = comparison({"a": curve_values(seed=5, shift=0.2)}).curves
    assert not constant.few_minus_full.significant


def test_lower_is_better_turns_the_sign_and_not_the_means() -> None:
    parts = {"a": scorer_part("a", orientation="lower")}
    found = comparison({"a": curve_values(seed=5, shift=0.3)}, scorers=parts)
    row = found.rows[0]
    assert row.difference is not None and row.difference.mean < -0.2
    assert row.candidate > row.base


def test_statistics_have_no_better_side() -> None:
    parts = {"s": scorer_part("s", kind="statistics", orientation="none")}
    found = comparison({"s": curve_values(seed=5, shift=0.3)}, scorers=parts)
    assert found.rows[0].difference is not None and found.rows[0].difference.mean > 0.2
    assert not found.improved and not found.worsened and not found.regressions
    assert found.curves[0].match is None


def test_failures_of_either_side_leave_the_pair_out_and_lower_the_coverage() -> None:
    base, candidate = curve_values(), curve_values(seed=5, shift=0.3)
    base[0, :4, 0] = np.nan
    candidate[0, 2:6, 0] = np.nan
    found = comparison({"a": candidate}, {"a": base})
    assert [row.coverage for row in found.rows] == [1 - 6 / 80, 1.0, 1.0]
    assert found.rows[0].difference is not None and found.rows[0].difference.pairs == 74
    assert found.curves[0].dropped == 6


def test_a_measure_that_failed_everywhere_has_no_difference() -> None:
    found = comparison({"a": np.full((3, 40, 2), np.nan)})
    assert {row.coverage for row in found.rows} == {0.0} and {row.difference for row in found.rows} == {None}
    assert found.curves == ()


def test_two_runs_are_paired_by_prompt_whatever_their_order() -> None:
    base, candidate = curve_values(), curve_values(seed=5, shift=0.3)
    one = made_run({"base": {"a": base}})
    other = made_run({"nft": {"a": candidate}, "more": {"a": candidate}}, name="other")
    turned = type(other)(**{**vars(other), "samples": other.samples.take(list(range(len(other.samples)))[::-1])})
    apart = compare(Side(one, "base"), Side(turned, "nft"))
    together = comparison({"a": candidate}, {"a": base})
    assert [row.difference for row in apart.rows] == [row.difference for row in together.rows]
    assert apart.runs == ("made", "other")


def test_only_common_step_counts_and_measures_are_compared() -> None:
    one = made_run({"base": {"a": curve_values(), "b": curve_values()}})
    other = made_run({"nft": {"a": curve_values(steps=(4, 8, 16))}}, steps=(4, 8, 16))
    found = compare(Side(one, "base"), Side(other, "nft"))
    assert [(row.measure.name, row.steps) for row in found.rows] == [("a", 4), ("a", 8)]
    far = made_run({"nft": {"a": curve_values(steps=(16, 28, 40))}}, steps=(16, 28, 40))
    with pytest.raises(UsageError, match=r"share no step count: 2, 4, 8 and 16, 28, 40"):
        compare(Side(one, "base"), Side(far, "nft"))


def test_unlike_cards_are_refused_and_allowed_ones_are_reported() -> None:
    one = made_run({"base": {"a": curve_values()}})
    other = made_run({"nft": {"a": curve_values()}}, dtype="bfloat16")
    with pytest.raises(CardMismatchError, match="dtype: float32 -> bfloat16"):
        compare(Side(one, "base"), Side(other, "nft"))
    found = compare(Side(one, "base"), Side(other, "nft"), allow=["dtype"])
    assert [str(one) for one in found.allowed] == ["dtype: float32 -> bfloat16"]


def test_an_unknown_checkpoint_names_the_nearest() -> None:
    run = made_run({"base": {"a": curve_values()}})
    with pytest.raises(UsageError, match=r"no checkpoint 'bas'. Did you mean 'base'\?"):
        compare(Side(run, "bas"), Side(run, "base"))


def test_a_checkpoint_that_the_tables_lack_yet_says_so() -> None:
    run = made_run({"base": {"a": curve_values()}})
    run.card["checkpoints"]["nft"] = run.card["checkpoints"]["base"]
    with pytest.raises(UsageError, match="has no pictures of 'nft' in its tables yet: finish it with"):
        compare(Side(run, "base"), Side(run, "nft"))


def test_prompts_and_pairs_that_moved_most_are_named() -> None:
    base, candidate = curve_values(noise=0.0), curve_values(noise=0.0)
    candidate[0, 7] -= 2.0  # both seeds
    candidate[0, 9, 1] -= 3.0
    candidate[0, 11] += 1.0
    found = comparison({"a": candidate}, {"a": base})
    assert [(one.prompt, one.difference) for one in found.worsened] == [("p007", -2.0), ("p009", -1.5)]
    assert [(one.prompt, one.text) for one in found.improved] == [("p011", "prompt 11")]
    worst = found.regressions[0]
    assert (worst.prompt, worst.seed, worst.difference) == ("p009", 1, -3.0)
    assert (worst.base_key, worst.candidate_key) == ("base-2-p009-1", "nft-2-p009-1")
    assert len(found.regressions) == 3  # nothing that did not lose


def hacked(**shifts: float) -> Comparison:
    """A candidate whose scorers moved by these shifts, trained on the first."""
    candidate = {
        name: curve_values(seed=50 + i, shift=shift, noise=0.1) for i, (name, shift) in enumerate(shifts.items())
    }
    base = {name: curve_values(seed=i, noise=0.1) for i, name in enumerate(shifts)}
    return comparison(candidate, base, trained_on=[next(iter(shifts))])


@pytest.mark.parametrize(
    ("shifts", "verdict"),
    [
        ({"proxy": 0.5, "held": 0.2, "other": 0.1}, "supported"),
        ({"proxy": 0.5, "held": -0.5, "other": 0.1}, "unsupported"),
        ({"proxy": 0.0, "held": -0.5, "other": 0.0}, "no gain"),
        ({"proxy": 0.5, "held": -0.06, "other": 0.1}, "cannot tell"),
    ],
)
def test_a_gain_of_the_proxy_needs_the_held_out_measures(shifts: dict[str, float], verdict: str) -> None:
    found = hacked(**shifts).hacking
    assert found is not None and found.verdict == verdict
    assert {row.measure.name for row in found.gains} == {"proxy"}
    assert {(one.measure.name, one.steps) for one in found.held_out} == {
        (name, steps) for name in ("held", "other") for steps in STEPS
    }


def test_a_proxy_alone_cannot_be_supported() -> None:
    found = hacked(proxy=0.5).hacking
    assert found is not None and found.verdict == "cannot tell" and found.held_out == ()


def test_an_unknown_proxy_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"--trained-on proxi: neither run has such a score. Did you mean 'proxy'\?"):
        comparison({"proxy": curve_values()}, trained_on=["proxi"])
