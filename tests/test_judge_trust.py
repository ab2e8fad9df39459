"""A judge that was not checked, or failed, is shown and never gated on; its measured noise widens its intervals."""

import math
from pathlib import Path

import numpy as np
import pytest
from evidence_fakes import curve_values, made_run, scorer_part

from nbench.compare import Comparison, Side, compare
from nbench.gates.evaluate import GateResult, evaluate_gate
from nbench.gates.policy import make_policy
from nbench.judge_trust import widened
from nbench.report.compare import comparison_tables
from nbench.runs.tables import RunTables
from nbench.scoring.judge.known_checks import KnownCheck, keep_check
from nbench.stats.paired import paired_difference

JUDGE = "judge@quality-pocket"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBENCH_CACHE", str(tmp_path))


def run(name: str = JUDGE, kind: str = "judge") -> RunTables:
    base = curve_values()
    values = {"base": {name: base}, "nft": {name: base + np.random.default_rng(0).normal(0, 0.05, base.shape)}}
    return made_run(values, scorers={name: scorer_part(name, kind=kind)})


def checked(*, trusted: bool = True, deviation: float | None = None) -> None:
    faults = () if trusted else ("blur: Spearman 0.3",)
    keep_check(f"{JUDGE}-1", KnownCheck(trusted, faults, "rating", deviation))


def gate(made: RunTables) -> GateResult:
    policy = make_policy({"rules": [{"kinds": ["judge"], "margin": {"sd": 0.2}}]})
    return evaluate_gate(policy, Side(made, "base"), Side(made, "nft"))


def found(made: RunTables) -> Comparison:
    return compare(Side(made, "base"), Side(made, "nft"))


def test_a_trusted_judge_is_gated_on() -> None:
    checked()
    assert gate(run()).verdict == "PASS"


def test_a_judge_that_was_never_checked_is_inconclusive_and_says_what_to_run() -> None:
    result = gate(run())
    assert result.exit_code == 2
    assert {row.reason for row in result.rows} == {
        "its judge was not checked on this machine: run `nbench judge check quality-pocket` first"
    }
    assert all(row.row is not None and row.row.difference is not None for row in result.rows)  # shown all the same


def test_a_judge_that_failed_its_check_is_inconclusive_and_says_why() -> None:
    checked(trusted=False)
    result = gate(run())
    assert result.exit_code == 2
    assert {row.reason for row in result.rows} == {"its judge failed its check: blur: Spearman 0.3"}


def test_a_comparison_shows_a_doubtful_judge_and_the_doubt() -> None:
    from rich.console import Console

    console = Console(width=200, record=True)
    console.print(comparison_tables(found(run())))
    assert f"{JUDGE} is shown, and not to be gated on: its judge was not checked" in console.export_text()


def test_other_scorers_need_no_check() -> None:
    assert {row.doubt for row in found(run("proxy", "reward")).rows} == {""}
    assert {row.doubt for row in found(run("own-judge", "judge")).rows} == {""}


def test_measured_noise_widens_every_bound_and_moves_no_mean() -> None:
    checked(deviation=0.0)
    quiet = found(run()).rows[0].difference
    checked(deviation=0.2)
    noisy = found(run()).rows[0].difference
    assert quiet is not None and noisy is not None and noisy.mean == quiet.mean
    extra = 2 * 0.2 * math.sqrt(2 / quiet.pairs)
    for bound in ("low", "high", "lower", "upper"):
        reach, wider = (abs(getattr(one, bound) - one.mean) for one in (quiet, noisy))
        assert wider == pytest.approx(math.hypot(reach, extra))


def test_noise_opens_even_an_interval_without_width() -> None:
    certain = paired_difference(np.zeros(50), range(50))
    opened = widened(certain, 0.5)
    assert opened.low == opened.lower == -opened.high == -opened.upper == pytest.approx(-0.2)
    assert widened(certain, 0.0) is certain


def test_noise_can_make_a_gate_undecided() -> None:
    checked(deviation=2.0)
    assert gate(run()).verdict == "INCONCLUSIVE"
