"""The papers' claims, each a function from a study's evidence to a verdict."""

from __future__ import annotations

from collections.abc import Callable

from nbench.study.claims.adjoint import claim_adjoint
from nbench.study.claims.claim import Claim, Effect, Part, Verdict
from nbench.study.claims.early_stopping import claim_early_stopping
from nbench.study.claims.hinge import claim_few_steps, claim_quality, claim_realism, claim_reward
from nbench.study.claims.inflation import claim_inflation
from nbench.study.claims.over_optimisation import claim_over_optimisation
from nbench.study.claims.ratios import claim_plain_ratio, claim_restored
from nbench.study.claims.reader import Reader
from nbench.study.claims.rescale import claim_rescale
from nbench.study.evidence import Evidence

__all__ = ["CLAIMS", "Claim", "Effect", "Part", "Verdict", "judge_claims"]

#: in the order of their numbers, from 1
CLAIMS: tuple[Callable[[Reader], Claim], ...] = (
    claim_inflation,
    claim_rescale,
    claim_adjoint,
    claim_quality,
    claim_realism,
    claim_reward,
    claim_few_steps,
    claim_early_stopping,
    claim_plain_ratio,
    claim_restored,
    claim_over_optimisation,
)


def judge_claims(evidence: Evidence) -> tuple[Claim, ...]:
    """Test every claim on what there is; one without evidence cannot be told, and says what to run.

    Returns:
        All eleven, in order.

    Raises:
        CardMismatchError: checkpoints that a claim compares were not evaluated alike.
    """
    reader = Reader(evidence)
    found = []
    for claim in CLAIMS:
        reader.forget()
        found.append(claim(reader))
    return tuple(found)
