"""Claims 1 and 2: the velocity norm, and what pulling it back while sampling does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from study_fakes import QUALITY, REWARD, Truth, made_evidence, made_plan

from nbench.errors import CardMismatchError
from nbench.study.claims.claim import Claim, Verdict
from nbench.study.claims.inflation import claim_inflation
from nbench.study.claims.reader import Reader
from nbench.study.claims.rescale import claim_rescale
from nbench.study.evidence import Evidence

_METHODS = ("nft", "awm", "dpo", "grpo")


def _inflation(truth: Truth, methods: tuple[str, ...] = _METHODS) -> Claim:
    return claim_inflation(Reader(made_evidence(made_plan(methods=methods), truth, kinds=["final"])))


def test_inflation_by_every_method_holds_and_is_compared_with_the_paper() -> None:
    claim = _inflation(Truth(inflation={"unguarded": 0.10, "nft-unguarded": 0.20}))
    assert (claim.verdict, claim.missing) == ("holds", ())
    by_name = {part.name: part for part in claim.parts}
    nft = by_name["all: nft"]
    assert nft.effect is not None and nft.effect.mean == pytest.approx(20, abs=0.5) and nft.effect.trainings == 3
    assert nft.facts["paper"] == "more than the paper's 5 to 15 %"
    assert by_name["all: dpo"].facts["paper"] == "within the paper's 5 to 15 %"
    assert by_name["pocket-dpo-aes s1"].facts["2 steps"] == pytest.approx(10, abs=0.5)


def test_a_method_that_shrinks_the_norm_refutes_it_and_is_named() -> None:
    claim = _inflation(Truth(inflation={"unguarded": 0.10, "dpo-unguarded": -0.05}))
    assert claim.verdict == "does not hold"
    assert "Below 0: dpo" in claim.summary


def test_grpo_is_shown_but_does_not_decide() -> None:
    claim = _inflation(Truth(inflation={"unguarded": 0.10, "grpo-unguarded": -0.05}))
    assert claim.verdict == "holds"
    part = next(part for part in claim.parts if part.name == "pocket-grpo-aes s0")
    assert (part.facts["scope"], part.verdict) == ("information", "does not hold")


def test_a_method_without_inflation_or_without_trainings_leaves_it_open() -> None:
    assert _inflation(Truth(inflation={"unguarded": 0.10, "awm-unguarded": 0.0})).verdict == "cannot tell"
    alone = _inflation(Truth(inflation={"unguarded": 0.10}), methods=("nft",))
    assert alone.verdict == "cannot tell"
    assert any("awm" in one for one in alone.missing) and any("dpo" in one for one in alone.missing)


@pytest.mark.parametrize(
    ("rescaled", "noise", "verdict"),
    [
        ({REWARD: -0.5, QUALITY: -0.3}, 0.3, "holds"),
        ({REWARD: 0.03, QUALITY: 0.03}, 0.02, "holds"),
        ({REWARD: -0.5, QUALITY: 0.5}, 0.3, "does not hold"),
        ({REWARD: -0.5, QUALITY: 0.1}, 2.0, "cannot tell"),
    ],
)
def test_rescaling_is_judged_on_reward_and_quality(rescaled: dict[str, float], noise: float, verdict: Verdict) -> None:
    plan = made_plan(methods=("nft",))
    kinds = ["final", "rescale-full", "rescale-one-sided"]
    truth = Truth(rescaled=rescaled, noise=noise, between=0.01)
    claim = claim_rescale(Reader(made_evidence(plan, truth, kinds=kinds)))
    assert claim.verdict == verdict
    assert {part.name for part in claim.parts if part.facts["scope"] == "all"} == {
        f"all: {measure} {mode}" for measure in ("reward", "quality") for mode in ("full", "one-sided")
    }
    reward = next(part.effect for part in claim.parts if part.name == "all: reward full")
    assert reward is not None and reward.mean == pytest.approx(rescaled[REWARD], abs=0.15 if noise < 1 else 0.6)


def test_runs_that_differ_in_more_than_the_rescale_are_refused() -> None:
    plan = made_plan(methods=("nft",), seeds=(0,))
    evidence = made_evidence(plan, Truth(), kinds=["final", "rescale-full", "rescale-one-sided"])
    place = ("pocket-nft-aes", "rescale-full")
    run = evidence.runs[place]  # type: ignore[index]
    card = {**run.card, "sampler": {**run.card["sampler"], "grid": "linspace"}}
    changed = Evidence(plan, {**evidence.runs, place: replace(run, card=card)})  # type: ignore[dict-item]
    with pytest.raises(CardMismatchError, match=r"sampler\.grid"):
        claim_rescale(Reader(changed))


def test_the_unit_is_the_spread_of_the_base_at_the_same_step_count() -> None:
    plan = made_plan(methods=("nft",), seeds=(0,))
    truth = Truth(rescaled={QUALITY: -0.5}, noise=0.0, between=0.0)
    evidence = made_evidence(plan, truth, kinds=["final", "rescale-full", "rescale-one-sided"])
    claim = claim_rescale(Reader(evidence))
    run = evidence.runs["pocket-nft-aes", "final"]
    scores = run.scores.filter(
        (np.array(run.scores["scorer"]) == QUALITY) & (np.array(run.scores["checkpoint"]) == "base")
    )
    at_two = np.array(scores["value"])[np.array(scores["steps"]) == 2]  # the fakes' base is alike at all step counts
    effect = next(part.effect for part in claim.parts if part.name == "all: quality full")
    assert effect is not None and effect.mean == pytest.approx(-0.5 / at_two.std(ddof=1))
    raw = {
        part.facts["difference"]
        for part in claim.parts
        if part.name.endswith("quality full") and "difference" in part.facts
    }
    assert [round(float(one or 0), 6) for one in raw] == [-0.5]
