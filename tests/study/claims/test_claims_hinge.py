"""Claims 4 to 7: quality, realism, reward, and few steps, with planted gains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from study_fakes import QUALITY, REALISM, REWARD, Truth, made_evidence, made_plan

from nbench.study.claims.claim import Verdict
from nbench.study.claims.hinge import claim_few_steps, claim_quality, claim_realism, claim_reward
from nbench.study.claims.reader import Reader
from nbench.study.evidence import Evidence


def _reader(
    guarded: dict[str, float],
    *,
    few: dict[str, float] | None = None,
    noise: float = 0.3,
    between: float = 0.02,
    **plan: object,
) -> Reader:
    gains = {"unguarded": {REWARD: 1.0}, "normguard": guarded}
    truth = Truth(gains=gains, few={"normguard": few or {}}, noise=noise, between=between)
    return Reader(made_evidence(made_plan(**{"methods": ("nft",), **plan}), truth, kinds=["final"]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gain", "noise", "verdict"),
    [(0.5, 0.3, "holds"), (0.0, 0.1, "does not hold"), (-0.5, 0.3, "does not hold"), (0.1, 3.0, "cannot tell")],
)
def test_quality_and_realism_by_the_superiority_rule(gain: float, noise: float, verdict: Verdict) -> None:
    reader = _reader({QUALITY: gain, REALISM: gain}, noise=noise)
    for claim in (claim_quality(reader), claim_realism(reader)):
        assert (claim.verdict, claim.missing) == (verdict, ())
        assert claim.effect is not None and claim.effect.trainings == 3 and claim.effect.prompts == 24
        assert claim.effect.mean == pytest.approx(gain, abs=0.1 if noise < 1 else 1.0)
        assert len(claim.parts) == 4


def test_an_effect_smaller_than_worth_having_holds_and_says_so() -> None:
    claim = claim_quality(_reader({QUALITY: 0.05}, noise=0.05, between=0.005))
    assert claim.verdict == "holds"
    assert "smaller than the smallest worth having" in claim.summary


@pytest.mark.parametrize(
    ("reward", "noise", "verdict"),
    [(1.0, 0.1, "holds"), (1.5, 0.3, "holds"), (0.5, 0.3, "does not hold"), (0.9, 3.0, "cannot tell")],
)
def test_reward_by_the_non_inferiority_rule(reward: float, noise: float, verdict: Verdict) -> None:
    claim = claim_reward(_reader({REWARD: reward}, noise=noise))
    assert claim.verdict == verdict


def test_curves_for_the_figure_show_both_arms_against_the_base() -> None:
    claim = claim_reward(_reader({REWARD: 0.5}, few={REWARD: 0.4}))
    assert claim.series is not None
    assert list(claim.series) == ["guarded - unguarded", "unguarded - base", "guarded - base"]
    assert claim.series["unguarded - base"]["mean"] == pytest.approx([1.0, 1.0], abs=0.15)
    assert claim.series["guarded - base"]["mean"] == pytest.approx([0.9, 0.5], abs=0.15)
    assert claim.series["guarded - unguarded"]["steps"] == [2, 8]


@pytest.mark.parametrize(
    ("few", "noise", "verdict"),
    [
        ({QUALITY: 0.6, REALISM: 0.6}, 0.3, "holds"),
        ({QUALITY: 0.0, REALISM: -0.2}, 0.05, "does not hold"),
        ({QUALITY: 0.6, REALISM: -0.2}, 0.1, "cannot tell"),
        ({QUALITY: 0.1, REALISM: 0.1}, 3.0, "cannot tell"),
    ],
)
def test_growth_at_few_steps_needs_both_measures(few: dict[str, float], noise: float, verdict: Verdict) -> None:
    claim = claim_few_steps(_reader({QUALITY: 0.3, REALISM: 0.3}, few=few, noise=noise))
    assert claim.verdict == verdict


def test_growth_is_in_the_spread_at_full_steps_for_both_ends() -> None:
    reader = _reader({QUALITY: 0.5, REALISM: 0.5}, noise=0.0)
    run = reader.evidence.runs["pocket-nft-aes", "final"]
    # At 2 steps the base's values spread three times as much; each checkpoint's gain stays what it is.
    values = np.array(run.scores["value"])
    base = np.array(run.scores["checkpoint"]) == "base"
    two = np.array(run.scores["steps"]) == 2
    mine = {scorer: np.array(run.scores["scorer"]) == scorer for scorer in (QUALITY, REALISM)}
    wide = values.copy()
    for checkpoint in set(run.scores["checkpoint"].to_pylist()):
        for rows in mine.values():
            own = np.array(run.scores["checkpoint"]) == checkpoint
            wide[own & rows & two] += 2 * values[base & rows & two]
    assert wide[base & mine[QUALITY] & two].std() > 2.9 * values[base & mine[QUALITY] & two].std()
    scores = run.scores.set_column(run.scores.column_names.index("value"), "value", pa.array(wide))
    changed = Evidence(reader.evidence.plan, {("pocket-nft-aes", "final"): replace(run, scores=scores)})
    claim = claim_few_steps(Reader(changed))
    assert claim.effect is not None and claim.effect.mean == pytest.approx(0.0, abs=1e-9)


def test_grpo_pairs_with_the_norm_guard_are_shown_but_not_pooled() -> None:
    reader = _reader({QUALITY: 0.5}, methods=("nft", "grpo"), seeds=(0, 1, 2))
    claim = claim_quality(reader)
    assert claim.effect is not None and claim.effect.trainings == 3
    assert [part.facts["scope"] for part in claim.parts] == ["all", *["one"] * 3, *["information"] * 3]
    alone = claim_quality(_reader({QUALITY: 0.5}, methods=("grpo",)))
    assert alone.verdict == "cannot tell" and alone.effect is None and "nft" in alone.missing[0]


def test_a_measure_that_was_trained_on_is_left_out_and_named() -> None:
    reader = _reader({QUALITY: 0.5, REALISM: 0.5}, reward=QUALITY)
    claim = claim_quality(reader)
    assert (claim.verdict, claim.effect) == ("cannot tell", None)
    assert "trained on it" in claim.missing[0]
    reader.forget()
    assert claim_realism(reader).verdict == "holds"


def test_a_scorer_that_was_not_run_is_named() -> None:
    claim = claim_quality(_reader({QUALITY: 0.5}, quality="other"))
    assert (claim.verdict, claim.effect) == ("cannot tell", None)
    assert any("other" in one and "evaluation.scorers" in one for one in claim.missing)


def test_with_one_training_seed_the_claim_says_that_it_holds_for_these_trainings_only() -> None:
    claim = claim_quality(_reader({QUALITY: 0.5}, seeds=(0,)))
    assert claim.verdict == "holds"
    assert any("these trainings" in caveat for caveat in claim.caveats)
    assert not any("these trainings" in caveat for caveat in claim_quality(_reader({QUALITY: 0.5})).caveats)


def test_failed_pictures_cost_their_prompt_only_where_no_picture_is_left() -> None:
    reader = _reader({QUALITY: 0.5}, noise=0.0)
    run = reader.evidence.runs["pocket-nft-aes", "final"]
    mine = np.array(run.scores["checkpoint"]) == "normguard-s1"
    prompt, seed = np.array(run.scores["prompt_id"]), np.array(run.scores["seed"])
    failed = mine & ((prompt == "p003") | ((prompt == "p005") & (seed == 1)))
    values = pa.array(np.where(failed, np.nan, np.array(run.scores["value"])), mask=failed)
    scores = run.scores.set_column(run.scores.column_names.index("value"), "value", values)
    changed = Evidence(reader.evidence.plan, {("pocket-nft-aes", "final"): replace(run, scores=scores)})
    claim, whole = claim_quality(Reader(changed)), claim_quality(reader)
    assert claim.effect is not None and whole.effect is not None
    assert (claim.effect.prompts, whole.effect.prompts) == (23, 24)
    assert claim.effect.mean == pytest.approx(whole.effect.mean, abs=0.02)
