"""A study's tables: one model, three writings that say the same."""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from page_fakes import EVIL
from study_page_fakes import PROMPTS, SHIFTS, fake_claims, fake_evidence

from nbench.report.latex import booktabs, escape
from nbench.report.study_table import Column, Number, StudyTable
from nbench.report.study_tables import claims_table, study_tables
from nbench.report.study_values import means
from nbench.stats.bootstrap import cluster_mean
from nbench.study.evidence import Evidence
from nbench.study.plan import RunKind


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return fake_evidence(tmp_path_factory.mktemp("study"), pictures=False)


@pytest.fixture(scope="module")
def tables(evidence: Evidence) -> dict[str, StudyTable]:
    return study_tables(evidence, fake_claims())


def _records(table: StudyTable) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.csv())))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (Number(0.1234), "0.123"),
        (Number(5.42345, digits=4, mark="†"), "5.423†"),
        (Number(None), "–"),
        (Number(math.nan, 0.0, 1.0), "–"),
        (Number(0.2, 0.1, 0.3, signed=True), "+0.200* (+0.100 to +0.300)"),
        (Number(-0.2, -0.3, 0.1, signed=True), "−0.200 (−0.300 to +0.100)"),
        (Number(0.2, None, None, signed=True), "+0.200"),
        (Number(0.2, math.nan, math.nan, signed=True), "+0.200"),
        (Number(5.12345, 5.05, 5.25), "5.12 (5.05 to 5.25)"),
        (Number(-5.0, -5.0, -5.0), "−5.000 (−5.000 to −5.000)"),
    ],
)
def test_numbers_are_printed_with_sign_star_and_interval(number: Number, words: str) -> None:
    assert number.words() == words


def test_a_star_needs_a_difference_whose_interval_leaves_0_out() -> None:
    assert Number(0.2, 0.1, 0.3, signed=True).apart and Number(-0.2, -0.3, -0.1, signed=True).apart
    assert not Number(0.2, 0.1, 0.3).apart and not Number(0.2, 0.0, 0.3, signed=True).apart
    assert not Number(0.2, math.nan, 0.3, signed=True).apart


def test_csv_keeps_every_digit_and_leaves_unknown_fields_empty() -> None:
    columns = (Column("name", "name"), Column("x", "x", numeric=True, intervals=True))
    table = StudyTable("t", "T", "", columns, (("a", Number(1 / 3, 0.25, math.nan)), ("b", None), ("c", Number(None))))
    assert table.csv() == "name,x,x_low,x_high\na,0.333333,0.25,\nb,,,\nc,,,\n"


def test_a_text_that_a_spreadsheet_would_run_is_kept_from_it() -> None:
    table = StudyTable("t", "T", "", (Column("name", "name"),), (("=1+1",), ("@x",), ("plain",)))
    assert table.csv().splitlines()[1:] == ["'=1+1", "'@x", "plain"]


def test_hostile_texts_stay_texts_in_markdown_and_latex() -> None:
    table = StudyTable(
        "t", f"A {EVIL}", r"\input{x} 5 % & more", (Column("a", "a_b|c"),), ((EVIL,), (r"\end{tabular}",))
    )
    assert "<script" not in table.markdown() and r"a\_b\|c" in table.markdown()
    body = table.latex()
    assert r"\input{x}" not in body and r"\textbackslash{}input\{x\} 5 \% \& more" in body
    assert body.count(r"\end{tabular}") == 1 and r"\textbackslash{}end\{tabular\}" in body


def test_latex_escapes_every_special_character() -> None:
    assert escape("a_b & 5 % #1 $x ~^ {y}\n\\z") == (
        r"a\_b \& 5 \% \#1 \$x \textasciitilde{}\textasciicircum{} \{y\} \textbackslash{}z"
    )
    assert escape('say "it"') == "say ''it''"  # a straight quote has no command that every encoding knows
    assert escape("−0.2 ± 1 × 3 ↑ †") == r"$-$0.2 $\pm$ 1 $\times$ 3 $\uparrow$ \textdagger{}"


def test_booktabs_has_rules_and_refuses_ragged_rows() -> None:
    made = booktabs(["a", "b"], [["x", "1"], ["[y]", "2"]], numeric=[False, True], rules=(0, 1), caption="C")
    assert r"\begin{tabular}{lr}" in made and made.count(r"\midrule") == 2
    assert "{}[y] & 2" in made  # else it would be an option of the line break before it
    with pytest.raises(ValueError, match="row 0 has 1 cells for 2 columns"):
        booktabs(["a", "b"], [["x"]], numeric=[False, True])


def test_means_of_columns_are_those_of_single_ones() -> None:
    generator = np.random.default_rng(0)
    columns = [generator.normal(i, 1, (20, 2)) for i in range(3)]
    columns[1][3] = np.nan
    prompts = [f"p{i:02d}" for i in range(20)]  # in the order of their names, as `cluster_mean` takes them
    for column, found in zip(columns, means(columns, prompts), strict=True):
        known = np.isfinite(column)
        one = cluster_mean(column[known], np.repeat(prompts, 2).reshape(20, 2)[known])
        assert (found.value, found.low, found.high) == pytest.approx((one.mean, one.low, one.high), abs=1e-9)
        assert found.coverage == known.mean()


