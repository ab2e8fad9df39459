from __future__ import annotations

from typing import Any

import pytest
from study_parts import study_content

from nbench.errors import ScorerError, UsageError
from nbench.study.check import check_measures
from nbench.study.config import bundled_studies, make_study, read_study


@pytest.mark.parametrize("name", sorted(bundled_studies()))
def test_every_bundled_study_measures_what_its_claims_are_about(name: str) -> None:
    check_measures(read_study(name))


def _claims(**changes: Any) -> dict[str, Any]:
    return {"claims": {**study_content()["claims"], **changes}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (_claims(quality="pocket-clap"), r"claims.quality is 'pocket-clap', .* Did you mean 'pocket-clip'\?"),
        (_claims(realism="judge"), "claims.realism is 'judge', which is no measure"),
        ({"rewards": {"aesthetic": [{"scorer": "image-stats", "metric": "saturation"}]}}, "image-stats.saturation"),
    ],
)
def test_a_measure_that_the_evaluation_lacks_is_named_before_anything_is_trained(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        check_measures(make_study(study_content(**changes)))


def test_an_unknown_scorer_is_named() -> None:
    content = study_content()
    content["evaluation"]["scorers"] = ["pocket-aestetic", "pocket-clip", "pocket-realism"]
    with pytest.raises(ScorerError, match=r"pocket-aestetic.*Did you mean 'pocket-aesthetic'"):
        check_measures(make_study(content))
