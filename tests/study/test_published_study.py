"""The committed results of the bundled study: complete, consistent with each other, and with their own data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from nbench.resources import bundled
from nbench.study.claims.claim import Effect
from nbench.study.claims.rules import all_hold, no_gain, non_inferior, superiority
from nbench.study.config import read_study
from nbench.study.plan import make_plan

RESULTS = bundled("leaderboards/studies") / "pocket"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def claims() -> dict[int, dict[str, Any]]:
    found = json.loads((RESULTS / "claims.json").read_text(encoding="utf-8"))
    return {one["number"]: one for one in found}


@pytest.fixture(scope="module")
def values() -> pa.Table:
    return pq.ParquetFile(RESULTS / "values.parquet").read()


def _effect(of: dict[str, Any]) -> Effect:
    return Effect(**of["effect"])


def test_all_eleven_claims_were_tested_and_nothing_was_missing(claims: dict[int, dict[str, Any]]) -> None:
    assert list(claims) == list(range(1, 12))
    for one in claims.values():
        assert one["effect"] is not None, one["key"]
        assert [what for what in one["missing"] if "differentiable" not in what] == [], one["key"]


def test_verdicts_follow_from_the_committed_intervals_by_the_fixed_rules(claims: dict[int, dict[str, Any]]) -> None:
    settings = read_study("pocket").claims
    for number in (4, 5, 11):
        assert claims[number]["verdict"] == superiority(_effect(claims[number]), settings.smallest)
    assert claims[6]["verdict"] == non_inferior(_effect(claims[6]), settings.margin)
    matched = [one for one in claims[8]["parts"] if one["facts"]["scope"] == "all"]
    assert len(matched) == 2
    assert claims[8]["verdict"] == all_hold([superiority(_effect(one), settings.smallest) for one in matched])
    pulled = [one for one in claims[2]["parts"] if one["facts"]["scope"] == "all"]
    verdicts = [no_gain(_effect(one), settings.smallest) for one in pulled]
    assert (claims[2]["verdict"] == "holds") == (set(verdicts) == {"holds"})


def test_the_data_hold_every_training_of_the_study(values: pa.Table) -> None:
    plan = make_plan(read_study("pocket"))
    final = values.filter((pc.field("run") == "final") & (pc.field("arm") != "base"))
    places = final.group_by(["base", "method", "reward", "arm", "training_seed"]).aggregate([([], "count_all")])
    found = {
        f"{one['base']}-{one['method']}-{one['reward']}-{one['arm']}-s{one['training_seed']}": one["count_all"]
        for one in places.to_pylist()
    }
    assert set(found) == {one.name for one in plan.trainings}
    evaluation = plan.study.evaluation
    assert set(found.values()) == {len(plan.prompts) * evaluation.seeds * len(evaluation.steps)}


@pytest.mark.parametrize(("number", "measure"), [(4, "judge@quality-pocket.rating"), (5, "pocket-realism")])
def test_the_pooled_effects_of_quality_and_realism_come_out_of_the_data_again(
    claims: dict[int, dict[str, Any]], values: pa.Table, number: int, measure: str
) -> None:
    """By another way: means of means, without anything of nbench."""
    table = values.filter((pc.field("run") == "final") & (pc.field("method") != "grpo"))
    keys = ["base", "method", "reward", "arm", "training_seed", "steps", "prompt_id"]
    means = table.group_by(keys).aggregate([(measure, "mean")]).to_pylist()
    cells = {tuple(one[key] for key in keys): one[f"{measure}_mean"] for one in means}
    spreads = {
        (one["base"], one["method"], one["reward"], one["steps"]): one[f"{measure}_stddev"]
        for one in table.filter(pc.field("arm") == "base")
        .group_by(["base", "method", "reward", "steps"])
        .aggregate([(measure, "stddev", pc.VarianceOptions(ddof=1))])
        .to_pylist()
    }
    differences = [
        (cells[base, method, reward, "normguard", seed, steps, prompt] - value) / spreads[base, method, reward, steps]
        for (base, method, reward, arm, seed, steps, prompt), value in cells.items()
        if arm == "unguarded"
    ]
    assert np.mean(differences) == pytest.approx(claims[number]["effect"]["mean"], abs=2e-4)


def test_reward_hacking_is_visible_in_the_unguarded_arm(values: pa.Table) -> None:
    """The bundled LoRA's training: the trained reward up, what was held out down."""
    keep = (
        (pc.field("run") == "final")
        & (pc.field("base") == "pocket-sd3")
        & (pc.field("method") == "nft")
        & (pc.field("reward") == "aesthetic")
        & (pc.field("steps") == 28)
    )
    table = values.filter(keep)
    base = table.filter(pc.field("arm") == "base")
    unguarded = table.filter((pc.field("arm") == "unguarded") & (pc.field("training_seed") == 0))

    def moved(measure: str) -> float:
        return float(pc.mean(unguarded[measure]).as_py() - pc.mean(base[measure]).as_py())

    assert moved("pocket-aesthetic") > 0.1
    assert moved("pocket-realism") < -0.5
    assert moved("pocket-clip") < -0.1


def test_the_page_of_claims_is_the_one_that_the_study_wrote() -> None:
    written = (RESULTS / "claims.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    assert page == written.replace("](figures/", "](../leaderboards/studies/pocket/figures/")


def test_every_figure_that_a_page_links_is_there() -> None:
    for page in (ROOT / "docs" / "claims.md", ROOT / "README.md"):
        links = re.findall(r"\]\(((?!http|#)[^)]+)\)", page.read_text(encoding="utf-8"))
        assert links
        for link in links:
            assert (page.parent / link.split("#")[0]).exists(), (page.name, link)
