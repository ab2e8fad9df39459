"""Claims 9 and 10: importance ratios, plain and normalised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pytest
from study_fakes import RATIO_PROMPTS, made_log, made_plan, made_ratios

from nbench.study.claims.claim import Verdict
from nbench.study.claims.ratios import claim_plain_ratio, claim_restored
from nbench.study.claims.reader import Reader
from nbench.study.evidence import Evidence

_UNEVEN = (1e-4, 2e-4, 4e-4)
_EVEN = (1e-5, 1.02e-5, 1e-5)


def _reader(
    *,
    mean: float = -1e-3,
    stds: Sequence[float] = _UNEVEN,
    normalised_mean: float = 0.0,
    normalised_stds: Sequence[float] = _EVEN,
) -> Reader:
    plan = made_plan(methods=("grpo",))
    ratios = {
        group.name: made_ratios(
            group, mean=mean, stds=stds, normalised_mean=normalised_mean, normalised_stds=normalised_stds
        )
        for group in plan.groups
    }
    logs = {one.name: made_log(one, (-1e-6, -3e-6)) for one in plan.trainings if one.arm == "unguarded"}
    return Reader(Evidence(plan, {}, ratios=ratios, logs=logs))


@pytest.mark.parametrize(
    ("mean", "stds", "verdict"),
    [
        (-1e-3, _UNEVEN, "holds"),
        (1e-3, _UNEVEN, "does not hold"),
        (-1e-3, (1e-4, 1e-4, 1.01e-4), "does not hold"),
        (0.0, _UNEVEN, "cannot tell"),
    ],
)
def test_the_plain_ratio_needs_both_a_drift_and_unequal_steps(
    mean: float, stds: Sequence[float], verdict: Verdict
) -> None:
    claim = claim_plain_ratio(_reader(mean=mean, stds=stds))
    assert (claim.verdict, claim.missing) == (verdict, ())


def test_the_plain_ratio_in_numbers() -> None:
    claim = claim_plain_ratio(_reader())
    assert claim.effect is not None and claim.effect.mean == pytest.approx(-1e-3, rel=0.2)
    assert claim.effect.trainings == 3
    spread = next(part.effect for part in claim.parts if part.name == "all: spread")
    assert spread is not None and spread.low is not None and spread.high is not None
    assert spread.low < 4 < spread.high  # a ratio of standard deviations, not its logarithm
    part = next(part for part in claim.parts if part.name == "pocket-grpo-aes s0 mean")
    assert part.facts["log-ratio of successive policies at step 1"] == pytest.approx(-3e-6)
    assert claim.series is not None
    assert claim.series["pocket-grpo-aes s0 raw"]["step"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({}, "holds"),
        ({"mean": 0.0, "normalised_mean": -1e-3}, "does not hold"),
        ({"stds": (1e-4, 1e-4, 1e-4), "normalised_stds": (1e-5, 1e-5, 1e-4)}, "does not hold"),
        ({"mean": 0.0, "stds": _UNEVEN}, "cannot tell"),
    ],
)
def test_normalisation_must_restore_mean_and_variance(options: dict[str, object], verdict: Verdict) -> None:
    claim = claim_restored(_reader(**options))  # type: ignore[arg-type]
    assert claim.verdict == verdict
    assert [part.name for part in claim.parts[:2]] == ["all: mean", "all: spread"]


def test_samples_that_are_no_numbers_are_left_out() -> None:
    reader = _reader()
    (name, analysis), *_ = reader.evidence.ratios.items()
    columns = analysis.samples.to_pydict()
    columns["log_ratio"][0] = math.nan
    changed = Evidence(reader.evidence.plan, {}, ratios={name: replace(analysis, samples=pa.table(columns))})
    claim = claim_plain_ratio(Reader(changed))
    assert claim.verdict == "holds"
    assert claim.effect is not None and claim.effect.prompts == RATIO_PROMPTS - 1


def test_without_the_analysis_both_say_what_to_run() -> None:
    reader = Reader(Evidence(made_plan(methods=("grpo",)), {}))
    for claim in (claim_plain_ratio(reader), claim_restored(reader)):
        assert (claim.verdict, claim.effect) == ("cannot tell", None)
        assert "the ratio analysis of pocket-grpo-aes" in claim.missing[0]


def test_equal_steps_do_not_look_uneven_for_being_picked_by_chance() -> None:
    claim = claim_plain_ratio(_reader(stds=(1e-4,) * 20, normalised_stds=(1e-5,) * 20))
    spread = next(part.effect for part in claim.parts if part.name == "all: spread")
    assert spread is not None and spread.mean == pytest.approx(1.0, abs=0.15)
    assert claim.verdict == "does not hold"
