"""A plan as tables."""

import io
from typing import Any

import pytest
from evidence_fakes import curve_values, made_run
from gate_fakes import REWARDS
from rich.console import Console

from nbench.compare import Side
from nbench.gates.plan import plan_gate
from nbench.gates.policy import make_policy
from nbench.report.gate_plan import plan_tables


def shown(rules: Any, speed: Any = None, **values: Any) -> str:
    run = made_run({"base": {"a": curve_values(noise=0.6, **values)}})
    run = type(run)(**{**vars(run), "speed": speed or {}})
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(plan_tables(plan_gate(make_policy({"rules": rules}), Side(run, "base"), seeds=(1, 2))))
    return " ".join(console.export_text().split())


def test_it_says_numbers_and_cost() -> None:
    text = shown([REWARDS], {("base", 2): 10.0, ("base", 4): 5.0, ("base", 8): 2.5})
    assert "prompts for a power of 80% in each row, from the base's scores" in text
    assert "1 seed" in text and "2 seeds" in text
    assert "2 per prompt: " in text and "are enough for each critical row: " in text
    assert "pictures per checkpoint, about " in text and " at this run's speed." in text


def test_an_unknown_speed_is_said() -> None:
    assert "speed not known" in shown([REWARDS])


def test_a_margin_of_0_is_never_reached() -> None:
    text = shown([{"scorers": ["a"], "margin": {"absolute": 0}}])
    assert "never" in text and "no number of prompts up to a million is enough" in text


def test_a_margin_beyond_reach_is_said() -> None:
    assert "> 1000000" in shown([{"scorers": ["a"], "margin": {"absolute": 1e-5}}])


def test_without_a_critical_row_the_policy_passes_nothing() -> None:
    text = shown([{**REWARDS, "tier": "supporting"}])
    assert "No row is critical" in text and "are enough" not in text


@pytest.mark.parametrize(("speed", "words"), [(1000.0, " s at"), (1.0, " min at"), (0.01, " h at")])
def test_time_is_in_the_unit_that_fits(speed: float, words: str) -> None:
    text = shown([{"scorers": ["a"], "steps": [2], "margin": {"sd": 0.15}}], {("base", 2): speed})
    assert words in text
