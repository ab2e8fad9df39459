"""All claims of a study together."""

from __future__ import annotations

import json

from study_fakes import PROXY, QUALITY, REALISM, REWARD, SCORERS, Truth, made_evidence, made_plan, with_failures

from nbench.study.claims import judge_claims
from nbench.study.evidence import Evidence

_HARM = {REWARD: 1.0, QUALITY: -1.0, REALISM: -1.0, PROXY: -1.0}


def test_without_evidence_all_eleven_are_there_and_say_what_to_run() -> None:
    claims = judge_claims(Evidence(made_plan(methods=("nft", "awm", "dpo", "grpo"), seeds=(0,)), {}))
    assert [claim.number for claim in claims] == list(range(1, 12))
    assert len({claim.key for claim in claims}) == 11
    for claim in claims:
        assert (claim.verdict, claim.effect) == ("cannot tell", None)
        assert claim.missing and claim.statement and claim.rule and claim.summary


def test_what_one_claim_lacks_is_not_said_of_another() -> None:
    plan = made_plan(methods=("nft",), seeds=(0,))
    claims = judge_claims(made_evidence(plan, Truth(inflation={"unguarded": 0.1}), kinds=["final"]))
    assert claims[3].missing == ()
    assert "adjoint" in claims[2].missing[0]
    assert all("adjoint" not in one for one in claims[7].missing)


def test_claims_are_json_without_nan_even_where_nothing_could_be_measured() -> None:
    plan = made_plan(methods=("nft", "grpo"), seeds=(0,))
    truth = Truth(gains={"unguarded": _HARM}, inflation={"unguarded": 0.1})
    whole = made_evidence(plan, truth)
    runs = dict(whole.runs)
    for scorer in SCORERS:
        runs = {place: with_failures(run, scorer, range(24), "unguarded-s0") for place, run in runs.items()}
    for evidence in (whole, Evidence(plan, runs)):
        claims = judge_claims(evidence)
        text = json.dumps([claim.to_json() for claim in claims], allow_nan=False)
        assert len(json.loads(text)) == 11
    assert claims[3].verdict == "cannot tell"


def test_equal_evidence_gives_equal_claims() -> None:
    plan = made_plan(methods=("nft",), seeds=(0,))
    truth = Truth(gains={"unguarded": _HARM}, inflation={"unguarded": 0.1})
    first, second = (judge_claims(made_evidence(plan, truth)) for _ in range(2))
    assert [one.to_json() for one in first] == [two.to_json() for two in second]
