"""What can be known to be wrong with a study before anything is trained: names of scorers and measures."""

from __future__ import annotations

from nbench.errors import UsageError, did_you_mean
from nbench.scoring.registry import describe_scorer
from nbench.study.config import StudyConfig


def check_measures(study: StudyConfig) -> None:
    """See that every scorer exists, and that the evaluation has what the claims are about. Nothing is downloaded.

    Whether a scorer can run here is not asked: trainings may run on another machine than the evaluation.

    Raises:
        ScorerError: a scorer is unknown.
        UsageError: a reward is not among the evaluation's scorers, or quality or realism is no measure of theirs.
    """
    measures: list[str] = []
    for name in study.evaluation.scorers:
        card, _ = describe_scorer(name)
        measures += [f"{name}.{metric.name}" if metric.name else name for metric in card.metrics]
    for reward, terms in study.rewards.items():
        for term in terms:
            wanted = f"{term.scorer}.{term.metric}" if term.metric else term.scorer
            if wanted not in measures:
                raise UsageError(
                    f"reward {reward!r} is {wanted}, which evaluation.scorers does not measure."
                    f"{did_you_mean(wanted, measures)}"
                )
    for what, wanted in (("quality", study.claims.quality), ("realism", study.claims.realism)):
        if wanted not in measures:
            raise UsageError(
                f"claims.{what} is {wanted!r}, which is no measure of evaluation.scorers."
                f"{did_you_mean(wanted, measures)}"
            )
