"""A gate's table, JSON and step summary."""

import io
import json

import pytest
from evidence_fakes import curve_values, made_run
from gate_fakes import REWARDS, gate, gates
from rich.console import Console

from nbench.compare import Side
from nbench.gates.evaluate import GateResult, evaluate_gate
from nbench.gates.policy import make_policy
from nbench.report.gate import escape, gate_json, gate_tables, row_cells, sentence, step_summary

RESULTS = gates()


def shown(result: GateResult) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(gate_tables(result))
    return console.export_text()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("pass", "Every critical row (3) is shown to lose less than its margin."),
        ("breach", "A drop beyond the margin is shown: a at 2 steps."),
        ("inconclusive", "Not decided: a at 2 steps."),
        ("missing", "Not decided: scorer of kind judge, b."),
        ("tiers", "A drop beyond the margin is shown: b at 2 steps, b at 4 steps, b at 8 steps."),
        ("empty", "no critical measure was evaluated: the policy names none, so that nothing can be passed."),
    ],
)
def test_one_sentence_says_what_the_verdict_rests_on(name: str, wanted: str) -> None:
    assert sentence(RESULTS[name]) == wanted
    assert wanted in " ".join(shown(RESULTS[name]).split())


def test_a_pass_of_equal_weights_says_so() -> None:
    result = gate({"a": curve_values()}, checkpoints={"nft": {"weights": "base"}})
    assert sentence(result).endswith("is shown to lose less than its margin. Base and candidate have the same weights.")
    assert gate_json(result)["same_weights"] is True and gate_json(RESULTS["pass"])["same_weights"] is False


def test_many_places_are_counted() -> None:
    result = gate({name: curve_values(seed=i, shift=-2.0) for i, name in enumerate("ab")})
    assert "and 2 more" in sentence(result)


def test_a_step_of_one_is_said_right() -> None:
    result = gate(
        {"a": curve_values(seed=5, steps=(1, 2), at={1: -2.0})}, {"a": curve_values(steps=(1, 2))}, steps=(1, 2)
    )
    assert sentence(result) == "A drop beyond the margin is shown: a at 1 step."


def test_a_row_shows_its_bounds_and_its_margin() -> None:
    row = RESULTS["breach"].rows[0]
    assert row.row is not None and row.row.difference is not None
    cells = row_cells(row)
    assert cells[:3] == ["critical", "a", "2"] and cells[-2:] == ["100 %", "BREACH"]
    assert float(cells[3]) == pytest.approx(row.row.difference.mean, rel=1e-3)
    assert float(cells[5]) == pytest.approx(row.upper, rel=1e-3) and float(cells[6]) == pytest.approx(
        row.margin, rel=1e-3
    )


def test_a_row_without_pairs_shows_dashes() -> None:
    assert row_cells(RESULTS["missing"].rows[-1])[2:-1] == ["-"] * 7


def test_what_was_allowed_to_differ_stands_above_everything() -> None:
    one = made_run({"base": {"a": curve_values()}})
    other = made_run({"nft": {"a": curve_values()}}, dtype="bfloat16")
    policy = make_policy({"rules": [REWARDS], "allow": ["dtype"]})
    result = evaluate_gate(policy, Side(one, "base"), Side(other, "nft"))
    assert "NOT LIKE WITH LIKE" in shown(result) and "dtype: float32 -> bfloat16" in shown(result)
    assert "**Not like with like**" in step_summary(result)
    assert gate_json(result)["allowed_differences"] == ["dtype: float32 -> bfloat16"]


@pytest.mark.parametrize("name", RESULTS)
def test_the_json_is_json_and_whole(name: str) -> None:
    result = RESULTS[name]
    found = json.loads(json.dumps(gate_json(result), allow_nan=False))
    assert (found["verdict"], found["exit_code"]) == (result.verdict, result.exit_code)
    assert [(row["measure"], row["steps"], row["verdict"]) for row in found["rows"]] == [
        (row.name, row.steps or None, row.verdict) for row in result.rows
    ]
    assert found["policy"]["confidence"] == 0.95 and len(found["base"]["card"]) == 64


def test_the_json_of_a_row_holds_every_figure_of_the_table() -> None:
    (row, *_) = gate_json(RESULTS["breach"])["rows"]
    assert row["difference"]["lower"] < row["difference"]["mean"] < row["upper_all"] < -row["margin"]
    assert row["coverage"] == row["coverage_needed"] == 1.0 and row["prompts_needed"] >= 8
    assert row["detectable_drop"] > 0 and row["blocks"] is True


def test_the_summary_is_a_table_with_a_line_per_row_and_the_reasons() -> None:
    text = step_summary(RESULTS["missing"])
    assert text.startswith("## ⚠️ gate: INCONCLUSIVE\n")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(RESULTS["missing"].rows) and len({line.count("|") for line in lines}) == 1
    assert "* scorer of kind judge: the base's run has no scorer of kind judge." in text
    assert "* b: the base's run has no b (Known: a)." in text


def test_names_are_shown_as_they_are_and_never_as_markup() -> None:
    name = "<img src=x> [bold]x[/] `a` |b| *c* & $d$ \\ #1\nnext"
    result = gate({"a": curve_values()}, rules=[REWARDS, {**REWARDS, "scorers": [name]}], policy={"name": name})
    assert "gate <img src=x> [bold]x[/] `a` |b| *c* & $d$ \\ #1" in shown(result)
    text = step_summary(result)
    head = text.splitlines()[0]
    assert head.startswith(
        "## ⚠️ &lt;img src=x&gt; \\[bold\\]x\\[/\\] \\`a\\` \\|b\\| \\*c\\* &amp; \\$d\\$ \\\\ \\#1 next"
    )
    assert "<img" not in text


def test_escaped_entities_stay_what_they_were() -> None:
    assert escape("&lt;b&gt;") == "&amp;lt;b&amp;gt;"
