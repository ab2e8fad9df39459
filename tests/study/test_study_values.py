from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pytest
from study_fakes import QUALITY, REWARD, Truth, made_evidence, made_plan, with_failures

from nbench.study.evidence import Evidence
from nbench.study.values import PLACE, parquet, values_table


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    truth = Truth(gains={"unguarded": {REWARD: 1.0}}, inflation={"unguarded": 0.1})
    return made_evidence(made_plan(methods=("nft",), seeds=(0, 1)), truth)


def test_every_picture_of_every_run_has_its_row(evidence: Evidence) -> None:
    table = values_table(evidence)
    assert len(table) == sum(len(run.samples) for run in evidence.runs.values())
    assert table.column_names[: len(PLACE)] == list(PLACE)
    assert len(table.group_by(list(PLACE)).aggregate([])) == len(table)


def test_rows_say_which_training_and_epoch_and_hold_its_values(evidence: Evidence) -> None:
    plan = evidence.plan
    table = values_table(evidence)
    training = plan.trainings[0]
    epoch = training.config.checkpoint_every
    run = evidence.run(plan.groups[0], "trajectory")
    assert run is not None
    mine = table.filter(
        (pc.field("run") == "trajectory")
        & (pc.field("arm") == training.arm)
        & (pc.field("training_seed") == training.seed)
        & (pc.field("epoch") == epoch)
    )
    scores = run.scores.filter((pc.field("checkpoint") == training.at(epoch)) & (pc.field("metric") == REWARD))
    assert sorted(mine[REWARD].to_pylist()) == pytest.approx(sorted(scores["value"].to_pylist()), abs=1e-6)
    final = table.filter((pc.field("run") == "final") & (pc.field("arm") == "unguarded"))
    assert final["epoch"].null_count == len(final)
    assert np.mean(final["norm_ratio"].to_pylist()) == pytest.approx(1.1, abs=0.01)


def test_a_failure_is_null_and_no_row_is_dropped(evidence: Evidence) -> None:
    group = evidence.plan.groups[0]
    run = evidence.run(group, "final")
    assert run is not None
    runs = {**evidence.runs, (group.name, "final"): with_failures(run, QUALITY, [0])}
    table = values_table(Evidence(evidence.plan, runs))
    assert len(table) == len(values_table(evidence))
    assert table[QUALITY].null_count > values_table(evidence)[QUALITY].null_count == 0


def test_the_same_evidence_gives_the_same_bytes_and_none_an_empty_table(evidence: Evidence) -> None:
    assert parquet(values_table(evidence)) == parquet(values_table(evidence))
    assert len(values_table(Evidence(evidence.plan, {}))) == 0
