"""Claims 8 and 11: matched earlier checkpoints, with planted trajectories."""

from __future__ import annotations

import numpy as np
import pytest
from study_fakes import PROXY, QUALITY, REALISM, REWARD, Truth, made_evidence, made_plan, with_failures

from nbench.study.claims.claim import Claim, Verdict
from nbench.study.claims.early_stopping import claim_early_stopping
from nbench.study.claims.over_optimisation import claim_over_optimisation
from nbench.study.claims.reader import Reader
from nbench.study.claims.trajectories import at, match
from nbench.study.evidence import Evidence

_HARM = {REWARD: 1.0, QUALITY: -1.0, REALISM: -1.0, PROXY: -1.0}


def test_the_first_crossing_is_found_between_checkpoints() -> None:
    curve = np.array([0.0, 1.0, 0.5, 2.0])
    position, reached = match(np.stack([curve] * 4), np.array([0.25, 0.75, 1.5, 0.0]))
    assert position.tolist() == pytest.approx([0.25, 0.75, 2 + 2 / 3, 0.0])
    assert reached.all()
    falling, _ = match(np.array([1.0, 0.0]), np.array(0.25))
    assert float(falling) == pytest.approx(0.75)


def test_a_target_that_is_never_reached_takes_the_nearest_end() -> None:
    curve = np.array([0.0, 1.0, 2.0])
    position, reached = match(np.stack([curve] * 2), np.array([3.0, -0.5]))
    assert position.tolist() == [2, 0]
    assert not reached.any()


def test_reading_a_curve_where_another_matched() -> None:
    curve = np.array([[0.0, 10.0, 30.0]] * 3)
    assert at(curve, np.array([0.5, 1.25, 2.0])).tolist() == pytest.approx([5.0, 15.0, 30.0])


def _early(guarded: dict[str, float], inflation: float, noise: float = 0.2) -> Claim:
    truth = Truth(
        gains={"unguarded": _HARM, "normguard": guarded}, inflation={"unguarded": 0.10, "normguard": inflation},
        noise=noise,
    )  # fmt: skip
    return claim_early_stopping(Reader(made_evidence(made_plan(methods=("nft",)), truth, kinds=["trajectory"])))


@pytest.mark.parametrize(
    ("guarded", "inflation", "noise", "verdict"),
    [
        # keeps its quality at a reward and a norm at which the unguarded training has lost half of it
        ({REWARD: 0.5, QUALITY: 0.0, REALISM: 0.0}, 0.05, 0.2, "holds"),
        # is the unguarded training, stopped half-way
        ({REWARD: 0.5, QUALITY: -0.5, REALISM: -0.5}, 0.05, 0.05, "does not hold"),
        # better at equal reward, but the same at equal norm
        ({REWARD: 1.0, QUALITY: -0.2, REALISM: -0.2}, 0.02, 0.05, "does not hold"),
        ({REWARD: 0.5, QUALITY: -0.4, REALISM: -0.4}, 0.05, 4.0, "cannot tell"),
    ],
)
def test_early_stopping(guarded: dict[str, float], inflation: float, noise: float, verdict: Verdict) -> None:
    claim = _early(guarded, inflation, noise)
    assert (claim.verdict, claim.missing) == (verdict, ())


def test_the_match_is_reported_with_its_epoch_and_the_frontier_with_every_epoch() -> None:
    claim = _early({REWARD: 0.5, QUALITY: 0.0, REALISM: 0.0}, 0.05)
    part = next(part for part in claim.parts if part.name == "pocket-nft-aes s1 reward-matched")
    assert part.facts["matched epoch"] == pytest.approx(10, abs=2)
    assert (part.facts["reached"], part.facts["measures"]) == ("yes", f"{QUALITY}, {REALISM}")
    assert part.effect is not None and part.effect.mean == pytest.approx(0.5, abs=0.1)
    assert claim.series is not None
    line = claim.series["pocket-nft-aes s1 unguarded"]
    assert line["epoch"] == [0, 5, 10, 15, 20]
    assert line["reward"] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0], abs=0.1)
    assert line["norm"] == pytest.approx([1, 1.025, 1.05, 1.075, 1.1], abs=0.01)
    assert line[QUALITY] == pytest.approx([0, -0.25, -0.5, -0.75, -1.0], abs=0.15)


def test_a_reward_that_the_unguarded_training_never_had_is_matched_with_its_end_and_said() -> None:
    claim = _early({REWARD: 2.0, QUALITY: 0.0, REALISM: 0.0}, 0.05)
    reached = {part.name: part.facts.get("reached") for part in claim.parts if part.facts["scope"] == "one"}
    assert {reached[name] for name in reached if name.endswith("reward-matched")} == {"no"}
    assert {reached[name] for name in reached if name.endswith("norm-matched")} == {"yes"}
    assert any("never has the guarded one's value" in caveat for caveat in claim.caveats)


def test_without_trajectories_the_claim_says_what_to_run() -> None:
    plan = made_plan(methods=("nft",))
    claim = claim_early_stopping(Reader(Evidence(plan, {})))
    assert (claim.verdict, claim.effect) == ("cannot tell", None)
    assert "the trajectory run of pocket-nft-aes" in claim.missing[0]


def _over(guarded: dict[str, float], noise: float = 0.2) -> Claim:
    truth = Truth(gains={"unguarded": _HARM, "grpo-guard": guarded}, noise=noise)
    return claim_over_optimisation(Reader(made_evidence(made_plan(methods=("grpo",)), truth, kinds=["trajectory"])))


@pytest.mark.parametrize(
    ("guarded", "noise", "verdict"),
    [
        ({REWARD: 0.6, QUALITY: -0.1, REALISM: -0.1, PROXY: -0.1}, 0.2, "holds"),
        # less reward, and less harm in proportion: nothing at equal reward
        ({REWARD: 0.6, QUALITY: -0.6, REALISM: -0.6, PROXY: -0.6}, 0.05, "does not hold"),
        ({REWARD: 0.6, QUALITY: -0.5, REALISM: -0.5, PROXY: -0.5}, 5.0, "cannot tell"),
    ],
)
def test_over_optimisation_is_judged_at_equal_reward(guarded: dict[str, float], noise: float, verdict: Verdict) -> None:
    assert _over(guarded, noise).verdict == verdict


def test_the_held_out_panel_leaves_the_trained_scorer_out() -> None:
    claim = _over({REWARD: 0.6, QUALITY: -0.1, REALISM: -0.1, PROXY: -0.1})
    part = claim.parts[1]
    assert part.facts["measures"] == f"{QUALITY}, {REALISM}, {PROXY}"
    assert part.facts["reward at the match"] == pytest.approx(0.6, abs=0.1)
    assert part.facts["held out, unguarded"] == pytest.approx(-0.6, abs=0.1)
    assert part.facts["epoch, guarded"] == pytest.approx(20, abs=1e-6)


def test_a_scorer_that_fails_on_most_prompts_does_not_take_them_from_the_others() -> None:
    plan = made_plan(methods=("grpo",))
    truth = Truth(gains={"unguarded": _HARM, "grpo-guard": {REWARD: 0.6, QUALITY: -0.1, REALISM: -0.1, PROXY: -0.1}})
    evidence = made_evidence(plan, truth, kinds=["trajectory"])
    runs = {place: with_failures(run, PROXY, range(2, 24)) for place, run in evidence.runs.items()}
    claim = claim_over_optimisation(Reader(Evidence(plan, runs)))
    assert claim.verdict == "holds"
    assert claim.parts[1].facts["measures"] == f"{QUALITY}, {REALISM}"
    assert claim.effect is not None and claim.effect.prompts == 24
