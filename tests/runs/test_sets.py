"""Set-level scorers in runs: a value per checkpoint, step count and prompt, kept, resumed and failed as scores are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from run_fakes import Fakes, contents, fake_suite

from nbench.report.summary import summarise
from nbench.report.table import summary_tables
from nbench.runs.estimate import estimate
from nbench.runs.execute import execute
from nbench.runs.store import Store
from nbench.runs.tables import load_run
from nbench.testing import FakeSetScorer


class WithSets(Fakes):
    """Names that begin with "spread" are set-level."""

    def __init__(self, make: Callable[[str], FakeSetScorer] = FakeSetScorer, **options: Any) -> None:
        super().__init__(**options)
        self.make, self.of_sets = make, dict[str, FakeSetScorer]()

    def scorer(self, name: str, device: str) -> Any:
        if not name.startswith("spread"):
            return super().scorer(name, device)
        return self.of_sets.setdefault(name, self.make(name))


def suite(**fields: Any) -> Any:
    return fake_suite(scorers="fake-a,spread", **fields)  # 2 checkpoints x 2 step counts x 4 prompts x 2 seeds


def rows(store: Store) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.ParquetFile(store.run("demo").path / "sets.parquet").read().to_pylist()
    return table


def test_every_set_gets_a_value(tmp_path: Path) -> None:
    fakes, store = WithSets(), Store(tmp_path)
    result = execute(suite(), store, backend=fakes.backend())
    found = rows(store)
    assert fakes.of_sets["spread"].scored == len(found) == 2 * 2 * 4
    assert {(row["seeds"], row["reason"], row["metric"]) for row in found} == {(2, None, "spread")}
    assert len({row["value"] for row in found}) > 1
    assert result.score_failures == 0 and result.scored == 2 * 2 * 4 * 2 + len(found)


def test_a_second_run_scores_no_set_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    execute(suite(), store, backend=WithSets().backend())
    before, fakes = contents(tmp_path), WithSets()
    assert not execute(suite(), store, backend=fakes.backend()).changed
    assert not fakes.of_sets["spread"].scored and contents(tmp_path) == before


def test_a_set_scorer_added_later_reuses_the_pictures(tmp_path: Path) -> None:
    store = Store(tmp_path)
    execute(fake_suite(scorers="fake-a"), store, backend=WithSets().backend())
    fakes = WithSets()
    assert estimate(suite(), store, backend=WithSets().backend()).scores == 16
    result = execute(suite(), store, backend=fakes.backend())
    assert (result.generated, result.scored) == (0, 16)
    assert estimate(suite(), store, backend=WithSets().backend()).scores == 0


def test_an_estimate_counts_the_sets_of_pictures_that_are_still_to_be_made(tmp_path: Path) -> None:
    found = estimate(suite(), Store(tmp_path), backend=WithSets().backend())
    assert found.scores == 2 * 2 * 4 * 2 + 2 * 2 * 4


def test_another_version_of_a_set_scorer_reuses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    execute(suite(), store, backend=WithSets().backend())
    fakes = WithSets(lambda name: FakeSetScorer(name, version="2"))
    execute(suite(name="again"), store, backend=fakes.backend())
    assert fakes.of_sets["spread"].scored == 16


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda name: FakeSetScorer(name, fail=True), "spread was told to fail"),
        (lambda name: FakeSetScorer(name, broken=True), "spread raised RuntimeError: spread is broken"),
    ],
)
def test_a_set_that_fails_has_a_reason_and_is_tried_again_when_asked(
    tmp_path: Path, make: Callable[[str], FakeSetScorer], reason: str
) -> None:
    store, fakes = Store(tmp_path), WithSets(make)
    assert execute(suite(), store, backend=fakes.backend()).score_failures == 16
    assert {(row["value"], row["reason"]) for row in rows(store)} == {(None, reason)}
    again = WithSets(make)
    execute(suite(), store, backend=again.backend())
    assert again.of_sets["spread"].scored == 0
    mended = WithSets()
    assert execute(suite(), store, backend=mended.backend(), retry_failed=True).score_failures == 0
    assert mended.of_sets["spread"].scored == 16


def test_a_set_without_all_its_pictures_is_not_scored(tmp_path: Path) -> None:
    store, fakes = Store(tmp_path), WithSets(nan_prompts=["prompt number 0"])
    result = execute(suite(), store, backend=fakes.backend())
    found = rows(store)
    lost = [row for row in found if row["prompt_id"] == "p0"]
    assert {(row["value"], row["reason"]) for row in lost} == {(None, "2 of 2 pictures are missing")}
    assert fakes.of_sets["spread"].scored == len(found) - len(lost) == 12
    assert result.score_failures == 0  # pictures failed, not scores


def test_an_unsound_picture_is_made_again_before_its_set_is_scored(tmp_path: Path) -> None:
    store = Store(tmp_path)
    execute(suite(), store, backend=WithSets().backend())
    value = rows(store)[0]["value"]
    picture = sorted(tmp_path.glob("images/*/*.png"))[0]
    picture.write_bytes(picture.read_bytes()[:-20])
    fakes = WithSets(lambda name: FakeSetScorer(name, version="2"))
    execute(suite(name="demo2"), store, backend=fakes.backend())
    assert fakes.of_sets["spread"].scored == 16
    assert pq.ParquetFile(store.run("demo2").path / "sets.parquet").read().to_pylist()[0]["value"] == value


def test_one_picture_per_prompt_is_no_set(tmp_path: Path) -> None:
    store = Store(tmp_path)
    execute(suite(seeds=1), store, backend=WithSets().backend())
    assert {row["reason"] for row in rows(store)} == {"a spread needs two pictures"}


def test_the_summary_shows_set_scores_with_coverage(tmp_path: Path) -> None:
    from rich.console import Console

    store = Store(tmp_path)
    execute(suite(), store, backend=WithSets(nan_prompts=["prompt number 0"]).backend())
    summary = summarise(load_run(store.run("demo")))
    for line in summary.lines:
        value = line.values["spread", "spread"]
        assert value.coverage == 0.75 and value.interval is not None
    console = Console(width=150, record=True)
    console.print(summary_tables(summary))
    assert "spread ↑" in console.export_text()