def test_the_main_table_has_base_arms_and_differences_of_every_group(tables: dict[str, StudyTable]) -> None:
    rows = _records(tables["main"])
    assert {(row["method"], row["steps"]) for row in rows} == {(m, s) for m in ("nft", "awm", "grpo") for s in "28"}
    nft = {row["arm"]: row for row in rows if (row["method"], row["steps"]) == ("nft", "2")}
    assert list(nft) == ["base", "unguarded", "normguard", "normguard minus unguarded"]
    grpo = [row["arm"] for row in rows if (row["method"], row["steps"]) == ("grpo", "8")]
    assert "grpo-guard minus unguarded" in grpo
    gain = nft["normguard minus unguarded"]
    planted = 1.4 * (SHIFTS["judge"]["normguard"] - SHIFTS["judge"]["unguarded"])
    assert float(gain["judge_low"]) < planted < float(gain["judge_high"])
    shown = float(nft["normguard"]["judge"]) - float(nft["unguarded"]["judge"])
    assert float(gain["judge"]) == pytest.approx(shown, abs=1e-4)
    assert float(nft["unguarded"]["norm ratio"]) == pytest.approx(1 + 0.09 * 1.25 + 0.005, abs=1e-4)


def test_the_reward_that_was_trained_is_marked_and_stands_first(tables: dict[str, StudyTable]) -> None:
    assert next(column.key for column in tables["main"].columns[5:]) == "pocket-aesthetic"
    assert tables["main"].markdown().count("6.837†") == 1
    assert tables["main"].columns[-1].key == "norm ratio"


def test_measures_where_less_is_better_are_turned_around_in_differences(
    evidence: Evidence, tables: dict[str, StudyTable]
) -> None:
    key, run = next(iter(evidence.runs.items()))
    card = copy.deepcopy(dict(run.card))
    card["scorers"]["pocket-realism"]["metrics"][0]["orientation"] = "lower"
    turned = study_tables(dataclasses.replace(evidence, runs={key: dataclasses.replace(run, card=card)}), ())
    sides = [
        float(next(row for row in _records(found["main"]) if "minus" in row["arm"])["pocket-realism"])
        for found in (turned, tables)
    ]
    assert sides[0] == pytest.approx(-sides[1]) and sides[0] < 0
    assert "pocket-realism ↓" in turned["main"].markdown()


def test_every_arm_and_rescaling_stand_against_the_unguarded(tables: dict[str, StudyTable]) -> None:
    rows = _records(tables["arms"])
    awm = {row["arm"]: row for row in rows if row["method"] == "awm"}
    assert list(awm) == ["normguard", "symmetric", "unguarded, rescale-full", "unguarded, rescale-one-sided"]
    assert float(awm["symmetric"]["judge_low"]) > 0
    # The fake rescaled run holds the very values of the final one.
    assert float(awm["unguarded, rescale-full"]["judge"]) == 0
    assert awm["unguarded, rescale-full"]["norm ratio"] == ""
    assert {row["trainings"] for row in rows if row["method"] == "nft"} == {"2"}


def test_the_table_of_steps_has_every_checkpoint_measure_and_step_count(tables: dict[str, StudyTable]) -> None:
    rows = [row for row in _records(tables["steps"]) if row["group"] == "tiny-nft-aesthetic"]
    assert len(rows) == 5 * 6 * 3  # base and four trainings; five scorers and the norm ratio; three step counts
    base = [row for row in rows if row["checkpoint"] == "base"]
    assert all(row["difference"] == "" and row["coverage"] == "1" for row in base)


def test_the_table_of_trainings_reads_their_logs(tables: dict[str, StudyTable]) -> None:
    rows = {row["training"]: row for row in _records(tables["trainings"])}
    one = rows["tiny-awm-aesthetic-normguard-s0"]
    assert one["epochs"] == "20" and one["guards"] == "norm_hinge 0.123" and one["seconds"] == "240"
    assert float(one["reward_first"]) == 5 and float(one["reward_last"]) == pytest.approx(5 + 0.05 * 19 * 0.95)
    assert rows["tiny-awm-aesthetic-unguarded-s0"]["guards"] == "none"
    assert float(one["norm_ratio_last"]) == pytest.approx(1 + 0.01 * 19 / 20)


def test_a_claim_without_evidence_has_a_line_and_no_number() -> None:
    rows = _records(claims_table(fake_claims()))
    assert [row["verdict"] for row in rows] == ["holds", "does not hold", "cannot tell"]
    assert rows[2]["effect"] == rows[2]["effect_low"] == "" and float(rows[0]["effect_high"]) == 0.9


def test_a_failed_score_leaves_its_prompt_out_of_means_and_pairs(evidence: Evidence) -> None:
    key: tuple[str, RunKind] = ("tiny-awm-aesthetic", "final")
    run = evidence.runs[key]
    rows: list[dict[str, Any]] = run.scores.to_pylist()
    for row in rows:
        if row["checkpoint"] == "unguarded-s0" and row["scorer"] == "judge" and row["prompt_id"] == "p003":
            row["value"], row["reason"] = None, "failed"
    broken = dataclasses.replace(run, scores=pa.Table.from_pylist(rows, schema=run.scores.schema))
    found = study_tables(dataclasses.replace(evidence, runs={key: broken}), ())
    steps = [
        row for row in _records(found["steps"]) if (row["checkpoint"], row["measure"]) == ("unguarded-s0", "judge")
    ]
    assert [float(row["coverage"]) for row in steps] == pytest.approx([1 - 1 / PROMPTS] * 3, abs=1e-5)
    assert all(math.isfinite(float(row["difference"])) for row in steps)


def test_without_a_run_tables_have_no_rows_but_stay_tables(evidence: Evidence) -> None:
    found = study_tables(Evidence(evidence.plan, {}), ())
    assert [len(table.rows) for table in found.values()] == [0] * 5
    for table in found.values():
        assert table.csv().count("\n") == 1 and table.markdown() and table.latex()
