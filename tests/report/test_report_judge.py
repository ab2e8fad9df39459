"""The card is rendered whole: table, facts, verdict, plot and plain data."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ElementTree

import pytest
from judge_fakes import MindBackend, make_spec
from rich.console import Console

from nbench.pocket.scenes import sample_scenes
from nbench.report.judge import Check, judge_json, judge_markdown, judge_plot, judge_tables
from nbench.scoring.judge.calibration import check_judge
from nbench.scoring.judge.calibration_pairs import check_pair_judge
from nbench.scoring.judge.scorer import JudgeScorer


def a_check(mode: str) -> Check:
    pictures = sample_scenes()[:2]
    if mode == "pairwise":
        spec = make_spec(mode="pairwise", scale={"1": 1, "2": 0})
        return check_pair_judge(MindBackend(lambda shown, text: {"1": 0.5, "2": 0.5}), spec, pictures)
    backend = MindBackend(lambda shown, text: {"1": 0.5, "5": 0.1, "2": 0.0, "3": 0.0, "4": 0.0})
    scorer = JudgeScorer(make_spec(), opener=lambda spec, journal: backend, keep_answers=False)
    return check_judge(scorer, pictures)


@pytest.mark.parametrize("mode", ["pointwise", "pairwise"])
def test_every_rendering_names_kinds_figures_and_verdict(mode: str) -> None:
    check = a_check(mode)
    console = Console(width=200, file=io.StringIO(), record=True)
    for table in judge_tables(check):
        console.print(table)
    for text in (console.export_text(), judge_markdown(check, "Judge")):
        for word in ("over_saturation", "0.50", "label mass", "not trusted", "coverage", "100.0%"):
            assert word in text
    plot = judge_plot(check)
    ElementTree.fromstring(plot)
    assert "over_saturation" in plot
    data = json.loads(json.dumps(judge_json(check), allow_nan=False))
    assert data["trusted"] is False
    assert data["faults"] == check.faults
    assert len(data["following"]) == 6
