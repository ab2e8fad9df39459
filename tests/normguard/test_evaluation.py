"""Comparisons as a function of tables that are made up here, so that every number can be checked by hand."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow.compute import equal

from nbench.normguard.evaluation import Evaluation, compare_run
from nbench.runs.store import RunFolder
from nbench.runs.tables import RunTables
from nbench.stats.bootstrap import cluster_mean

ROWS = [(f"p{prompt}", seed) for prompt in range(9) for seed in range(2)]
CARD = {
    "scorers": {
        "one": {"metrics": [{"name": "", "orientation": "higher"}]},
        "many": {"metrics": [{"name": "sharp", "orientation": "none"}, {"name": "noise", "orientation": "lower"}]},
    }
}
METRICS = [("one", "one"), ("many", "sharp"), ("many", "noise")]

Values = dict[tuple[str, str], list[float | None]]


def tables(values: Values, ratios: Mapping[str, Sequence[Sequence[float | None]]]) -> RunTables:
    """A run at 4 steps: (checkpoint, metric) -> value per row; checkpoint -> ratios per row."""
    cells = [
        {"checkpoint": name, "steps": 4, "prompt_id": prompt, "seed": seed} for name in ratios for prompt, seed in ROWS
    ]
    scores = []
    for scorer, metric in METRICS:
        for i, cell in enumerate(cells):
            value = values[cell["checkpoint"], metric][i % len(ROWS)]
            scores.append({**cell, "scorer": scorer, "metric": metric, "value": value})
    norms = [
        {**cell, "step": step, "ratio": ratio}
        for i, cell in enumerate(cells)
        for step, ratio in enumerate(ratios[cell["checkpoint"]][i % len(ROWS)])
    ]

    def table(rows: list[dict[str, Any]]) -> pa.Table:
        return pa.Table.from_pylist(rows)

    return RunTables(RunFolder(Path("run")), CARD, {}, table(cells), table(scores), table([]), table(norms), {})


@pytest.fixture
def drawn() -> Values:
    generator = np.random.default_rng(0)
    return {
        (name, metric): generator.normal(size=len(ROWS)).tolist()
        for name in ("base", "policy")
        for _, metric in METRICS
    }


ONES = [[1.0, 1.0]] * len(ROWS)


def test_differences_are_paired_and_clustered_by_prompt(drawn: Values) -> None:
    comparisons, _ = compare_run(tables(drawn, {"base": ONES, "policy": ONES}), "base")
    assert [(found.scorer, found.metric, found.orientation) for found in comparisons] == [
        ("one", "one", "higher"), ("many", "sharp", "none"), ("many", "noise", "lower"),
    ]  # fmt: skip
    for found in comparisons:
        own, base = np.array(drawn["policy", found.metric]), np.array(drawn["base", found.metric])
        assert found.difference == cluster_mean(own - base, [prompt for prompt, _ in ROWS])
        assert found.difference.clusters == 9
        assert (found.mean, found.base) == (pytest.approx(own.mean()), pytest.approx(base.mean()))
        assert found.coverage == 1


def test_a_constant_shift_is_found_exactly_however_different_the_pictures_are(
    drawn: Values,
) -> None:
    drawn["policy", "one"] = [value + 0.25 for value in drawn["base", "one"] if value is not None]
    comparisons, _ = compare_run(tables(drawn, {"base": ONES, "policy": ONES}), "base")
    difference = comparisons[0].difference
    assert difference is not None
    assert (difference.mean, difference.low, difference.high) == (pytest.approx(0.25),) * 3


def test_a_cell_that_failed_on_either_side_is_left_out_of_both_means(
    drawn: Values,
) -> None:
    drawn["base", "one"][0] = drawn["policy", "one"][5] = None
    kept = [i for i in range(len(ROWS)) if i not in (0, 5)]
    comparisons, _ = compare_run(tables(drawn, {"base": ONES, "policy": ONES}), "base")
    found = comparisons[0]
    assert found.coverage == 16 / 18
    assert found.base == pytest.approx(np.mean([drawn["base", "one"][i] or 0.0 for i in kept]))
    assert found.mean == pytest.approx(np.mean([drawn["policy", "one"][i] or 0.0 for i in kept]))
    assert found.difference is not None and found.difference.mean == pytest.approx(found.mean - found.base)
    assert comparisons[1].coverage == 1


def test_nothing_in_common_is_no_value_and_never_a_number(drawn: Values) -> None:
    drawn["policy", "one"] = [None] * len(ROWS)
    comparisons, _ = compare_run(tables(drawn, {"base": ONES, "policy": ONES}), "base")
    found = comparisons[0]
    assert (found.base, found.mean, found.difference, found.coverage) == (None, None, None, 0.0)


def test_norm_ratio_is_the_mean_over_steps_of_pictures_whose_every_step_has_one(
    drawn: Values,
) -> None:
    measured: list[list[float | None]] = [[1.0 + 0.01 * i, 1.2 + 0.01 * i] for i in range(len(ROWS))]
    measured[3] = [9.0, None]
    _, norms = compare_run(tables(drawn, {"base": ONES, "policy": measured}), "base")
    (found,) = norms
    kept = [i for i in range(len(ROWS)) if i != 3]
    expected = cluster_mean([1.1 + 0.01 * i for i in kept], [ROWS[i][0] for i in kept])
    assert (found.checkpoint, found.steps, found.coverage) == ("policy", 4, 17 / 18)
    assert found.ratio is not None
    assert (found.ratio.mean, found.ratio.low, found.ratio.high) == (
        pytest.approx(expected.mean), pytest.approx(expected.low), pytest.approx(expected.high),
    )  # fmt: skip


def test_ratios_that_were_not_measured_are_none(drawn: Values) -> None:
    _, norms = compare_run(tables(drawn, {"base": ONES, "policy": [[None, None]] * len(ROWS)}), "base")
    assert (norms[0].ratio, norms[0].coverage) == (None, 0.0)


def test_every_checkpoint_but_the_base_is_compared(drawn: Values) -> None:
    for _, metric in METRICS:
        drawn["ema", metric] = drawn["base", metric]
    comparisons, norms = compare_run(tables(drawn, {"policy": ONES, "base": ONES, "ema": ONES}), "base")
    assert [found.checkpoint for found in comparisons] == ["policy"] * 3 + ["ema"] * 3
    assert [found.checkpoint for found in norms] == ["policy", "ema"]
    assert all(found.difference is not None and found.difference.mean == 0 for found in comparisons[3:])


def test_json_is_strict_and_an_unknown_bound_is_null(drawn: Values) -> None:
    run = tables(drawn, {"base": ONES, "policy": ONES})
    one_prompt = RunTables(
        run.folder,
        run.card,
        {},
        *(table.filter(equal(table["prompt_id"], "p0")) for table in (run.samples, run.scores)),
        run.sets,
        run.norms.filter(equal(run.norms["prompt_id"], "p0")),
        {},
    )
    comparisons, norms = compare_run(one_prompt, "base")
    assert comparisons[0].difference is not None and math.isnan(comparisons[0].difference.low)
    evaluation = Evaluation("run", "base", 1, 2, comparisons, norms)
    plain = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert plain["comparisons"][0]["difference"]["low"] is None
    assert plain["comparisons"][0]["difference"]["mean"] == comparisons[0].difference.mean
    assert plain["norms"][0]["ratio"]["mean"] == 1


def test_a_comparison_is_found_by_checkpoint_metric_and_steps(
    drawn: Values,
) -> None:
    evaluation = Evaluation("run", "base", 9, 2, *compare_run(tables(drawn, {"base": ONES, "policy": ONES}), "base"))
    assert evaluation.comparison("policy", "noise", 4) is evaluation.comparisons[2]
    with pytest.raises(KeyError, match="compares no 'noise'"):
        evaluation.comparison("policy", "noise", 8)
