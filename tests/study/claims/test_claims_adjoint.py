"""Claim 3: what the inflation explains of the reward to first order."""

from __future__ import annotations

import pytest
from study_fakes import Truth, made_adjoint, made_evidence, made_plan

from nbench.study.claims.adjoint import claim_adjoint
from nbench.study.claims.claim import Claim, Verdict
from nbench.study.claims.reader import Reader


def _claim(sensitivity: float, spread: float = 1.0, *, analysed: bool = True) -> Claim:
    plan = made_plan(methods=("nft",))
    adjoint = {group.name: made_adjoint(group, sensitivity, spread=spread) for group in plan.groups} if analysed else {}
    truth = Truth(inflation={"unguarded": 0.10})
    return claim_adjoint(Reader(made_evidence(plan, truth, kinds=["final"], adjoint=adjoint)))


@pytest.mark.parametrize(
    ("sensitivity", "spread", "verdict"),
    [(0.0, 1.0, "holds"), (0.3, 0.3, "holds"), (5.0, 1.0, "does not hold"), (0.0, 12.0, "cannot tell")],
)
def test_the_explained_change_must_be_negligible(sensitivity: float, spread: float, verdict: Verdict) -> None:
    claim = _claim(sensitivity, spread)
    assert (claim.verdict, claim.missing) == (verdict, ())


def test_the_explained_change_is_sensitivity_times_log_inflation() -> None:
    claim = _claim(5.0, 0.1)
    assert claim.effect is not None
    assert claim.effect.mean == pytest.approx(5.0 * 0.0953, rel=0.1)
    assert claim.effect.trainings == 3  # the base is shown, and not pooled
    base = next(part for part in claim.parts if part.name == "pocket-nft-aes base")
    assert base.facts["scope"] == "information"
    one = next(part for part in claim.parts if part.name == "pocket-nft-aes s2")
    assert one.facts["log inflation"] == pytest.approx(0.0953, abs=0.002)
    assert one.facts["agreement of sign"] == 1.0
    coherence, control = one.facts["coherence"], one.facts["coherence of controls"]
    assert isinstance(coherence, float) and isinstance(control, float) and coherence > 20 > control


def test_without_the_analysis_it_says_what_to_run() -> None:
    claim = _claim(0.0, analysed=False)
    assert (claim.verdict, claim.effect) == ("cannot tell", None)
    assert "the adjoint analysis of pocket-nft-aes" in claim.missing[0]
